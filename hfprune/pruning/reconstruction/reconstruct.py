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

import copy
from collections.abc import Collection, Mapping, Sequence
from types import FunctionType

import numpy as np
import torch
from torch import nn

from hfprune.core.errors import PlanError
from hfprune.core.kinds import problem_of_model
from hfprune.families import block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.programme.levels import Floats, LevelChoice, choose_levels
from hfprune.pruning.programme.mutations import SearchResult, search_weights
from hfprune.pruning.programme.uniform import UniformShape, choose_uniform
from hfprune.pruning.reconstruction.common import (
    Batch,
    BlockCost,
    BlockLevels,
    Progress,
    Selection,
    placed,
    silent,
)
from hfprune.pruning.reconstruction.memory import MEMORY, judged, rows_of
from hfprune.pruning.reconstruction.passes import counted, divergence, evaluating
from hfprune.pruning.reconstruction.statistics import levels_within, rearranged
from hfprune.pruning.reconstruction.targets import RefitTargets, refit_outputs_
from hfprune.pruning.surgery import shrink_


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
    shape: UniformShape | None = None,
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
        shape: if given, all layers that stay have one size (:func:`hfprune.pruning.layout
            .uniform_shape` of the model).
        progress: called with the name of the step, what is done and what is to do.

    Returns:
        The plan, relative to the model as it came.

    Raises:
        PlanError: if there are no batches, or the budget cannot be met.
    """
    tell = progress or silent
    found = Reconstruction(model, teacher, batches, tell, selection=selection, shape=shape)
    plan = found.search(budget, cost, rounds=rounds, seed=seed, progress=tell)
    found.prune_(model, plan, refit=refit, progress=tell)
    return plan


class Reconstruction:
    """What pruning without training must know of a model: found once, for any number of plans.

    Args:
        model: the model to prune, on a CPU or a GPU, which then does the work; not changed.
        teacher: on the same device; whose predictions and residual stream a pruned model should
            keep; not changed.
        batches: inputs without labels; moved to where the model is.
        selection: how the units of a block are chosen, see :func:`prune_without_training`.
        shape: if given, what layers must have in common.
        progress: called with the name of the step, what is done and what is to do.
        memory: bytes that each of four may take: second moments (with OBS; other scores hold those
            of all blocks), weights of levels (what is more lies in files), targets of the refit and
            what enters the layer being fitted (what is more is computed when it is needed).
        shared: whether every process of a run makes this object at the same time, with the same
            model and batches: each then reads a share of the batches. Only the first one's can
            plan; the others have no levels.

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
        shape: UniformShape | None = None,
        memory: float = MEMORY,
        shared: bool = False,
    ) -> None:
        if not batches:
            raise PlanError("pruning without training needs at least one batch of inputs")
        if not block_views(model):
            raise PlanError("the model has no block left to prune")
        self.model, self.teacher, self.batches = model, teacher, placed(batches, model)
        self.shape = shape
        tell = progress or silent
        with torch.no_grad(), evaluating(model, teacher):
            self.levels, self._statistics = levels_within(
                model, self.batches, selection, memory, tell, shared=shared
            )
        self._memory = memory
        self._targets: RefitTargets | None = None  # found when first needed
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
        with torch.no_grad(), evaluating(self.model, self.teacher):
            result = _search(
                self.model, self.teacher, self.batches, self.levels, budget, cost, rounds, seed,
                progress or silent, self.shape,
            )  # fmt: skip
        self.weights = dict(zip(self.levels, result.weights.tolist(), strict=True))
        return self._rearranged(_plan_of(self.model, self.levels, result.levels))

    def _rearranged(self, plan: PruningPlan) -> PruningPlan:
        if self._statistics:
            with torch.no_grad():
                plan, self.levels = rearranged(self.model, plan, self.levels, self._statistics)
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
        if self.shape is not None:
            weighted = [self.weights[key] * level.errors for key, level in self.levels.items()]
            alike = _alike(self.levels, weighted, budget, cost, self.shape, layers)
            return self._rearranged(_plan_of(self.model, self.levels, alike.levels))
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
        """Choices of layers worth a trial: 1, 2, 3 and on, spread over those that have blocks.

        With a shape only those that it allows.
        """
        present = sorted({key.layer for key in self.levels})
        found = [
            [present[place] for place in _spread(len(present), count)]
            for count in _depths(len(present))
        ]
        shape = self.shape
        return found if shape is None else [some for some in found if shape.allows(some, present)]

    def prune_(
        self,
        model: nn.Module,
        plan: PruningPlan,
        *,
        refit: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Prune the model (or a copy of it) by a plan of this object. In place."""
        with torch.no_grad(), evaluating(model, self.teacher):
            _shrink_to_levels(model, plan, self.levels)
            if refit:
                if self._targets is None:
                    self._targets = RefitTargets(self.teacher, self.batches, limit=self._memory)
                refit_outputs_(
                    model, self.teacher, self.batches, progress,
                    targets=self._targets, limit=self._memory,
                )  # fmt: skip


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
    shape: UniformShape | None,
) -> SearchResult:
    keys = list(levels)
    _check_copied(model)
    some = judged(batches)
    rows = [rows_of(batch) for batch in some]
    targets = [counted(teacher(**batch).logits, batch) for batch in some]
    problem = problem_of_model(model)

    def loss_of(choice: list[int]) -> float:
        # Not gated: a plan is for a multiple of the speed, which is judged at that speed.
        pruned = _pruned_copy(model, _plan_of(model, levels, choice), levels)
        total = 0.0
        for batch, target, count in zip(some, targets, rows, strict=True):
            guess = counted(pruned(**batch).logits, batch)
            total += count * divergence(guess, target, problem)
        return total / sum(rows)

    return search_weights(
        loss_of,
        [levels[key].errors for key in keys],
        [np.array([cost(key, count) for count in levels[key].counts]) for key in keys],
        budget,
        rounds=rounds,
        seed=seed,
        progress=lambda done, total, best: tell("search", done, total),
        solve=None
        if shape is None
        else lambda weighted: _alike(levels, weighted, budget, cost, shape, None),
    )


def _alike(
    levels: Mapping[BlockKey, BlockLevels],
    errors: Sequence[Floats],
    budget: float,
    cost: BlockCost,
    shape: UniformShape,
    layers: Collection[int] | None,
) -> LevelChoice:
    """Levels that all layers share, of least error under a budget."""
    return choose_uniform(
        list(levels),
        [level.counts for level in levels.values()],
        errors,
        [np.array([cost(key, n) for n in level.counts]) for key, level in levels.items()],
        budget,
        shape,
        layers=None if layers is None else sorted(layers),
    )


def _plan_of(
    model: nn.Module, levels: Mapping[BlockKey, BlockLevels], places: Sequence[int]
) -> PruningPlan:
    plan = PruningPlan.dense(model_sizes(model))
    for (key, level), place in zip(levels.items(), places, strict=True):
        kept = set(level.kept[place])
        plan = plan.with_block(key, [unit in kept for unit in range(len(plan.mask(key)))])
    return plan


def _shrink_to_levels(
    model: nn.Module, plan: PruningPlan, levels: Mapping[BlockKey, BlockLevels]
) -> None:
    """Shrink a model, with the repaired weights of the plan's levels. In place."""
    units = {key: view.units for key, view in block_views(model).items()}
    shrink_(model, plan)
    for key, view in block_views(model).items():
        if view.units < units[key]:
            weight = levels[key].weights[levels[key].counts.index(view.units)]
            view.weight.copy_(weight.to(view.weight))


def _check_copied(model: nn.Module) -> None:
    """Refuse a model whose copy would run the model itself: every plan would look as good as none.

    A method is bound to the copy; a function (``torch.compile(model.forward)``, a wrapper) keeps
    the modules that it was made with.
    """
    for name, module in model.named_modules():
        own = vars(module).get("forward")
        if isinstance(own, FunctionType):
            raise PlanError(
                f"the forward of {name or 'the model'} ({type(module).__name__}) is a function "
                f"that was put in its place, {own.__qualname__}; expected the class' own or a "
                "bound method, as plans are judged by pruned copies, and a function runs what it "
                "was made for: delete it (`del model.forward`) before pruning, and put it back "
                "afterwards"
            )


def _pruned_copy(
    model: nn.Module, plan: PruningPlan, levels: Mapping[BlockKey, BlockLevels]
) -> nn.Module:
    """A pruned copy of a model, which shares the tensors that nothing was removed from."""
    tensors = [*model.parameters(), *model.buffers()]
    pruned = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    _shrink_to_levels(pruned, plan, levels)
    return pruned
