"""Choosing one level per block under a budget: an exact dynamic programme.

A *level* is one way to leave a block: so many heads or neurons, or none. Each has an error (what
it does to the output) and a cost (what it takes to run, for example measured milliseconds). All
functions are pure and deterministic: arrays in, choices out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import PlanError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class LevelChoice:
    """A level for every block.

    Attributes:
        levels: index into the block's ``errors`` and ``costs``, one a block.
        error: sum of the chosen errors.
        cost: sum of the chosen costs, within the budget.
        exact: True where no choice within the budget has a smaller error (up to rounding); False
            where the search had to be thinned out.
    """

    levels: tuple[int, ...]
    error: float
    cost: float
    exact: bool


@dataclass(frozen=True)
class _Block:
    """The levels of a block that no other level beats: costs ascend, errors descend strictly."""

    levels: Ints
    costs: Floats
    errors: Floats


def level_counts(units: int, *, every: bool, ratio: float = 0.9, least: int = 8) -> tuple[int, ...]:
    """Numbers of kept units to consider: all, some between, 0.

    Heads are few, so ``every`` number of them is a level. Neurons follow ``units * ratio^i`` down
    to ``least`` (the grid of ZipLM).

    >>> level_counts(4, every=True)
    (4, 3, 2, 1, 0)
    >>> level_counts(100, every=False, ratio=0.5, least=20)
    (100, 50, 25, 0)
    """
    if every:
        return tuple(range(units, -1, -1))
    counts = []
    value = float(units)
    while round(value) >= max(least, 1):
        counts.append(round(value))
        value *= ratio
    return (*dict.fromkeys([units, *counts]), 0)


def choose_levels(
    errors: Sequence[Floats],
    costs: Sequence[Floats],
    budget: float,
    *,
    resolution: int = 10_000,
    max_states: int = 50_000,
) -> LevelChoice:
    """Pick one level a block: least total error with the total cost within ``budget``.

    A dynamic programme over the blocks, as in ZipLM (Kurtic et al. 2023) and SPDY (Frantar &
    Alistarh 2022), but on real-valued costs: it carries every (cost, error) sum that no other sum
    beats on both, so nothing is rounded to a grid. Sums that provably cannot lead to the best
    choice are dropped: a Lagrange multiplier gives a lower bound on the error still to come, a
    greedy choice an upper bound on the best. Where more than ``max_states`` sums remain, they are
    thinned to at most ``resolution`` cost buckets, each represented by its most expensive (so
    least erroneous) sum with its true cost: the budget still holds, and the result is no worse
    than the best choice within the budget less one bucket width a block.

    Worked value: errors ``[[0, 1], [0, 3]]``, costs ``[[5, 1], [5, 1]]`` and budget 6 give levels
    ``(1, 0)``: error 1, cost 6.

    Args:
        errors: one (levels,) array a block, finite, in any order.
        costs: the same shapes, finite and >= 0.
        budget: in the unit of the costs. A total above it by no more than the rounding of its
            own summation counts as within.
        resolution: buckets of the thinning, >= 2.
        max_states: sums kept before thinning, >= ``resolution``.

    Returns:
        The choice. Among choices of equal error, one of least cost.

    Raises:
        PlanError: on malformed arrays, or if even the cheapest levels exceed the budget.
    """
    if resolution < 2 or max_states < resolution:
        raise PlanError(
            f"resolution is {resolution} and max_states {max_states}; expected"
            " 2 <= resolution <= max_states"
        )
    error_arrays, cost_arrays = check_levels(errors, costs)
    limit = check_budget(cost_arrays, budget)
    return choose(error_arrays, cost_arrays, limit, resolution, max_states)


def choose(
    errors: list[Floats], costs: list[Floats], limit: float, resolution: int, max_states: int
) -> LevelChoice:
    blocks = [_undominated(e, c) for e, c in zip(errors, costs, strict=True)]
    greedy, multiplier = _greedy(blocks, limit)
    best_known = math.fsum(block.errors[i] for block, i in zip(blocks, greedy, strict=True))
    # Rounding of the sums must never drop the best choice.
    tolerance = 1e-12 * math.fsum(float(np.abs(block.errors).max()) for block in blocks)

    # Lower bound on what blocks i.. add to `error + lambda * cost`, for a few lambda
    multipliers = np.array([0.0, 0.5, 1.0, 2.0]) * multiplier
    bounds = np.zeros((len(blocks) + 1, len(multipliers)))
    cheapest = np.zeros(len(blocks) + 1)
    for i in range(len(blocks) - 1, -1, -1):
        block = blocks[i]
        penalised = block.errors[:, None] + block.costs[:, None] * multipliers
        bounds[i] = bounds[i + 1] + penalised.min(0)
        cheapest[i] = cheapest[i + 1] + block.costs[0]

    state_costs, state_errors = np.zeros(1), np.zeros(1)
    parents: list[Ints] = []
    picks: list[Ints] = []
    exact = True
    for i, block in enumerate(blocks):
        size = len(block.levels)
        total_costs = (state_costs[:, None] + block.costs).ravel()
        total_errors = (state_errors[:, None] + block.errors).ravel()
        spare = limit - total_costs
        possible = spare >= cheapest[i + 1]
        rest = np.full(len(spare), -np.inf)
        for factor, bound in zip(multipliers, bounds[i + 1], strict=True):
            np.maximum(rest, bound - factor * spare, out=rest)
        least = total_errors + rest
        index = np.flatnonzero(possible & (least <= best_known + tolerance))
        index = index[np.lexsort((total_errors[index], total_costs[index]))]
        index = index[_falling(total_errors[index])]
        if len(index) > max_states:
            exact = False
            index = index[_thin(total_costs[index], resolution)]
        if len(index) == 0:
            # Thinning dropped every sum that could still beat the greedy choice.
            break
        parents.append(index // size)
        picks.append(index % size)
        state_costs, state_errors = total_costs[index], total_errors[index]

    chosen = greedy
    if len(picks) == len(blocks) and state_errors[-1] <= best_known + tolerance:
        state = len(state_errors) - 1
        chosen = []
        for parent, pick in zip(reversed(parents), reversed(picks), strict=True):
            chosen.append(int(pick[state]))
            state = int(parent[state])
        chosen.reverse()
    levels = tuple(int(block.levels[i]) for block, i in zip(blocks, chosen, strict=True))
    return LevelChoice(
        levels=levels,
        error=math.fsum(e[level] for e, level in zip(errors, levels, strict=True)),
        cost=math.fsum(c[level] for c, level in zip(costs, levels, strict=True)),
        exact=exact,
    )


def _undominated(errors: Floats, costs: Floats) -> _Block:
    index = np.lexsort((errors, costs))
    index = index[_falling(errors[index])]
    return _Block(index.astype(np.int64), costs[index], errors[index])


def _falling(values: Floats) -> Mask:
    """True where a value is below every earlier one."""
    keep = np.ones(len(values), dtype=np.bool_)
    if len(values) > 1:
        keep[1:] = values[1:] < np.minimum.accumulate(values)[:-1]
    return keep


def _thin(costs: Floats, buckets: int) -> Ints:
    """Indices of the dearest of each bucket of ascending costs, and of the cheapest of all."""
    width = (costs[-1] - costs[0]) / (buckets - 1)
    bucket = np.floor((costs - costs[0]) / width) if width > 0 else np.zeros(len(costs))
    last = np.append(bucket[1:] != bucket[:-1], True)
    last[0] = True
    return np.flatnonzero(last).astype(np.int64)


def _greedy(blocks: list[_Block], limit: float) -> tuple[list[int], float]:
    """A choice within the limit, and the multiplier (error per cost) where the limit binds.

    Starts from the cheapest levels and buys the steps along each block's lower convex hull, the
    best bargain first; a block stops at its first step that no longer fits.
    """
    steps: list[tuple[float, int, int]] = []  # (minus error saved per cost, block, next level)
    for number, block in enumerate(blocks):
        at = 0
        while at + 1 < len(block.levels):
            bought = block.costs[at + 1 :] - block.costs[at]
            rate = (block.errors[at] - block.errors[at + 1 :]) / bought
            # The furthest of equal bargains: fewer steps on a straight piece
            best = len(rate) - 1 - int(np.argmax(rate[::-1]))
            steps.append((-float(rate[best]), number, at + 1 + best))
            at += 1 + best
    steps.sort()
    chosen = [0] * len(blocks)
    stopped = [False] * len(blocks)
    multiplier = 0.0
    spent = math.fsum(float(block.costs[0]) for block in blocks)
    for minus_rate, number, level in steps:
        if stopped[number]:
            continue
        block = blocks[number]
        extra = float(block.costs[level] - block.costs[chosen[number]])
        if spent + extra <= limit:
            chosen[number] = level
            spent += extra
        else:
            stopped[number] = True
            multiplier = max(multiplier, -minus_rate)
    return chosen, multiplier


def check_levels(
    errors: Sequence[Floats], costs: Sequence[Floats]
) -> tuple[list[Floats], list[Floats]]:
    if len(errors) == 0 or len(errors) != len(costs):
        raise PlanError(
            f"got errors of {len(errors)} blocks and costs of {len(costs)}; expected as many, and"
            " at least one"
        )
    error_arrays = [np.asarray(array, dtype=np.float64) for array in errors]
    cost_arrays = [np.asarray(array, dtype=np.float64) for array in costs]
    for number, (error, cost) in enumerate(zip(error_arrays, cost_arrays, strict=True)):
        if error.ndim != 1 or error.shape != cost.shape or len(error) == 0:
            raise PlanError(
                f"block {number} has errors of shape {error.shape} and costs of shape"
                f" {cost.shape}; expected one number each a level, and at least one level"
            )
        if not np.isfinite(error).all() or not np.isfinite(cost).all() or float(cost.min()) < 0:
            raise PlanError(
                f"block {number} holds errors or costs that are not finite, or negative costs;"
                " leave out levels that cannot be chosen"
            )
    return error_arrays, cost_arrays


def check_budget(costs: list[Floats], budget: float) -> float:
    """The budget plus the rounding of a sum that reaches it exactly."""
    if math.isnan(budget):
        raise PlanError("budget is not a number; expected a total cost")
    # No choice costs more than the dearest levels: an endless budget becomes a finite one.
    budget = min(budget, math.fsum(float(array.max()) for array in costs))
    limit = budget + 4.0 * len(costs) * _EPSILON * abs(budget)
    least = math.fsum(float(array.min()) for array in costs)
    if least > limit:
        raise PlanError(
            f"budget is {budget:g}, but the cheapest level of every block costs {least:g} in"
            f" total; raise the budget to at least {least:g} or add cheaper levels (such as"
            " removing whole blocks)"
        )
    return limit
