"""What the blocks' inputs and gates tell on scoring batches, and the levels made of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfprune.core.kinds import problem_of_model
from hfprune.core.processes import processes
from hfprune.core.shares import gathered, join_, mine, together
from hfprune.families import BlockView, block_views
from hfprune.families.blocks import BlockKey
from hfprune.pruning.importance import knowledge_scores
from hfprune.pruning.obs.levels import ObsLevel, obs_prune, repair
from hfprune.pruning.obs.moments import Products, SecondMoment
from hfprune.pruning.obs.rearrange import rearrange_mask
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.programme.levels import level_counts
from hfprune.pruning.reconstruction.common import (
    DAMPING_RATIO,
    ROUNDING,
    Batch,
    BlockLevels,
    Progress,
    Selection,
    squared,
    token_rows,
)
from hfprune.pruning.reconstruction.directions import fisher_directions
from hfprune.pruning.reconstruction.memory import Shelf, groups, moment_bytes
from hfprune.pruning.reconstruction.passes import captured, counted


@dataclass
class _Statistics:
    """What the scoring batches say of one block.

    Attributes:
        moment: of the consumer's inputs, of all tokens that predictions depend on alike.
        sensitivity: how much they do: the sum of those tokens' squared gradients.
        gradients: ``(samples, units)`` float32 parts, by each unit's gate. Not for OBS.
        energy: float64 ``(units,)``, sum over tokens of ``||W_u x_u||^2``. For K-prune only.
        tokens: how many that were.
    """

    moment: SecondMoment
    sensitivity: float = 0.0
    gradients: list[Tensor] = field(default_factory=list)
    energy: Tensor | None = None
    tokens: float = 0.0

    @property
    def hessian(self) -> Tensor:
        return self.moment.hessian(DAMPING_RATIO)

    @property
    def damping(self) -> float:
        return self.moment.damping(DAMPING_RATIO)


def levels_within(
    model: nn.Module,
    batches: Sequence[Batch],
    selection: Selection,
    memory: float,
    tell: Progress,
    *,
    shared: bool = False,
) -> tuple[dict[BlockKey, BlockLevels], dict[BlockKey, _Statistics]]:
    """The levels of all blocks, and with Fisher scores what is needed to choose units anew.

    Args:
        memory: bytes that second moments may take, and as many again the levels' weights. With
            OBS blocks are looked at in groups, in a pass over the batches each; the other scores
            compare all blocks, whose moments are then held at once.
        shared: whether all processes of a run are here; each reads a share of the batches. Levels
            are then the first one's to make, and the others have none.
    """
    makes = not shared or not together() or processes().is_main_process
    views, shelf = block_views(model), Shelf(memory)
    if selection != "obs":
        statistics = gather(model, batches, selection, tell, shared=shared)
        if not makes:
            return {}, {}
        found = levels_of(model, statistics, selection, tell, shelf)
        # Matrices of every block: kept only where units are still to be rearranged.
        return found, statistics if selection == "fisher" else {}
    parts = groups({key: moment_bytes(view) for key, view in views.items()}, memory)
    found = {}
    for number, part in enumerate(parts):

        def in_all(step: str, done: int, total: int, number: int = number) -> None:
            tell(step, number * total + done, total * len(parts))

        statistics = gather(model, batches, selection, in_all, part, shared=shared)
        if makes:
            found |= levels_of(model, statistics, selection, in_all, shelf)
    return found, {}


def gather(
    model: nn.Module,
    batches: Sequence[Batch],
    selection: Selection,
    tell: Progress,
    some: Collection[BlockKey] | None = None,
    products: Products = "float32",
    *,
    shared: bool = False,
) -> dict[BlockKey, _Statistics]:
    """One pass over the batches, and a second one for blocks whose float32 sums are too rough.

    Every batch draws labels from a seed of its own, so that it does not matter who reads it.
    """
    views = {key: v for key, v in block_views(model).items() if some is None or key in some}
    found = {
        key: _Statistics(
            SecondMoment(view.weight.shape[1], device=view.weight.device, products=products)
        )
        for key, view in views.items()
    }
    for number in mine(len(batches)) if shared else range(len(batches)):
        batch = batches[number]
        generator = torch.Generator().manual_seed(number)
        inputs, gradients = sensitivities(model, views, batch, generator)
        for key, x in inputs.items():
            rows, mask = token_rows(x, batch)
            squares = squared(gradients[key], batch)
            # Weighed by their squares a handful of tokens would be all that is looked at, and what
            # is repaired fits those few: see docs/notes.md.
            found[key].moment.update(rows, weight=(squares > 0).to(squares))
            found[key].sensitivity += float(squares.sum())
            if selection != "obs":
                found[key].gradients.append(_gate_gradients(views[key], x, gradients[key]))
            if selection == "kprune":
                level = rows.new_ones(len(rows)) if mask is None else mask
                _add_energy(found[key], views[key], rows, level)
        tell("statistics", number + 1, len(batches))
    if shared and together():
        for known in found.values():
            _join_(known, selection)
    rough = [
        key for key, known in found.items() if known.moment.rounding() > ROUNDING * DAMPING_RATIO
    ]
    if rough and products == "float32":
        found |= gather(model, batches, selection, tell, rough, "float64", shared=shared)
    return found


def _join_(known: _Statistics, selection: Selection) -> None:
    """What all processes have seen, batches in their order. In place."""
    known.moment.join_(join_)
    known.sensitivity = sum(gathered(known.sensitivity))
    if selection != "obs":
        turns = gathered([gradient.cpu() for gradient in known.gradients])
        most = max(map(len, turns))
        device = known.moment.second.device
        known.gradients = [
            turn[place].to(device) for place in range(most) for turn in turns if place < len(turn)
        ]
    if selection == "kprune":
        energies = [each for each in gathered((known.energy, known.tokens)) if each[0] is not None]
        device = known.moment.second.device
        known.energy = torch.stack([energy.to(device) for energy, _ in energies]).sum(0)
        known.tokens = sum(tokens for _, tokens in energies)


def _gate_gradients(view: BlockView, x: Tensor, gradient: Tensor) -> Tensor:
    """``(samples, units)`` float32: each sample's gradient by the gate of each unit, at 1."""
    parts: Tensor = x * (gradient @ view.weight)
    each = parts.float().reshape(*x.shape[:-1], view.units, view.unit_size).sum(-1)
    if each.ndim == 2:  # flash attention has run the samples together: one gradient for all
        return each.sum(0, keepdim=True)
    return each.sum(1).reshape(view.uses, -1, view.units).sum(0)


