"""Pruning without training: structured OBS, a search over levels, a refit of what stays.

Three steps, minutes on a CPU (ZipLM, Kurtic et al. 2023; K-prune, Park et al. 2024):

1. every block is pruned to each of its *levels* (numbers of units kept), its output projection
   repaired each time. OBS takes the units whose loss can be mended best, with the error of the
   block's output as the price; Fisher (Kwon et al. 2022) and K-prune take those of the lowest
   score, with the scores as the price;
2. levels are chosen under the budget by an exact dynamic programme, whose block weights are
   mutated and judged by how far the model's predictions move; with Fisher the units of each
   block are then rearranged, now that gradients that cancel each other count;
3. bottom-up, each output projection that is left is fitted anew so that the residual stream
   follows the dense model's, errors of the blocks below included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfprune.errors import PlanError
from hfprune.gates import Gates
from hfprune.importance import knowledge_scores
from hfprune.plan import BlockKey, PruningPlan
from hfprune.programme import SearchResult, choose_levels, level_counts, search_weights
from hfprune.reconstruction import (
    ObsLevel,
    SecondMoment,
    obs_prune,
    rearrange_mask,
    refit_output,
    repair,
)
from hfprune.structure import BlockView, block_views, model_sizes
from hfprune.surgery import shrink_

Batch = Mapping[str, Tensor]
BlockCost = Callable[[BlockKey, int], float]
Progress = Callable[[str, int, int], None]
Selection = Literal["obs", "fisher", "kprune"]

# Share of the mean diagonal added to the Hessians: enough for the float64 solves, too little to
# be seen in the weights.
DAMPING_RATIO = 1e-3
# How far the refit attends to the tokens that predictions depend on; the rest goes to all alike.
FOCUS = 0.9
# What the refit keeps of the teacher in memory, at most.
TARGET_BYTES = 2e9


@dataclass(frozen=True)
class BlockLevels:
    """What one block can become.

    Attributes:
        counts: units kept at each level, descending from all to 0.
        kept: indices of the units kept at each level.
        weights: the repaired output projection ``(outputs, kept * unit_size)`` of each level.
        errors: float64 ``(levels,)``, 0 for the full size. OBS: ||W'X - WX||^2 over tokens
            weighted by how much the predictions depend on them. Otherwise: the scores given up.
    """

    counts: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]
    weights: tuple[Tensor, ...]
    errors: np.ndarray[Any, np.dtype[np.float64]]


def prune_without_training(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    budget: float,
    cost: BlockCost,
    *,
    rounds: int = 100,
    seed: int = 0,
    selection: Selection = "obs",
    refit: bool = True,
    progress: Progress | None = None,
) -> PruningPlan:
    """Prune a fine-tuned model to a budget and shrink it. In place.

    Args:
        model: the model to prune, dense or already shrunk.
        teacher: the model whose predictions and residual stream it should keep; not changed. May
            be a copy of the model before pruning.
        batches: inputs without labels, from the training data. A thousand sentences are plenty.
        budget: of the summed costs of all blocks.
        cost: cost of a block that keeps so many units, 0 for none.
        rounds: mutations tried in the search over levels; 0 takes the first choice.
        seed: of the search.
        selection: how the units of a block are chosen, see above.
        refit: whether to do step 3.
        progress: called with the name of the step, what is done and what is to do.

    Returns:
        The plan, relative to the model as it came.

    Raises:
        PlanError: if there are no batches, or the budget cannot be met.
    """
    tell = progress or _silent
    found = Reconstruction(model, teacher, batches, tell, selection=selection)
    plan = found.search(budget, cost, rounds=rounds, seed=seed, progress=tell)
    found.prune_(model, plan, refit=refit, progress=tell)
    return plan


def _silent(step: str, done: int, total: int) -> None:
    pass


class Reconstruction:
    """What pruning without training must know of a model: found once, for any number of plans.

    Args:
        model: the model to prune; not changed.
        teacher: whose predictions and residual stream a pruned model should keep; not changed.
        batches: inputs without labels.
        selection: how the units of a block are chosen, see :func:`prune_without_training`.
        progress: called with the name of the step, what is done and what is to do.

    Attributes:
        levels: what each block can become.
        weights: factor on the errors of each block, 1 before a search.

    Raises:
        PlanError: if there are no batches, or the model has no block.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        batches: Sequence[Batch],
        progress: Progress | None = None,
        *,
        selection: Selection = "obs",
    ) -> None:
        if not batches:
            raise PlanError("pruning without training needs at least one batch of inputs")
        if not block_views(model):
            raise PlanError("the model has no block left to prune")
        self.model, self.teacher, self.batches = model, teacher, batches
        tell = progress or _silent
        with torch.no_grad(), _evaluating(model, teacher):
            statistics = _statistics(model, batches, selection, tell)
            self.levels = _levels(model, statistics, selection, tell)
        self._targets: RefitTargets | None = None  # found when first needed
        # Matrices of every block: kept only where units are still to be rearranged.
        self._statistics = statistics if selection == "fisher" else {}
        self.weights = dict.fromkeys(self.levels, 1.0)

    def search(
        self,
        budget: float,
        cost: BlockCost,
        *,
        rounds: int = 100,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> PruningPlan:
        """Choose levels of all blocks, judged by the divergence of the model's predictions.

        The weights of the blocks that did best are kept for :meth:`plan`. Arguments and errors as
        for :func:`prune_without_training`.
        """
        with torch.no_grad(), _evaluating(self.model, self.teacher):
            result = _search(
                self.model, self.teacher, self.batches, self.levels, budget, cost, rounds, seed,
                progress or _silent,
            )  # fmt: skip
        self.weights = dict(zip(self.levels, result.weights.tolist(), strict=True))
        return self._rearranged(_plan_of(self.model, self.levels, result.levels))

    def _rearranged(self, plan: PruningPlan) -> PruningPlan:
        if self._statistics:
            with torch.no_grad():
                plan, self.levels = _rearranged(self.model, plan, self.levels, self._statistics)
        return plan

    def plan(
        self, budget: float, cost: BlockCost, layers: Collection[int] | None = None
    ) -> PruningPlan:
        """The least weighted error under a budget; with blocks in some layers only, if given.

        Where training follows, a few layers of some width often learn more than many thin ones,
        which nothing that is measured before the training shows.

        Raises:
            PlanError: if the budget cannot be met.
        """
        errors, costs = [], []
        for key, level in self.levels.items():
            error = self.weights[key] * level.errors
            price = np.array([cost(key, count) for count in level.counts])
            if layers is not None and key.layer not in layers:  # it can only go
                error, price = error[-1:], price[-1:]
            errors.append(error)
            costs.append(price)
        chosen = choose_levels(errors, costs, budget).levels
        places = [
            place + len(level.errors) - len(error)
            for place, level, error in zip(chosen, self.levels.values(), errors, strict=True)
        ]
        return self._rearranged(_plan_of(self.model, self.levels, places))

    def fewer_layers(self) -> list[list[int]]:
        """Choices of layers worth a trial: 1, 2, 3 and on, spread over those that have blocks."""
        present = sorted({key.layer for key in self.levels})
        return [
            [present[place] for place in _spread(len(present), count)]
            for count in _depths(len(present))
        ]

    def prune_(
        self,
        model: nn.Module,
        plan: PruningPlan,
        *,
        refit: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Prune the model (or a copy of it) by a plan of this object. In place."""
        with torch.no_grad(), _evaluating(model, self.teacher):
            _write(model, plan, self.levels)
            shrink_(model, plan)
            if refit:
                if self._targets is None:
                    self._targets = RefitTargets(self.teacher, self.batches)
                refit_outputs_(model, self.teacher, self.batches, progress, targets=self._targets)


def _depths(layers: int) -> list[int]:
    """Numbers of layers to try, fewer than all: 1, 2, 3 and on by half as many again."""
    found, count = [], 1.0
    while round(count) < layers:
        found.append(round(count))
        count = max(count + 1, count * 1.5)
    return found


def _spread(total: int, count: int) -> list[int]:
    """``count`` of ``total`` places, evenly, with both ends (of one: the first)."""
    if count == 1:
        return [0]
    return [int(place * (total - 1) / (count - 1)) for place in range(count)]


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """Without dropout inside; afterwards as before."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def block_levels(
    model: nn.Module,
    batches: Sequence[Batch],
    progress: Progress | None = None,
    *,
    selection: Selection = "obs",
) -> dict[BlockKey, BlockLevels]:
    """All levels of all blocks of a model, from the inputs that batches give.

    A token counts by how much the model's predictions depend on what the block writes there: the
    squared gradient, at the block's output, of the log-likelihood of labels drawn from the
    predictions themselves (the Fisher information, which is the Hessian of the KL divergence).
    So errors are in one unit, about the divergence that they cause, and can be added up.
    """
    tell = progress or (lambda step, done, total: None)
    return _levels(model, _statistics(model, batches, selection, tell), selection, tell)


@dataclass
class _Statistics:
    """What the scoring batches say of one block.

    Attributes:
        moment: of the consumer's inputs, tokens weighted.
        gradients: ``(samples, units)`` float32 parts, by each unit's gate. Not for OBS.
        energy: float64 ``(units,)``, sum over tokens of ``||W_u x_u||^2``. For K-prune only.
        tokens: how many that were.
    """

    moment: SecondMoment
    gradients: list[Tensor] = field(default_factory=list)
    energy: Tensor | None = None
    tokens: float = 0.0

    @property
    def hessian(self) -> Tensor:
        return self.moment.hessian(DAMPING_RATIO)

    @property
    def damping(self) -> float:
        return self.moment.damping(DAMPING_RATIO)


def _statistics(
    model: nn.Module, batches: Sequence[Batch], selection: Selection, tell: Progress
) -> dict[BlockKey, _Statistics]:
    views = block_views(model)
    found = {key: _Statistics(SecondMoment(view.weight.shape[1])) for key, view in views.items()}
    generator = torch.Generator().manual_seed(0)
    for done, batch in enumerate(batches):
        inputs, gradients = _sensitivities(model, views, batch, generator)
        for key, x in inputs.items():
            rows, mask = _tokens(x, batch)
            found[key].moment.update(rows, weight=_squared(gradients[key], batch)[0])
            if selection != "obs":
                found[key].gradients.append(_gate_gradients(views[key], x, gradients[key]))
            if selection == "kprune":
                level = rows.new_ones(len(rows)) if mask is None else mask
                _add_energy(found[key], views[key], rows, level)
        tell("statistics", done + 1, len(batches))
    return found


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


def _levels(
    model: nn.Module,
    statistics: Mapping[BlockKey, _Statistics],
    selection: Selection,
    tell: Progress,
) -> dict[BlockKey, BlockLevels]:
    views = block_views(model)
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
            errors = errors * _energy(view.weight, known.moment)
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
            weights=tuple(level.weight for level in results),
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


def _rearranged(
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


def _search(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    levels: Mapping[BlockKey, BlockLevels],
    budget: float,
    cost: BlockCost,
    rounds: int,
    seed: int,
    tell: Progress,
) -> SearchResult:
    keys = list(levels)
    judged = batches[: max(1, min(4, len(batches)))]
    targets = [_counted(teacher(**batch).logits, batch) for batch in judged]
    config: Any = model.config
    problem = getattr(config, "problem_type", None)

    originals = {key: view.weight.clone() for key, view in block_views(model).items()}

    def loss_of(choice: list[int]) -> float:
        plan = _plan_of(model, levels, choice)
        _write(model, plan, levels)
        total = 0.0
        with Gates(model, plan):
            for batch, target in zip(judged, targets, strict=True):
                guess = _counted(model(**batch).logits, batch)
                total += divergence(guess, target, problem)
        for key, view in block_views(model).items():
            view.weight.copy_(originals[key])
        return total / len(judged)

    return search_weights(
        loss_of,
        [levels[key].errors for key in keys],
        [np.array([cost(key, count) for count in levels[key].counts]) for key in keys],
        budget,
        rounds=rounds,
        seed=seed,
        progress=lambda done, total, best: tell("search", done, total),
    )


def _plan_of(
    model: nn.Module, levels: Mapping[BlockKey, BlockLevels], places: Sequence[int]
) -> PruningPlan:
    plan = PruningPlan.dense(model_sizes(model))
    for (key, level), place in zip(levels.items(), places, strict=True):
        kept = set(level.kept[place])
        plan = plan.with_block(key, [unit in kept for unit in range(len(plan.mask(key)))])
    return plan


def _write(model: nn.Module, plan: PruningPlan, levels: Mapping[BlockKey, BlockLevels]) -> None:
    """Put the repaired weights of a plan's levels into the full-sized model."""
    for key, view in block_views(model).items():
        kept = plan.kept(key)
        if not kept or len(kept) == view.units:
            continue
        weight = levels[key].weights[levels[key].counts.index(len(kept))]
        view.weight.zero_()
        view.weight[:, view.columns(kept)] = weight.to(view.weight)


def refit_outputs_(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    progress: Progress | None = None,
    *,
    ridge: float = 1e-3,
    focus: float = FOCUS,
    targets: RefitTargets | None = None,
) -> None:
    """Fit the output projections of a shrunk model anew, bottom-up. In place.

    For each block the target is what the teacher's block adds to the residual stream, plus how
    far the model's stream is from the teacher's where the block begins (K-prune, Park et al.
    2024), so that each block also mends what was lost below it, by removed blocks too. A block
    that several layers share mends only itself: each of its uses would mend what the uses before
    it lost, and together they would mend it many times over.

    Args:
        model: shrunk; its layers must be the teacher's layers.
        teacher: with every block that the model has.
        batches: inputs without labels.
        ridge: relative to the mean diagonal of the features' moments.
        focus: in [0, 1], how much tokens count by the teacher's sensitivity to what the block
            writes there (see :func:`block_levels`) instead of all alike.
        targets: the teacher's side, found before on the same batches and with this focus; spares
            finding it again for each of several models.
    """
    mine, theirs = block_views(model), block_views(teacher)
    missing = [str(key) for key in mine if key not in theirs]
    if missing:
        raise PlanError(f"the teacher has no {', '.join(missing)}, so there is nothing to fit to")
    if not mine:
        return
    targets = targets or RefitTargets(teacher, batches, focus=focus)
    for done, (key, view) in enumerate(mine.items()):
        outputs, features = view.weight.shape
        moment = SecondMoment(features, outputs)
        for index, batch in enumerate(batches):
            with (
                _captured({"x": view.consumer, "stream": view.stream}) as here,
                _stopping(view.consumer, view.uses),
            ):
                model(**batch)
            wanted = targets.wanted(key, index)
            if view.uses == 1:
                wanted = wanted - here["stream"]
            rows, _ = _tokens(here["x"], batch)
            weight = targets.importance[key][index]
            moment.update(rows, wanted.reshape(-1, wanted.shape[-1]), weight=weight)
        old_bias = view.consumer.bias
        weight, bias = refit_output(moment, ridge=ridge, fit_bias=old_bias is not None)
        view.weight.copy_(weight.to(view.weight))
        if old_bias is not None:
            old_bias.copy_(bias.to(old_bias))
        if progress is not None:
            progress("refit", done + 1, len(mine))


class RefitTargets:
    """What output projections are fitted to, on the teacher's side: found once for many models.

    Args:
        teacher: in eval mode; not changed.
        batches: inputs without labels.
        focus: as for :func:`refit_outputs_`.
        limit: bytes that the targets may take. If they take more, each is computed when it is
            asked for.

    Attributes:
        importance: for each block and batch float64 ``(tokens,)``, how much the tokens count.
    """

    def __init__(
        self,
        teacher: nn.Module,
        batches: Sequence[Batch],
        *,
        focus: float = FOCUS,
        limit: float = TARGET_BYTES,
    ) -> None:
        self._teacher, self._batches = teacher, batches
        self._views = block_views(teacher)
        self.importance = _token_weights(teacher, self._views, batches, focus)
        self._kept: list[dict[BlockKey, Tensor]] | None = []
        size = 0
        for batch in batches:
            found = self._all(batch)
            size += sum(target.numel() * target.element_size() for target in found.values())
            if size > limit:
                self._kept = None
                break
            self._kept.append(found)

    def wanted(self, key: BlockKey, index: int) -> Tensor:
        """What the block adds in the teacher on a batch, plus the stream that it adds it to.

        The stream is left out where several layers share the block.

        Returns:
            ``(batch, length, hidden)``; uses of a shared block one after the other.
        """
        if self._kept is not None:
            return self._kept[index][key]
        view = self._views[key]
        with (
            _captured({"x": view.consumer, "stream": view.stream}) as found,
            _stopping(view.consumer, view.uses),
        ):
            self._teacher(**self._batches[index])
        return self._target(view, found["x"], found["stream"])

    def _all(self, batch: Batch) -> dict[BlockKey, Tensor]:
        """The targets of all blocks, from one forward pass."""
        modules: dict[Any, nn.Module] = {
            (key, "x"): view.consumer for key, view in self._views.items()
        }
        modules |= {(key, "stream"): view.stream for key, view in self._views.items()}
        with _captured(modules) as found:
            self._teacher(**batch)
        return {
            key: self._target(view, found[key, "x"], found[key, "stream"])
            for key, view in self._views.items()
        }

    @staticmethod
    def _target(view: BlockView, x: Tensor, stream: Tensor) -> Tensor:
        added: Tensor = view.consumer(x)
        return added + stream if view.uses == 1 else added


def _token_weights(
    teacher: nn.Module,
    views: Mapping[BlockKey, BlockView],
    batches: Sequence[Batch],
    focus: float,
) -> dict[BlockKey, list[Tensor]]:
    """For each block and batch float64 ``(tokens,)``: mean about 1 over tokens, 0 for padding."""
    generator = torch.Generator().manual_seed(1)
    pairs: dict[BlockKey, list[tuple[Tensor, Tensor]]] = {key: [] for key in views}
    for batch in batches:
        _, gradients = _sensitivities(teacher, views, batch, generator)
        for key, gradient in gradients.items():
            pairs[key].append(_squared(gradient, batch))
    found = {}
    for key, entries in pairs.items():
        total = sum(float(weight.sum()) for weight, _ in entries)
        count = sum(int((weight > 0).sum()) for weight, _ in entries)
        scale = count / total if total > 0 else 0.0
        found[key] = [(1.0 - focus) * level + focus * scale * weight for weight, level in entries]
    return found


def _squared(gradient: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Squared norms of the tokens' gradients, 0 for padding, and 1 for each real token."""
    rows, mask = _tokens(gradient, batch)
    norms = rows.double().square().sum(-1)
    level = torch.ones_like(norms) if mask is None else mask.to(norms)
    return norms * level, level


def _sensitivities(
    model: Any,
    views: Mapping[BlockKey, BlockView],
    batch: Batch,
    generator: torch.Generator,
) -> tuple[dict[BlockKey, Tensor], dict[BlockKey, Tensor]]:
    """The consumers' inputs, and the gradients at their outputs; both ``(batch, length, width)``.

    Each sample's gradient is its own (the loss is a sum over samples). A block that is used more
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
        with torch.enable_grad(), _captured({k: v.consumer for k, v in views.items()}) as inputs:
            logits = _counted(model(**batch).logits.float(), batch)
            loss = _sampled_loss(logits, getattr(model.config, "problem_type", None), generator)
            leaves = [leaf for uses in outputs.values() for leaf in uses]
            found = iter(torch.autograd.grad(loss, leaves))
    finally:
        for handle in handles:
            handle.remove()
    return inputs, {key: torch.cat([next(found) for _ in uses]) for key, uses in outputs.items()}


def _sampled_loss(logits: Tensor, problem: str | None, generator: torch.Generator) -> Tensor:
    """Negative log-likelihood, summed, of labels drawn from the model's own predictions."""
    with torch.no_grad():
        if problem == "regression" or logits.shape[-1] == 1:
            noise = torch.randn(logits.shape, generator=generator).to(logits)
            target = logits + noise
        elif problem == "multi_label_classification":
            draw = torch.rand(logits.shape, generator=generator).to(logits)
            target = (draw < torch.sigmoid(logits)).to(logits)
        else:
            odds = torch.softmax(logits, -1).cpu()
            target = torch.multinomial(odds, 1, generator=generator)[:, 0].to(logits.device)
    if problem == "regression" or logits.shape[-1] == 1:
        return 0.5 * (logits - target).square().sum()
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return F.cross_entropy(logits, target, reduction="sum")


def _energy(weight: Tensor, moment: SecondMoment) -> float:
    """||W X||^2 a token (of those that count)."""
    dense = weight.double()
    return float(torch.einsum("od,de,oe->", dense, moment.second, dense))


class _Reached(Exception):
    """Ends a forward pass that has gone far enough."""


@contextmanager
def _stopping(module: nn.Module, uses: int) -> Iterator[None]:
    """Ends the forward pass inside when the module is about to run for the ``uses``-th time."""
    left = uses

    def stop(module: nn.Module, args: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _Reached

    handle = module.register_forward_pre_hook(stop)
    try:
        yield
    except _Reached:
        pass
    finally:
        handle.remove()


@contextmanager
def _captured(modules: Mapping[Any, nn.Module]) -> Iterator[dict[Any, Tensor]]:
    """The first input of each module during the forward pass inside; of all its uses, joined."""
    inputs: dict[Any, Tensor] = {}
    handles = []
    for name, module in modules.items():

        def keep(module: nn.Module, args: tuple[Any, ...], name: Any = name) -> None:
            x = args[0].detach()
            inputs[name] = torch.cat([inputs[name], x]) if name in inputs else x

        handles.append(module.register_forward_pre_hook(keep))
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _tokens(features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Features as ``(tokens, width)``, and the attention mask as their weights."""
    rows = features.reshape(-1, features.shape[-1])
    mask = batch.get("attention_mask")
    # None: an image, or flash attention has taken the padding out beforehand.
    if mask is None or len(rows) % mask.numel():
        return rows, None
    uses = len(rows) // mask.numel()
    return rows, mask.reshape(-1).repeat(uses).to(rows)


def _counted(logits: Tensor, batch: Batch) -> Tensor:
    """Logits as ``(rows, labels)``; of tokens those that are no padding, each a row."""
    if logits.dim() == 2:
        return logits
    mask = batch.get("attention_mask")
    return logits.reshape(-1, logits.shape[-1]) if mask is None else logits[mask.bool()]


def divergence(student: Tensor, teacher: Tensor, problem: str | None) -> float:
    """KL divergence of the student's predictions from the teacher's, in nats, mean over rows.

    Args:
        student, teacher: logits, float ``(rows, labels)``; of tokens, those that are no padding.
        problem: ``config.problem_type``; multi-label adds up over labels, regression is taken as
            a Gaussian of unit variance around the prediction, all else is single label.
    """
    student, teacher = student.float(), teacher.float()
    if problem == "regression" or student.shape[-1] == 1:
        return float(0.5 * (student - teacher).square().sum(-1).mean())
    if problem == "multi_label_classification":
        student, teacher = (torch.stack([x, torch.zeros_like(x)], -1) for x in (student, teacher))
    guess, target = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return float(F.kl_div(guess, target, reduction="none", log_target=True).sum() / len(guess))
