"""From scores and costs to a plan that keeps within a budget.

``sparsity`` is the fraction of the summed unit costs that is removed, measured against the model
as it was before any pruning. Costs here are numbers a unit; with parameters as costs, sparsity is
the fraction of encoder weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from hfprune.core.errors import PlanError
from hfprune.families.blocks import BlockKey, BlockKind
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.programme.levels import Floats, choose_levels, level_counts
from hfprune.pruning.programme.uniform import UniformShape, choose_uniform

UnitCosts = Mapping[BlockKey, float]


def plan_cost(plan: PruningPlan, costs: UnitCosts) -> float:
    """Summed cost of the units that a plan keeps."""
    return sum(len(plan.kept(key)) * cost for key, cost in costs.items())


def plan_sparsity(plan: PruningPlan, costs: UnitCosts) -> float:
    """Fraction of the cost of all units that the plan removes."""
    total = sum(len(plan.mask(key)) * cost for key, cost in costs.items())
    return 1.0 - plan_cost(plan, costs) / total if total else 0.0


def global_plan(
    scores: Mapping[BlockKey, Tensor],
    costs: UnitCosts,
    current: PruningPlan,
    sparsity: float,
    *,
    min_heads: int = 0,
    min_neurons: int = 0,
) -> PruningPlan:
    """Keep the units of highest score per cost, wherever they are, within the budget.

    A block left with fewer than ``min_heads`` / ``min_neurons`` is removed whole and what it cost
    goes to the others: crumbs of blocks cost time out of proportion. The last block is never
    removed this way.

    Args:
        scores: float ``(units,)`` a block, higher = keep.
        costs: cost of one unit a block.
        current: only units kept here can be kept; pruning never brings one back.
        sparsity: fraction to remove, in [0, 1).

    Raises:
        PlanError: if the budget leaves no unit at all.
    """
    budget = sparsity_budget(current, costs, sparsity)
    if plan_cost(current, costs) <= budget:
        return current
    density = {key: scores[key].double() / costs[key] for key in costs}
    closed: set[BlockKey] = set()
    while True:
        plan = _fill(density, costs, current, budget, closed)
        crumbs = []
        for key in costs:
            least = min_heads if key.kind == "attention" else min_neurons
            # A block that never had that many units is not a crumb of pruning's making.
            least = min(least, len(current.mask(key)))
            kept = len(plan.kept(key))
            if 0 < kept < least:
                value = float(scores[key][list(plan.kept(key))].sum())
                crumbs.append((value, key))
        alive = sum(not plan.is_removed(key) for key in costs)
        if not crumbs or alive <= 1:
            return plan
        closed.add(min(crumbs)[1])


def _fill(
    density: Mapping[BlockKey, Tensor],
    costs: UnitCosts,
    current: PruningPlan,
    budget: float,
    closed: set[BlockKey],
) -> PruningPlan:
    ranked: list[tuple[float, BlockKey, int]] = []
    for key, values in density.items():
        if key not in closed:
            ranked.extend((-float(values[i]), key, i) for i in current.kept(key))
    ranked.sort()
    masks = {key: [False] * len(current.mask(key)) for key in costs}
    spent = 0.0
    for _, key, unit in ranked:
        if spent + costs[key] <= budget:
            spent += costs[key]
            masks[key][unit] = True
    if spent == 0.0:
        raise PlanError(f"a budget of {budget:.6g} buys not one head or neuron; lower the sparsity")
    plan = current
    for key, mask in masks.items():
        plan = plan.with_block(key, mask)
    return plan


def uniform_plan(
    scores: Mapping[BlockKey, Tensor],
    costs: UnitCosts,
    current: PruningPlan,
    sparsity: float,
) -> PruningPlan:
    """Every block keeps about the same fraction, its highest-scoring units.

    Heads are few, so their number is rounded (never to none); neurons then share what is left of
    the budget by one fraction, so that the sparsity asked for is reached in total.

    Args and errors: as :func:`global_plan`.
    """
    budget = sparsity_budget(current, costs, sparsity)
    if plan_cost(current, costs) <= budget:
        return current
    keep = 1.0 - sparsity
    counts: dict[BlockKey, int] = {}
    for key in costs:
        if key.kind == "attention":
            counts[key] = max(1, math.floor(keep * len(current.mask(key)) + 0.5))
    neurons = [key for key in costs if key.kind == "ffn"]
    left = budget - sum(counts[key] * costs[key] for key in counts)
    total = sum(len(current.mask(key)) * costs[key] for key in neurons)
    fraction = left / total if total else 0.0
    if fraction < 0.0 or (not total and left < 0.0):
        raise PlanError(
            f"sparsity {sparsity} cannot be reached uniformly: one head a layer alone exceeds the "
            "budget; use allocation: global, which removes whole blocks, or lower the sparsity"
        )
    for key in neurons:
        counts[key] = math.floor(fraction * len(current.mask(key)))
    plan = current
    for key, count in counts.items():
        values = scores[key].tolist()
        ranked = sorted((-values[unit], unit) for unit in current.kept(key))
        chosen = {unit for _, unit in ranked[:count]}
        plan = plan.with_block(key, [i in chosen for i in range(len(current.mask(key)))])
    return plan


def sparsity_budget(current: PruningPlan, costs: UnitCosts, sparsity: float) -> float:
    """What the units that stay may cost; sparsity is the fraction that goes, in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise PlanError(f"sparsity must be in [0, 1), got {sparsity}")
    total = sum(len(current.mask(key)) * cost for key, cost in costs.items())
    # A hair of tolerance, so that rounding does not cost a unit at exact fractions.
    return (1.0 - sparsity) * total * (1 + 1e-12)


