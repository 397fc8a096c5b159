"""Choosing levels that all layers share: what a config without a word of hfprune can say.

A layer stays, with as many heads and neurons as every other that stays, or leaves altogether. For
each pair of common sizes the best set of layers is a programme of two levels a group of layers
(:func:`hfprune.pruning.programme.levels.choose`); the best of all pairs is taken. All functions
are pure and deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hfprune.core.errors import PlanError
from hfprune.families.blocks import KINDS, UNIT_NAMES, BlockKey, BlockKind
from hfprune.pruning.programme.levels import Floats, LevelChoice, choose


@dataclass(frozen=True)
class UniformShape:
    """What a stock config allows of a model, as its family knows it.

    Attributes:
        groups: layers that can leave, each with those that leave with it; others stay.
        heads: numbers of heads that a layer may have besides all that it has.
    """

    groups: tuple[tuple[int, ...], ...]
    heads: tuple[int, ...] = ()

    def allows(self, layers: Sequence[int], present: Sequence[int]) -> bool:
        """Whether of the layers that are there these may be the ones that stay."""
        stays = set(layers)
        free = {layer for group in self.groups for layer in group}
        fixed = all(layer in stays or layer in free for layer in present)
        return fixed and all(
            len(stays.intersection(group)) in (0, len(set(group).intersection(present)))
            for group in self.groups
        )


@dataclass(frozen=True)
class StockForm:
    """Sizes that a stock config can say: which layers stay, and what each of them has."""

    layers: tuple[int, ...]
    heads: int
    neurons: int


def stock_form(
    sizes: Sequence[tuple[int, int]], full_heads: int, shape: UniformShape
) -> StockForm | None:
    """How a stock config says these sizes; ``None`` if it cannot.

    >>> shape = UniformShape(groups=((0,), (1,), (2,)))
    >>> stock_form([(4, 24), (0, 0), (4, 24)], 4, shape)
    StockForm(layers=(0, 2), heads=4, neurons=24)
    >>> stock_form([(4, 24), (0, 24), (4, 24)], 4, shape) is None
    True

    Args:
        sizes: ``(heads, neurons)`` that each layer keeps.
        full_heads: heads of a layer as the config says now.
        shape: what the family allows.
    """
    layers = tuple(index for index, layer in enumerate(sizes) if any(layer))
    kept = {tuple(sizes[index]) for index in layers}
    if len(kept) != 1:
        return None
    ((heads, neurons),) = kept
    if not heads or not neurons or heads not in (full_heads, *shape.heads):
        return None
    if not shape.allows(layers, range(len(sizes))):
        return None
    return StockForm(layers, heads, neurons)


def choose_uniform(
    keys: Sequence[BlockKey],
    counts: Sequence[Sequence[int]],
    errors: Sequence[Floats],
    costs: Sequence[Floats],
    budget: float,
    shape: UniformShape,
    *,
    layers: Sequence[int] | None = None,
    least: Mapping[BlockKind, int] | None = None,
) -> LevelChoice:
    """Least total error within a budget among models whose layers are alike.

    Worked value: two layers of one head and levels of 8, 4 or no neurons, whose feed-forward costs
    a unit a neuron and attention nothing, under a budget of 8. Either one layer stays whole or both
    keep 4: what loses less is taken.

    Args:
        keys: of the blocks; every layer that has one has both kinds.
        counts: units kept at each level of a block, 0 (removed) among them.
        errors, costs: as for :func:`choose_levels`, a number a level.
        budget: of the summed costs.
        shape: what the family's config can say.
        layers: only these may stay.
        least: heads and neurons that a layer that stays must have, at the least.

    Returns:
        A level of each block, as :func:`choose_levels` gives them. At least one layer stays.

    Raises:
        PlanError: a layer has one block alone, layers have no size in common, or nothing fits.
    """
    blocks = _by_layer(keys)
    sizes = _common_sizes(keys, counts, shape, least or {})
    groups = _groups(blocks, shape, layers)
    limit = budget * (1 + 1e-12)
    gone = [levels.index(0) for levels in map(list, counts)]
    best: LevelChoice | None = None
    cheapest = math.inf
    for heads in sizes["attention"]:
        for neurons in sizes["ffn"]:
            here = [
                list(levels).index(heads if key.kind == "attention" else neurons)
                for key, levels in zip(keys, counts, strict=True)
            ]
            found, cost = _best_layers(blocks, groups, here, gone, errors, costs, limit, best)
            cheapest = min(cheapest, cost)
            if found is not None:
                best = found
    if best is None:
        raise PlanError(
            f"budget is {budget:g}, but the smallest model whose layers are alike costs "
            f"{cheapest:g}; ask for less, or let layers differ (pruning.layout: uneven)"
        )
    return best


def _by_layer(keys: Sequence[BlockKey]) -> dict[int, tuple[int, ...]]:
    """Places of the blocks of each layer that has any."""
    found: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key.layer, []).append(place)
    for layer, places in found.items():
        if len(places) != len(KINDS):
            only = keys[places[0]].kind
            raise PlanError(
                f"layer {layer} has an {only} block alone, so it cannot be like the others: start "
                "from a model whose layers are whole, or let layers differ (pruning.layout: uneven)"
            )
    return {layer: tuple(places) for layer, places in found.items()}


def _common_sizes(
    keys: Sequence[BlockKey],
    counts: Sequence[Sequence[int]],
    shape: UniformShape,
    least: Mapping[BlockKind, int],
) -> dict[BlockKind, list[int]]:
    """Numbers of units that every layer could keep, largest first."""
    found: dict[BlockKind, list[int]] = {}
    for kind in KINDS:
        levels = [set(c) for key, c in zip(keys, counts, strict=True) if key.kind == kind]
        common = set.intersection(*levels) - {0} if levels else set()
        if kind == "attention":
            most = {max(level) for level in levels}
            common &= set(shape.heads) | (most if len(most) == 1 else set())
        floor = min(least.get(kind, 0), max(common, default=0))
        found[kind] = sorted((count for count in common if count >= floor), reverse=True)
        if not found[kind]:
            raise PlanError(
                f"the layers have no number of {UNIT_NAMES[kind]} in common that all could keep: "
                "start from a model whose layers are alike, or let them differ (pruning.layout: "
                "uneven)"
            )
    return found


def _groups(
    blocks: Mapping[int, Sequence[int]], shape: UniformShape, layers: Sequence[int] | None
) -> list[tuple[tuple[int, ...], bool, bool]]:
    """Layers that stay or leave together, whether they may stay, and whether they may leave."""
    grouped: list[tuple[tuple[int, ...], bool]] = []
    free: set[int] = set()
    for group in shape.groups:
        free.update(group)
        grouped.append((tuple(layer for layer in group if layer in blocks), True))
    grouped += [((layer,), False) for layer in blocks if layer not in free]
    allowed = set(blocks if layers is None else layers)
    found = []
    for members, leaves in grouped:
        if not members:
            continue
        stays = allowed.issuperset(members)
        if not stays and not leaves:
            raise PlanError(
                f"layer {members[0]} cannot leave a model of this family, and is to: keep it"
            )
        found.append((members, stays, leaves))
    return found


def _best_layers(
    blocks: Mapping[int, Sequence[int]],
    groups: Sequence[tuple[tuple[int, ...], bool, bool]],
    here: Sequence[int],
    gone: Sequence[int],
    errors: Sequence[Floats],
    costs: Sequence[Floats],
    limit: float,
    best: LevelChoice | None,
) -> tuple[LevelChoice | None, float]:
    """The best set of layers at given sizes, if it beats ``best``; and the cheapest set's cost."""
    places = [[place for layer in members for place in blocks[layer]] for members, _, _ in groups]

    def total(values: Sequence[Floats], group: Sequence[int], levels: Sequence[int]) -> float:
        return math.fsum(float(values[place][levels[place]]) for place in group)

    # Level 0: the group stays; level 1: it leaves.
    choices = [
        [level for level, may in ((here, stays), (gone, leaves)) if may]
        for _, stays, leaves in groups
    ]
    group_errors = [
        np.array([total(errors, group, level) for level in levels])
        for group, levels in zip(places, choices, strict=True)
    ]
    group_costs = [
        np.array([total(costs, group, level) for level in levels])
        for group, levels in zip(places, choices, strict=True)
    ]
    least = math.fsum(float(c.min()) for c in group_costs)
    staying = [number for number, levels in enumerate(choices) if levels[0] is here]
    if not staying:
        return None, math.inf
    forced = any(len(choices[number]) == 1 for number in staying)
    first = [
        least - float(group_costs[n].min()) + float(group_costs[n][0]) for n in staying
    ]  # of a model with this group alone
    smallest = least if forced else min(first)
    if smallest > limit:
        return None, smallest
    bound = math.fsum(float(e.min()) for e in group_errors)
    if best is not None and bound > best.error:
        return None, smallest
    chosen = choose(group_errors, group_costs, limit, 5_000, 20_000)
    picked = list(chosen.levels)
    if all(choices[number][pick] is gone for number, pick in enumerate(picked)):
        # Something has to stay: that which is worth most of what fits.
        fitting = [n for n, cost in zip(staying, first, strict=True) if cost <= limit]
        gain = {n: float(group_errors[n][1] - group_errors[n][0]) for n in fitting}
        picked[max(fitting, key=lambda n: (gain[n], -n))] = 0
    levels = list(gone)
    for group, options, pick in zip(places, choices, picked, strict=True):
        for place in group:
            levels[place] = options[pick][place]
    found = LevelChoice(
        levels=tuple(levels),
        error=math.fsum(float(e[level]) for e, level in zip(errors, levels, strict=True)),
        cost=math.fsum(float(c[level]) for c, level in zip(costs, levels, strict=True)),
        exact=chosen.exact,
    )
    if best is not None and (found.error, found.cost) >= (best.error, best.cost):
        return None, smallest
    return found, smallest