def _add_energy(found: _Statistics, view: BlockView, rows: Tensor, level: Tensor) -> None:
    parts = rows.double().unflatten(-1, (view.units, view.unit_size))
    moments = torch.einsum("tus,tur,t->usr", parts, parts, level.double())
    weight = view.weight.double().unflatten(-1, (view.units, view.unit_size))
    energy = torch.einsum("ous,usr,our->u", weight, moments, weight)
    found.energy = energy if found.energy is None else found.energy + energy
    found.tokens += float(level.sum())


def levels_of(
    model: nn.Module,
    statistics: Mapping[BlockKey, _Statistics],
    selection: Selection,
    tell: Progress,
    shelf: Shelf | None = None,
) -> dict[BlockKey, BlockLevels]:
    views = {key: view for key, view in block_views(model).items() if key in statistics}
    shelf = shelf or Shelf(math.inf)
    scores = _unit_scores(statistics, selection)
    found = {}
    for done, (key, view) in enumerate(views.items()):
        known = statistics[key]
        counts = level_counts(view.units, every=key.kind == "attention")
        hessian, damping = known.hessian, known.damping
        results: tuple[ObsLevel, ...]
        if scores is None:
            results = obs_prune(
                view.weight, hessian, view.unit_size, stop_at=counts, damping=damping
            ).levels
            errors = np.array([level.error for level in results]) ** 2
            # In one unit for all blocks: what the predictions' divergence grows by.
            errors = errors * _energy(view.weight, known.moment)
            errors = errors * known.sensitivity / known.moment.count
        else:
            values = scores[key].double()
            ranked = values.argsort(descending=True, stable=True)
            results = tuple(
                repair(view.weight, hessian, view.unit_size, ranked[:n].sort()[0], damping=damping)
                for n in counts
            )
            errors = np.array([float(values[ranked[n:]].sum()) for n in counts])
        found[key] = BlockLevels(
            counts=counts,
            kept=tuple(tuple(level.kept.tolist()) for level in results),
            weights=shelf.keep(level.weight for level in results),
            errors=errors,
        )
        tell("reconstruction", done + 1, len(views))
    return found