def budget_plan(
    scores: Mapping[BlockKey, Tensor],
    cost: Callable[[BlockKey, int], float],
    current: PruningPlan,
    budget: float,
    *,
    weights: Mapping[BlockKey, float] | None = None,
) -> PruningPlan:
    """Keep the most score for a budget of costs that are no sum over units, such as latency.

    An exact dynamic programme over the blocks: each picks how many units it keeps (its best ones;
    none removes it whole) so that the scores given up are least and the costs fit.

    Args:
        scores: float ``(units,)`` a block, higher = keep, not negative.
        cost: of a block that keeps so many units.
        current: only units kept here can be kept.
        budget: for the sum over blocks.
        weights: factor on the scores of a block; default 1.

    Raises:
        PlanError: if the budget cannot be met.
    """
    keys = list(scores)
    ranked = {key: _ranked(scores[key], current.kept(key)) for key in keys}
    counts, errors, costs = _levels(keys, ranked, scores, cost, weights)
    choice = choose_levels(errors, costs, budget)
    return _best_units(
        current, ranked, {k: c[at] for k, c, at in zip(keys, counts, choice.levels, strict=True)}
    )


def settled_plan(
    table: LatencyTable,
    current: PruningPlan,
    make: Callable[[Callable[[BlockKey, int], float], Sequence[int]], PruningPlan],
    layers: Collection[int] | None = None,
) -> PruningPlan:
    """A plan by measured times that is priced as it runs, where the last layer has its own prices.

    Graphs compute less in the layer that runs last. A plan that empties it makes another the last,
    which the plan then paid too much for: it is made again with the layers that are left, until
    the layer that was priced as the last is the last. Each is at least as good as the one before.

    Args:
        table: of measured times.
        current: what is kept now.
        make: gives the plan by the cost of a block that keeps so many units and the layers that
            may have blocks.
        layers: those that may from the start; ``None``: all.
    """
    sizes = current.sizes()
    left = [number for number, size in enumerate(sizes) if any(size)]
    if layers is not None:
        left = [number for number in left if number in layers]
    while True:
        shown = [size if number in left else (0, 0) for number, size in enumerate(sizes)]
        plan = make(table.price(shown), left)
        used = [number for number, size in enumerate(plan.sizes()) if any(size)]
        alike = table.last_attention is None and table.last_ffn is None
        if alike or not used or used[-1] == left[-1]:
            return plan
        left = [number for number in left if number <= used[-1]]


