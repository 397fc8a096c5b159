"""Plans from scores: budgets kept, best units kept, crumbs removed."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import within

from hfprune.core.errors import PlanError
from hfprune.families.blocks import BlockKey
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.search import global_plan, plan_cost, plan_sparsity, uniform_plan

A0, F0, A1, F1 = (BlockKey(layer, kind) for layer in (0, 1) for kind in ("attention", "ffn"))
COSTS = {A0: 10.0, F0: 1.0, A1: 10.0, F1: 1.0}


def scores_of(a0: list[float], f0: list[float], a1: list[float], f1: list[float]):
    return {key: torch.tensor(v) for key, v in zip((A0, F0, A1, F1), (a0, f0, a1, f1), strict=True)}


DENSE = PruningPlan.dense([(2, 4), (2, 4)])  # total cost 48


def test_global_keeps_the_densest_by_hand() -> None:
    scores = scores_of([50, 5], [1, 2, 3, 4], [20, 1], [9, 8, 7, 0])
    # densities: heads 5, .5 | 2, .1; neurons as given. Budget 24: 9 8 7 (head 5) 4 3 2 -> 16, the
    # head of density 2 (10) no longer fits; the neurons of density 2, 1 and 0 still do.
    plan = global_plan(scores, COSTS, DENSE, 0.5)
    assert plan.kept(A0) == (0,)
    assert plan.kept(F1) == (0, 1, 2, 3)
    assert plan.kept(F0) == (0, 1, 2, 3)
    assert plan.kept(A1) == ()
    assert plan_cost(plan, COSTS) <= 24
    assert plan_sparsity(plan, COSTS) >= 0.5


@given(
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
    st.floats(0, 0.85),
    st.sampled_from(["global", "uniform"]),
)
def test_budget_is_never_exceeded_and_nothing_returns(
    values: list[float], sparsity: float, kind: str
) -> None:
    scores = scores_of(values[:2], values[2:6], values[6:8], values[8:])
    make = global_plan if kind == "global" else uniform_plan
    try:
        first = make(scores, COSTS, DENSE, sparsity / 2)
        plan = make(scores, COSTS, first, sparsity)
    except PlanError:
        assert kind == "uniform"
        return
    assert plan_cost(plan, COSTS) <= (1 - sparsity) * 48 + 1e-6
    assert within(plan, first)


def test_global_is_optimal_for_equal_costs() -> None:
    """With unit costs the greedy choice is the best subset; compare with all subsets."""
    costs = {key: 1.0 for key in COSTS}
    scores = scores_of([0.3, 0.9], [0.1, 0.7, 0.2, 0.4], [0.8, 0.05], [0.6, 0.5, 0.15, 0.25])
    plan = global_plan(scores, costs, DENSE, 0.5)
    mine = sum(float(scores[key][list(plan.kept(key))].sum()) for key in costs)
    flat = torch.cat([scores[key] for key in costs]).tolist()
    best = max(sum(chosen) for chosen in itertools.combinations(flat, 6))
    assert mine == pytest.approx(best)


def test_crumbs_are_removed_whole_and_their_budget_is_spent() -> None:
    scores = scores_of([60, 50], [9, 1, 1, 1], [1, 1], [8, 7, 6, 5])
    # Without a minimum the 48 * 0.5 = 24 go to both heads of layer 0 and the four best neurons.
    plain = global_plan(scores, COSTS, DENSE, 0.5)
    assert plain.kept(F0) == (0,)
    plan = global_plan(scores, COSTS, DENSE, 0.5, min_neurons=3)
    assert plan.is_removed(F0)
    assert plan.kept(F1) == (0, 1, 2, 3)


def test_last_block_is_never_removed() -> None:
    scores = scores_of([0, 0], [1, 0, 0, 0], [0, 0], [0, 0, 0, 0])
    plan = global_plan(scores, COSTS, DENSE, 0.97, min_heads=2, min_neurons=4)
    assert plan.sizes() == ((0, 1), (0, 0))


def test_uniform_by_hand() -> None:
    scores = scores_of([1, 2], [4, 3, 2, 1], [2, 1], [1, 2, 3, 4])
    plan = uniform_plan(scores, COSTS, DENSE, 0.5)
    assert plan.kept(A0) == (1,)
    assert plan.kept(A1) == (0,)
    assert plan.kept(F0) == (0, 1)
    assert plan.kept(F1) == (2, 3)


def test_errors() -> None:
    scores = scores_of([1, 2], [4, 3, 2, 1], [2, 1], [1, 2, 3, 4])
    with pytest.raises(PlanError, match=r"sparsity must be in \[0, 1\), got 1"):
        global_plan(scores, COSTS, DENSE, 1.0)
    with pytest.raises(PlanError, match="buys not one head or neuron"):
        global_plan(scores, COSTS, DENSE, 0.999)
    with pytest.raises(PlanError, match="cannot be reached uniformly: one head a layer alone"):
        uniform_plan(scores, COSTS, DENSE, 0.9)