def _unit_scores(
    statistics: Mapping[BlockKey, _Statistics], selection: Selection
) -> Mapping[BlockKey, Tensor] | None:
    """``(units,)`` a block, higher = keep; ``None`` where OBS chooses."""
    if selection == "obs":
        return None
    gradients = {key: torch.cat(known.gradients) for key, known in statistics.items()}
    if selection == "fisher":
        return {key: value.double().square().mean(0) / 2 for key, value in gradients.items()}
    energies = {
        key: known.energy / max(known.tokens, 1.0)
        for key, known in statistics.items()
        if known.energy is not None
    }
    return knowledge_scores(energies, gradients)


def rearranged(
    model: nn.Module,
    plan: PruningPlan,
    levels: Mapping[BlockKey, BlockLevels],
    statistics: Mapping[BlockKey, _Statistics],
) -> tuple[PruningPlan, dict[BlockKey, BlockLevels]]:
    """Other units of the same number in each block, by the whole Fisher matrix of its gates."""
    found = dict(levels)
    for key, view in block_views(model).items():
        count = len(plan.kept(key))
        if count in (0, view.units):
            continue
        known = statistics[key]
        mask = rearrange_mask(torch.cat(known.gradients), torch.tensor(plan.mask(key)))
        kept = mask.nonzero().flatten()
        level = repair(view.weight, known.hessian, view.unit_size, kept, damping=known.damping)
        old, place = levels[key], levels[key].counts.index(count)
        sets, weights = list(old.kept), list(old.weights)
        sets[place], weights[place] = tuple(kept.tolist()), level.weight
        found[key] = replace(old, kept=tuple(sets), weights=tuple(weights))
        plan = plan.with_block(key, mask.tolist())
    return plan, found


def sensitivities(
    model: Any,
    views: Mapping[BlockKey, BlockView],
    batch: Batch,
    generator: torch.Generator,
) -> tuple[dict[BlockKey, Tensor], dict[BlockKey, Tensor]]:
    """The consumers' inputs, and the gradients at their outputs; both ``(batch, length, width)``.

    Gradients are of the logits along :func:`fisher_directions`: the mean of their squares is the
    Fisher information. Each sample's gradient is its own. A block that is used more
    than once gives a batch for each use, one after the other.
    """
    outputs: dict[BlockKey, list[Tensor]] = {key: [] for key in views}
    handles = []
    for key, view in views.items():

        def keep(module: nn.Module, args: Any, output: Tensor, key: BlockKey = key) -> Tensor:
            # A leaf of its own: gradients reach it, and no parameter needs any.
            outputs[key].append(torch.zeros_like(output, requires_grad=True))
            return output + outputs[key][-1]

        handles.append(view.consumer.register_forward_hook(keep))
    try:
        with torch.enable_grad(), captured({k: v.consumer for k, v in views.items()}) as inputs:
            logits = counted(model(**batch).logits.float(), batch)
            problem = problem_of_model(model)
            if problem == "sentence_embedding":  # whose direction counts
                logits = F.normalize(logits, dim=-1)
            loss = (fisher_directions(logits, problem, generator) * logits).sum()
            leaves = [leaf for uses in outputs.values() for leaf in uses]
            found = iter(torch.autograd.grad(loss, leaves))
    finally:
        for handle in handles:
            handle.remove()
    return inputs, {key: torch.cat([next(found) for _ in uses]) for key, uses in outputs.items()}


def _energy(weight: Tensor, moment: SecondMoment) -> float:
    """||W X||^2 a token (of those that count)."""
    dense = weight.double()
    return float(torch.einsum("od,de,oe->", dense, moment.second, dense))
