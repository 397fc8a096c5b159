"""Plans are priced as they run: the layer that runs last has prices of its own."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import torch
from hypothesis import given
from hypothesis import strategies as st

from hfprune.families.blocks import BlockKey
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.search import budget_plan, settled_plan, without_layers

DENSE = PruningPlan.dense([(2, 2)] * 3)
TABLE = LatencyTable(
    batch_size=1,
    sequence_length=8,
    threads=1,
    baseline_ms=100.0,
    fixed_ms=1.0,
    attention=((0, 0.0), (1, 4.0), (2, 7.0)),
    ffn=((0, 0.0), (1, 3.0), (2, 5.0)),
    last_attention=((0, 0.0), (1, 1.0), (2, 1.5)),
    last_ffn=((0, 0.0), (1, 0.5), (2, 1.0)),
)


def _scores(values: list[float]) -> dict[BlockKey, torch.Tensor]:
    pairs = zip(values[::2], values[1::2], strict=True)
    return {key: torch.tensor(pair) for key, pair in zip(DENSE.keys(), pairs, strict=True)}


def _plan(
    scores: dict[BlockKey, torch.Tensor], budget: float, layers: Collection[int] | None = None
) -> PruningPlan:
    return settled_plan(
        TABLE,
        DENSE,
        lambda cost, some: budget_plan(scores, cost, without_layers(DENSE, some), budget),
        layers,
    )


def _score(plan: PruningPlan, scores: dict[BlockKey, torch.Tensor]) -> float:
    return sum(float(scores[key][list(plan.kept(key))].sum()) for key in plan.keys())


def _ms(plan: PruningPlan) -> float:
    return TABLE.total_ms(plan.sizes()) - TABLE.fixed_ms


def test_what_an_emptied_last_layer_leaves_is_spent() -> None:
    """Layer 2 is worth nothing, so layer 1 runs last and costs a fifth of what it did."""
    scores = _scores([9, 8, 5, 4, 6, 3, 5, 4, 0, 0, 0, 0])
    first = budget_plan(scores, TABLE.price(DENSE.sizes()), DENSE, 12.0)
    plan = _plan(scores, 12.0)
    assert not any(first.sizes()[2])
    assert _ms(first) < _ms(plan) <= 12.0
    assert plan.sizes() == ((1, 2), (2, 2), (0, 0))
    assert _ms(plan) == 4.0 + 5.0 + 1.5 + 1.0


def test_a_single_layer_is_the_last_one() -> None:
    scores = _scores([1.0] * 12)
    assert _plan(scores, 2.5, layers=[0]).sizes() == ((2, 2), (0, 0), (0, 0))


def test_a_graph_whose_last_layer_is_as_the_others_is_planned_once() -> None:
    calls = []

    def make(cost: object, layers: Collection[int]) -> PruningPlan:
        calls.append(list(layers))
        return without_layers(DENSE, [0])

    same = LatencyTable(1, 8, 1, 100.0, 1.0, TABLE.attention, TABLE.ffn)
    assert settled_plan(same, DENSE, make).sizes() == ((2, 2), (0, 0), (0, 0))
    assert calls == [[0, 1, 2]]


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12), st.floats(0.1, 30))
def test_the_budget_holds_as_the_model_runs_and_nothing_is_lost(
    values: list[float], budget: float
) -> None:
    scores = _scores(values)
    plan = _plan(scores, budget)
    assert _ms(plan) <= budget + 1e-9
    first = budget_plan(scores, TABLE.price(DENSE.sizes()), DENSE, budget)
    assert _score(plan, scores) >= _score(first, scores) - 1e-6
    # Against every plan whose last layer is the same, each taking its best units.
    sizes = plan.sizes()
    last = max((n for n, size in enumerate(sizes) if any(size)), default=-1)
    best = 0.0
    layer = [(heads, neurons) for heads in (0, 1, 2) for neurons in (0, 2)]  # few: all or none
    for pairs in itertools.product(layer, repeat=last + 1):
        if last < 0 or not any(pairs[-1]):
            continue
        whole = [*pairs, *[(0, 0)] * (3 - len(pairs))]
        if TABLE.total_ms(whole) - TABLE.fixed_ms <= budget:
            units = [n for pair in whole for n in pair]
            kept = zip(scores.values(), units, strict=True)
            best = max(best, sum(float(v.sort(descending=True).values[:n].sum()) for v, n in kept))
    assert _score(plan, scores) >= best - 1e-5