def without_layers(plan: PruningPlan, layers: Collection[int]) -> PruningPlan:
    """The plan with blocks in these layers only."""
    for key in plan.keys():
        if key.layer not in layers:
            plan = plan.with_block(key, [False] * len(plan.mask(key)))
    return plan


def alike_plan(
    scores: Mapping[BlockKey, Tensor],
    cost: Callable[[BlockKey, int], float],
    current: PruningPlan,
    budget: float,
    shape: UniformShape,
    *,
    least: Mapping[BlockKind, int] | None = None,
) -> PruningPlan:
    """As :func:`budget_plan`, of models whose layers are alike: one size for all that stay.

    Which layers stay and what they have in common is chosen by
    :func:`hfprune.pruning.programme.uniform.choose_uniform`; what is then left of the budget buys
    neurons, as many for each layer.

    Args:
        scores, cost, current, budget: as for :func:`budget_plan`.
        shape: what the family's config can say.
        least: heads and neurons that a layer that stays must have.

    Raises:
        PlanError: if nothing fits, or the layers that ``current`` keeps are not alike.
    """
    keys = [key for key in scores if not current.is_removed(key)]
    ranked = {key: _ranked(scores[key], current.kept(key)) for key in keys}
    counts, errors, costs = _levels(keys, ranked, scores, cost, None)
    choice = choose_uniform(keys, counts, errors, costs, budget, shape, least=least)
    sizes = {k: c[at] for k, c, at in zip(keys, counts, choice.levels, strict=True)}
    wide = [key for key in keys if key.kind == "ffn" and sizes[key]]
    few, most = sizes[wide[0]], min(len(ranked[key]) for key in wide)
    spent = sum(cost(key, count) for key, count in sizes.items() if key not in wide)
    while few < most:  # the largest number that still fits lies between the two
        middle = (few + most + 1) // 2
        if spent + sum(cost(key, middle) for key in wide) <= budget * (1 + 1e-12):
            few = middle
        else:
            most = middle - 1
    return _best_units(current, ranked, {**sizes, **dict.fromkeys(wide, few)})


def _ranked(values: Tensor, kept: Sequence[int]) -> list[int]:
    """Units that are kept now, the best first."""
    scores = values.tolist()
    return sorted(kept, key=lambda unit: (-scores[unit], unit))


def _levels(
    keys: Sequence[BlockKey],
    ranked: Mapping[BlockKey, Sequence[int]],
    scores: Mapping[BlockKey, Tensor],
    cost: Callable[[BlockKey, int], float],
    weights: Mapping[BlockKey, float] | None,
) -> tuple[list[tuple[int, ...]], list[Floats], list[Floats]]:
    """Of each block the numbers of units it may keep, what that gives up, and what it costs."""
    counts, errors, costs = [], [], []
    for key in keys:
        values = scores[key].tolist()
        counts.append(level_counts(len(ranked[key]), every=key.kind == "attention", ratio=0.95))
        kept = np.concatenate([[0.0], np.cumsum([max(values[u], 0.0) for u in ranked[key]])])
        factor = 1.0 if weights is None else weights[key]
        errors.append(np.array([factor * (kept[-1] - kept[count]) for count in counts[-1]]))
        costs.append(np.array([cost(key, count) for count in counts[-1]]))
    return counts, errors, costs


def _best_units(
    current: PruningPlan, ranked: Mapping[BlockKey, Sequence[int]], sizes: Mapping[BlockKey, int]
) -> PruningPlan:
    """The plan that keeps so many units of each block, its best ones."""
    plan = current
    for key, count in sizes.items():
        chosen = set(ranked[key][:count])
        plan = plan.with_block(key, [u in chosen for u in range(len(current.mask(key)))])
    return plan
