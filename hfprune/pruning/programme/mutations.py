"""The programme's errors corrected by trying choices on data (ZipLM, Kurtic et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hfprune.core.errors import PlanError
from hfprune.pruning.programme.levels import Floats, LevelChoice, check_budget, check_levels, choose

# Weights of the search stay within these factors of 1.
_WEIGHT_RANGE = (1e-3, 1e3)


@dataclass(frozen=True)
class SearchStep:
    """One evaluation of :func:`search_weights`: round 0 is the start, all weights 1."""

    round: int
    loss: float
    levels: tuple[int, ...]


@dataclass(frozen=True)
class SearchResult:
    """What :func:`search_weights` found.

    Attributes:
        levels: the best choice.
        loss: what ``evaluate`` returned for it.
        weights: (blocks,) float64, the factors on the errors that led to it.
        cost: sum of its costs.
        history: every evaluation, in order; no choice occurs twice.
        evaluations: how often ``evaluate`` was called.
        exact: whether every dynamic programme on the way was exact.
    """

    levels: tuple[int, ...]
    loss: float
    weights: Floats
    cost: float
    history: tuple[SearchStep, ...]
    evaluations: int
    exact: bool


def mutate_weights(rng: np.random.Generator, weights: Floats, *, fraction: float = 0.1) -> Floats:
    """A copy with a random subset of the weights multiplied by ``exp(N(0, 1))``.

    Args:
        rng: advanced by the call.
        weights: (blocks,) positive.
        fraction: share of the weights to change, in (0, 1]; at least one is changed. ZipLM
            (Kurtic et al. 2023) changes a tenth.

    Returns:
        (blocks,) float64, each in [1e-3, 1e3].

    Raises:
        PlanError: on weights that are not positive, or a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise PlanError(f"fraction is {fraction}; expected a number in (0, 1]")
    mutated = np.array(weights, dtype=np.float64)
    if mutated.ndim != 1 or len(mutated) == 0 or not np.all((mutated > 0) & np.isfinite(mutated)):
        raise PlanError("weights must be one-dimensional, not empty, positive and finite")
    count = max(1, round(fraction * len(mutated)))
    chosen = rng.choice(len(mutated), size=count, replace=False)
    mutated[chosen] *= np.exp(rng.standard_normal(count))
    return np.clip(mutated, *_WEIGHT_RANGE)


def search_weights(
    evaluate: Callable[[list[int]], float],
    errors: Sequence[Floats],
    costs: Sequence[Floats],
    budget: float,
    *,
    rounds: int = 300,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
    solve: Callable[[Sequence[Floats]], LevelChoice] | None = None,
) -> SearchResult:
    """Weigh the errors of the blocks so that the chosen levels do best on real batches.

    Local errors say little about how much a block matters for the model's output. As in ZipLM and
    SPDY, a factor a block corrects that: start from all ones, mutate the best factors so far
    (:func:`mutate_weights`), solve :func:`choose_levels`, and keep the mutation if its choice has
    a lower loss. Choices seen before are not evaluated again.

    Args:
        evaluate: level indices -> loss of the model so pruned, on the scoring batches; lower is
            better, not-a-number counts as worst. Its exceptions pass through.
        errors: as for :func:`choose_levels`, and >= 0.
        costs: as for :func:`choose_levels`.
        budget: as for :func:`choose_levels`.
        rounds: number of mutations, >= 0; 100 to 1000 are usual.
        seed: the same seed and the same losses give the same result.
        progress: called after each round with (round, rounds, best loss).
        solve: weighted errors -> the choice that keeps the budget, in place of
            :func:`choose_levels`: where levels of one block depend on those of others.

    Raises:
        PlanError: on malformed arrays, a budget out of reach, or if no loss was a number.
    """
    if rounds < 0:
        raise PlanError(f"rounds is {rounds}; expected a number >= 0")
    error_arrays, cost_arrays = check_levels(errors, costs)
    if any(float(array.min()) < 0 for array in error_arrays):
        raise PlanError("errors holds negative numbers; the search weighs errors, which are >= 0")
    limit = check_budget(cost_arrays, budget)
    rng = np.random.default_rng(seed)

    best_weights = np.ones(len(error_arrays))
    best_loss = math.inf
    best: LevelChoice | None = None
    seen: set[tuple[int, ...]] = set()
    history: list[SearchStep] = []
    exact = True
    for number in range(rounds + 1):
        weights = best_weights if number == 0 else mutate_weights(rng, best_weights)
        weighted = [w * array for w, array in zip(weights, error_arrays, strict=True)]
        # Coarser than the default of choose_levels: this runs hundreds of times.
        if solve is None:
            choice = choose(weighted, cost_arrays, limit, 5_000, 20_000)
        else:
            choice = solve(weighted)
        exact = exact and choice.exact
        if choice.levels not in seen:
            seen.add(choice.levels)
            loss = float(evaluate(list(choice.levels)))
            history.append(SearchStep(number, loss, choice.levels))
            # A comparison with not-a-number is false.
            if loss < best_loss:
                best, best_loss, best_weights = choice, loss, weights
        if progress is not None and number > 0:
            progress(number, rounds, best_loss)
    if best is None:
        raise PlanError(
            f"evaluate returned no finite loss in {len(history)} evaluations; check the model and"
            " the scoring batches for overflow"
        )
    return SearchResult(
        levels=best.levels,
        loss=best_loss,
        weights=best_weights,
        cost=best.cost,
        history=tuple(history),
        evaluations=len(history),
        exact=exact,
    )
