"""Level choices against exhaustive search and an integer-cost dynamic programme."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfprune.core.errors import PlanError
from hfprune.pruning.programme.levels import choose_levels
from hfprune.pruning.programme.mutations import mutate_weights, search_weights

Arrays = list[np.ndarray]


def exhaustive(errors: Arrays, costs: Arrays, budget: float) -> tuple[float, float]:
    """Least error within the budget, and the least cost that reaches it."""
    return min(
        (
            math.fsum(e[i] for e, i in zip(errors, levels, strict=True)),
            math.fsum(c[i] for c, i in zip(costs, levels, strict=True)),
        )
        for levels in itertools.product(*(range(len(e)) for e in errors))
        if math.fsum(c[i] for c, i in zip(costs, levels, strict=True)) <= budget
    )


def random_blocks(seed: int, blocks: int, levels: int) -> tuple[Arrays, Arrays]:
    """Blocks whose error falls with cost, roughly, in shuffled order."""
    rng = np.random.default_rng(seed)
    errors, costs = [], []
    for _ in range(blocks):
        kept = rng.permutation(np.linspace(0, 1, levels))
        errors.append(rng.uniform(0.1, 3) * (1 - kept) ** 2 * rng.uniform(0.8, 1.2, levels))
        costs.append(kept * rng.uniform(0.5, 2) * rng.uniform(0.9, 1.1, levels))
    return errors, costs


# --------------------------------------------------------------------------- choose_levels


def test_the_worked_value() -> None:
    choice = choose_levels(
        [np.array([0.0, 1.0]), np.array([0.0, 3.0])], [np.array([5.0, 1.0])] * 2, 6.0
    )
    assert choice.levels == (1, 0)
    assert (choice.error, choice.cost, choice.exact) == (1.0, 6.0, True)


# Eighths add up without rounding and often tie.
eighths = st.integers(0, 24).map(lambda value: value / 8)
block = st.integers(1, 5).flatmap(
    lambda size: st.tuples(
        st.lists(eighths, min_size=size, max_size=size),
        st.lists(eighths, min_size=size, max_size=size),
    )
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(blocks=st.lists(block, min_size=1, max_size=5), fraction=st.floats(0, 1))
def test_choice_equals_exhaustive_search_with_ties(
    blocks: list[tuple[list[float], list[float]]], fraction: float
) -> None:
    errors = [np.array(error) for error, _ in blocks]
    costs = [np.array(cost) for _, cost in blocks]
    low = sum(cost.min() for cost in costs)
    high = sum(cost.max() for cost in costs)
    budget = low + math.floor(fraction * (high - low) * 8) / 8  # often met exactly
    choice = choose_levels(errors, costs, budget)
    assert (choice.error, choice.cost) == exhaustive(errors, costs, budget)
    assert choice.exact
    assert choice.cost == sum(c[i] for c, i in zip(costs, choice.levels, strict=True))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100_000),
    blocks=st.integers(1, 6),
    levels=st.integers(1, 5),
    fraction=st.floats(0.01, 1.1),
    opposed=st.booleans(),
)
def test_choice_equals_exhaustive_search_on_real_costs(
    seed: int, blocks: int, levels: int, fraction: float, opposed: bool
) -> None:
    errors, costs = random_blocks(seed, blocks, levels)
    if opposed:  # error = constant - cost: no sum beats another, bounds hardly help
        errors = [3.0 - cost for cost in costs]
    low = sum(cost.min() for cost in costs)
    budget = low + fraction * (sum(cost.max() for cost in costs) - low)
    choice = choose_levels(errors, costs, budget)
    error, _ = exhaustive(errors, costs, budget * (1 + 1e-14))
    assert choice.error == pytest.approx(error, rel=1e-12, abs=1e-12)
    assert choice.cost <= budget * (1 + 1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_many_blocks_equal_an_integer_cost_programme(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, real_costs = random_blocks(seed, 48, 40)
    whole = [np.round(cost * 300).astype(int) for cost in real_costs]
    budget = int(rng.uniform(0.1, 0.6) * sum(cost.max() for cost in whole))
    table = np.zeros(budget + 1)  # least error with total cost <= index
    for error, cost in zip(errors, whole, strict=True):
        after = np.full(budget + 1, np.inf)
        for e, c in zip(error, cost, strict=True):
            if c <= budget:
                after[c:] = np.minimum(after[c:], table[: budget + 1 - c] + e)
        table = after
    choice = choose_levels(errors, [cost / 512 for cost in whole], budget / 512)
    assert choice.exact
    assert choice.error == pytest.approx(float(table[budget]), rel=1e-12)
    assert choice.cost <= budget / 512


def test_a_budget_that_only_the_cheapest_levels_meet_is_met() -> None:
    # 0.1 + 0.2 + 0.3 depends on the order of summation.
    costs = [np.array([1.0, 0.1]), np.array([0.2, 1.0]), np.array([0.3, 1.0])]
    errors = [np.array([0.0, 1.0])] * 3
    for order in itertools.permutations([0.1, 0.2, 0.3]):
        choice = choose_levels(errors, costs, sum(order))
        assert choice.levels == (1, 0, 0)
    tenths = [np.array([0.1])] * 10  # ten of them, added one by one, fall short of 1
    assert choose_levels(tenths, tenths, sum([0.1] * 10)).levels == (0,) * 10


def test_an_endless_budget_takes_the_best_of_everything() -> None:
    errors, costs = random_blocks(3, 4, 5)
    choice = choose_levels(errors, costs, math.inf)
    assert choice.levels == tuple(int(error.argmin()) for error in errors)


def test_thinned_out_search_says_so_and_stays_within_the_budget() -> None:
    rng = np.random.default_rng(5)
    costs = [rng.random(4) for _ in range(7)]
    errors = [2.0 - cost + 1e-3 * rng.random(4) for cost in costs]
    low, high = sum(c.min() for c in costs), sum(c.max() for c in costs)
    for fraction in (0.02, 0.3, 0.7):
        budget = low + fraction * (high - low)
        choice = choose_levels(errors, costs, budget, resolution=40, max_states=40)
        assert choice.cost <= budget
        # No worse than the best within the budget less one bucket a block
        reduced = budget - 7 * (high - low) / 39
        if reduced >= low:
            assert not choice.exact
            assert choice.error <= exhaustive(errors, costs, reduced)[0] + 1e-12
        assert choice.error >= exhaustive(errors, costs, budget)[0] - 1e-12


def test_an_unreachable_budget_names_the_smallest_total() -> None:
    costs = [np.array([2.0, 1.5]), np.array([0.75])]
    errors = [np.array([0.0, 1.0]), np.array([0.0])]
    with pytest.raises(
        PlanError,
        match=r"budget is 2, but the cheapest level of every block costs 2.25 in total; raise the"
        r" budget to at least 2.25 or add cheaper levels",
    ):
        choose_levels(errors, costs, 2.0)


def test_malformed_levels_are_refused() -> None:
    one = [np.array([1.0])]
    with pytest.raises(PlanError, match="errors of 1 blocks and costs of 2"):
        choose_levels(one, one * 2, 1.0)
    with pytest.raises(PlanError, match="at least one"):
        choose_levels([], [], 1.0)
    with pytest.raises(PlanError, match=r"block 0 has errors of shape \(1,\) and costs of shape"):
        choose_levels(one, [np.array([1.0, 2.0])], 1.0)
    with pytest.raises(PlanError, match="block 0 holds errors or costs that are not finite"):
        choose_levels([np.array([np.inf])], one, 1.0)
    with pytest.raises(PlanError, match="negative costs"):
        choose_levels(one, [np.array([-1.0])], 1.0)
    with pytest.raises(PlanError, match="budget is not a number"):
        choose_levels(one, one, math.nan)
    with pytest.raises(PlanError, match="resolution is 1 .*expected 2 <= resolution"):
        choose_levels(one, one, 1.0, resolution=1)


# -------------------------------------------------------------------------- search_weights


def test_mutation_changes_a_tenth_and_stays_positive() -> None:
    weights = np.ones(40)
    mutated = mutate_weights(np.random.default_rng(0), weights)
    assert int((mutated != 1).sum()) == 4
    assert (mutated > 0).all()
    assert (weights == 1).all()
    np.testing.assert_array_equal(mutated, mutate_weights(np.random.default_rng(0), weights))
    assert int((mutate_weights(np.random.default_rng(1), np.ones(3)) != 1).sum()) == 1
    extreme = mutate_weights(np.random.default_rng(2), np.full(9, 1e3), fraction=1.0)
    assert extreme.max() == 1e3


def test_mutation_refuses_what_is_not_a_weight() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(PlanError, match="positive and finite"):
        mutate_weights(rng, np.array([1.0, 0.0]))
    with pytest.raises(PlanError, match="fraction is 0"):
        mutate_weights(rng, np.ones(2), fraction=0)


def hidden_loss(errors: Arrays, seed: int = 0) -> tuple[Arrays, list[list[int]]]:
    """Errors as the model feels them: a factor a block that the search does not know."""
    factors = np.exp(np.random.default_rng(seed).normal(0, 1.5, len(errors)))
    return [f * e for f, e in zip(factors, errors, strict=True)], []


def test_search_finds_what_the_errors_alone_do_not_show() -> None:
    errors, costs = random_blocks(7, 6, 6)
    felt, calls = hidden_loss(errors)
    budget = 0.4 * sum(cost.max() for cost in costs)

    def evaluate(levels: list[int]) -> float:
        calls.append(levels)
        return math.fsum(e[i] for e, i in zip(felt, levels, strict=True))

    seen: list[tuple[int, int, float]] = []
    result = search_weights(
        evaluate, errors, costs, budget, rounds=300, progress=lambda *state: seen.append(state)
    )
    best = choose_levels(felt, costs, budget).error
    start = result.history[0]
    assert start.round == 0
    assert start.levels == choose_levels(errors, costs, budget).levels
    assert result.loss < start.loss
    assert result.loss == pytest.approx(best, rel=0.05)
    assert result.loss == min(step.loss for step in result.history)
    assert result.cost <= budget
    assert result.exact
    # Nothing is evaluated twice, and the history is complete.
    assert len({tuple(levels) for levels in calls}) == len(calls) == result.evaluations
    assert [list(step.levels) for step in result.history] == calls
    assert [state[:2] for state in seen] == [(i, 300) for i in range(1, 301)]
    assert seen[-1][2] == result.loss
    # The weights lead to the levels.
    weighted = [w * e for w, e in zip(result.weights, errors, strict=True)]
    assert choose_levels(weighted, costs, budget).levels == result.levels


def test_search_depends_on_the_seed_alone() -> None:
    errors, costs = random_blocks(8, 5, 5)
    felt, _ = hidden_loss(errors, 1)

    def evaluate(levels: list[int]) -> float:
        return math.fsum(e[i] for e, i in zip(felt, levels, strict=True))

    first, again, other = (
        search_weights(evaluate, errors, costs, 2.0, rounds=40, seed=seed) for seed in (3, 3, 4)
    )
    assert first.history == again.history
    np.testing.assert_array_equal(first.weights, again.weights)
    assert first.history != other.history


def test_search_without_rounds_evaluates_the_plain_choice() -> None:
    errors, costs = random_blocks(9, 3, 4)
    result = search_weights(lambda levels: 1.5, errors, costs, 2.0, rounds=0)
    assert result.levels == choose_levels(errors, costs, 2.0).levels
    assert (result.loss, result.evaluations) == (1.5, 1)


def test_search_passes_over_losses_that_are_not_numbers() -> None:
    errors, costs = random_blocks(10, 5, 5)
    losses = itertools.chain([math.nan, 2.0], itertools.repeat(math.nan))
    result = search_weights(lambda levels: next(losses), errors, costs, 2.0, rounds=50)
    assert result.loss == 2.0
    assert result.levels == result.history[1].levels
    with pytest.raises(PlanError, match="no finite loss in 1 evaluations.*overflow"):
        search_weights(lambda levels: math.nan, errors, costs, 2.0, rounds=0)


def test_search_can_be_interrupted() -> None:
    errors, costs = random_blocks(11, 5, 5)

    def evaluate(levels: list[int]) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_weights(evaluate, errors, costs, 2.0)


def test_search_refuses_negative_errors_and_rounds() -> None:
    one = [np.array([1.0])]
    with pytest.raises(PlanError, match="rounds is -1"):
        search_weights(lambda levels: 0.0, one, one, 1.0, rounds=-1)
    with pytest.raises(PlanError, match="errors holds negative numbers"):
        search_weights(lambda levels: 0.0, [np.array([-1.0])], one, 1.0)
    with pytest.raises(PlanError, match="raise the budget to at least 1"):
        search_weights(lambda levels: 0.0, one, one, 0.5)
