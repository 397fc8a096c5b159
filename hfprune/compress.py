"""Pruning without training: structured OBS, a search over levels, a refit of what stays.

Three steps, minutes on a CPU (ZipLM, Kurtic et al. 2023; K-prune, Park et al. 2024):

1. every block is pruned by OBS to each of its *levels* (numbers of units kept), its output
   projection repaired each time, with the relative error of its output as the price;
2. levels are chosen under the budget by an exact dynamic programme, whose block weights are
   mutated and judged by how far the model's predictions move;
3. bottom-up, each output projection that is left is fitted anew so that the residual stream
   follows the dense model's, errors of the blocks below included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfprune.errors import PlanError
from hfprune.gates import Gates
from hfprune.plan import BlockKey, PruningPlan
from hfprune.programme import search_weights
from hfprune.reconstruction import SecondMoment, obs_prune, refit_output
from hfprune.structure import BlockView, block_views, model_sizes
from hfprune.surgery import shrink_

Batch = Mapping[str, Tensor]
BlockCost = Callable[[BlockKey, int], float]
Progress = Callable[[str, int, int], None]

# Share of the mean diagonal added to the Hessians: enough for the float64 solves, too little to
# be seen in the weights.
DAMPING_RATIO = 1e-3


@dataclass(frozen=True)
class BlockLevels:
    """What one block can become.

    Attributes:
        counts: units kept at each level, descending from all to 0.
        kept: indices of the units kept at each level.
        weights: the repaired output projection ``(outputs, kept * unit_size)`` of each level.
        errors: float64 ``(levels,)``, ||W'X - WX|| / ||WX|| of the block's output, 0 to 1.
    """

    counts: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]
    weights: tuple[Tensor, ...]
    errors: np.ndarray[Any, np.dtype[np.float64]]


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


def prune_without_training(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    budget: float,
    cost: BlockCost,
    *,
    rounds: int = 100,
    seed: int = 0,
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
        refit: whether to do step 3.
        progress: called with the name of the step, what is done and what is to do.

    Returns:
        The plan, relative to the model as it came.

    Raises:
        PlanError: if there are no batches, or the budget cannot be met.
    """
    if not batches:
        raise PlanError("pruning without training needs at least one batch of inputs")
    tell = progress or (lambda step, done, total: None)
    modes = (model.training, teacher.training)
    model.eval()
    teacher.eval()
    try:
        with torch.no_grad():
            levels = block_levels(model, batches, tell)
            plan = _choose(model, teacher, batches, levels, budget, cost, rounds, seed, tell)
            _write(model, plan, levels)
            shrink_(model, plan)
            if refit:
                refit_outputs_(model, teacher, batches, tell)
    finally:
        model.train(modes[0])
        teacher.train(modes[1])
    return plan


def block_levels(
    model: nn.Module, batches: Sequence[Batch], progress: Progress | None = None
) -> dict[BlockKey, BlockLevels]:
    """All levels of all blocks of a model, by structured OBS on the inputs that batches give."""
    views = block_views(model)
    moments = {key: SecondMoment(view.consumer.in_features) for key, view in views.items()}
    for done, batch in enumerate(batches):
        with _captured({key: view.consumer for key, view in views.items()}) as inputs:
            model(**batch)
        for key, x in inputs.items():
            rows, weight = _tokens(x, batch)
            moments[key].update(rows, weight=weight)
        if progress is not None:
            progress("statistics", done + 1, len(batches))
    found = {}
    for done, (key, view) in enumerate(views.items()):
        moment = moments.pop(key)
        counts = level_counts(view.units, every=key.kind == "attention")
        result = obs_prune(
            view.consumer.weight,
            moment.hessian(DAMPING_RATIO),
            view.unit_size,
            stop_at=counts,
            damping=moment.damping(DAMPING_RATIO),
        )
        found[key] = BlockLevels(
            counts=counts,
            kept=tuple(tuple(level.kept.tolist()) for level in result.levels),
            weights=tuple(level.weight for level in result.levels),
            errors=np.array([level.error for level in result.levels]),
        )
        if progress is not None:
            progress("reconstruction", done + 1, len(views))
    return found


def _choose(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    levels: Mapping[BlockKey, BlockLevels],
    budget: float,
    cost: BlockCost,
    rounds: int,
    seed: int,
    tell: Progress,
) -> PruningPlan:
    keys = list(levels)
    dense = PruningPlan.dense(model_sizes(model))
    judged = batches[: max(1, min(4, len(batches)))]
    targets = [_log_probabilities(teacher(**batch).logits) for batch in judged]

    def plan_of(choice: Sequence[int]) -> PruningPlan:
        plan = dense
        for key, level in zip(keys, choice, strict=True):
            chosen = set(levels[key].kept[level])
            plan = plan.with_block(key, [u in chosen for u in range(len(plan.mask(key)))])
        return plan

    originals = {key: view.consumer.weight.clone() for key, view in block_views(model).items()}

    def loss_of(choice: list[int]) -> float:
        plan = plan_of(choice)
        _write(model, plan, levels)
        total = 0.0
        with Gates(model, plan):
            for batch, target in zip(judged, targets, strict=True):
                guess = _log_probabilities(model(**batch).logits)
                total += float(F.kl_div(guess, target, reduction="batchmean", log_target=True))
        for key, view in block_views(model).items():
            view.consumer.weight.copy_(originals[key])
        return total / len(judged)

    result = search_weights(
        loss_of,
        [levels[key].errors for key in keys],
        [np.array([cost(key, count) for count in levels[key].counts]) for key in keys],
        budget,
        rounds=rounds,
        seed=seed,
        progress=lambda done, total, best: tell("search", done, total),
    )
    return plan_of(result.levels)


def _write(model: nn.Module, plan: PruningPlan, levels: Mapping[BlockKey, BlockLevels]) -> None:
    """Put the repaired weights of a plan's levels into the full-sized model."""
    for key, view in block_views(model).items():
        kept = plan.kept(key)
        if not kept or len(kept) == view.units:
            continue
        weight = levels[key].weights[levels[key].counts.index(len(kept))]
        view.consumer.weight.zero_()
        view.consumer.weight[:, _columns(view, kept)] = weight.to(view.consumer.weight)


def refit_outputs_(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    progress: Progress | None = None,
    *,
    ridge: float = 1e-3,
) -> None:
    """Fit the output projections of a shrunk model anew, bottom-up. In place.

    For each block the target is what the teacher's block adds to the residual stream, plus how
    far the model's stream is from the teacher's where the block begins (K-prune, Park et al.
    2024), so that each block also mends what was lost below it, by removed blocks too.

    Args:
        model: shrunk; its layers must be the teacher's layers.
        teacher: with every block that the model has.
        batches: inputs without labels.
        ridge: relative to the mean diagonal of the features' moments.
    """
    mine, theirs = block_views(model), block_views(teacher)
    missing = [str(key) for key in mine if key not in theirs]
    if missing:
        raise PlanError(f"the teacher has no {', '.join(missing)}, so there is nothing to fit to")
    for done, (key, view) in enumerate(mine.items()):
        other = theirs[key]
        moment = SecondMoment(view.consumer.in_features, view.consumer.out_features)
        for batch in batches:
            with (
                _captured({"x": view.consumer, "stream": view.producers[0].module}) as here,
                _stopping(view.consumer),
            ):
                model(**batch)
            with (
                _captured({"stream": other.producers[0].module, "x": other.consumer}) as there,
                _stopping(other.consumer),
            ):
                teacher(**batch)
            wanted = other.consumer(there["x"]) + there["stream"] - here["stream"]
            rows, weight = _tokens(here["x"], batch)
            moment.update(rows, wanted.reshape(-1, wanted.shape[-1]), weight=weight)
        weight, bias = refit_output(moment, ridge=ridge)
        view.consumer.weight.copy_(weight.to(view.consumer.weight))
        if view.consumer.bias is not None:
            view.consumer.bias.copy_(bias.to(view.consumer.bias))
        if progress is not None:
            progress("refit", done + 1, len(mine))


class _Reached(Exception):
    """Ends a forward pass that has gone far enough."""


@contextmanager
def _stopping(module: nn.Module) -> Iterator[None]:
    """Ends the forward pass inside when the module is about to run."""

    def stop(module: nn.Module, args: Any) -> None:
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
    """The first input of each module during the forward pass inside."""
    inputs: dict[Any, Tensor] = {}
    handles = []
    for name, module in modules.items():

        def keep(module: nn.Module, args: tuple[Any, ...], name: Any = name) -> None:
            inputs[name] = args[0].detach()

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
    return rows, None if mask is None else mask.reshape(-1).to(rows.dtype)


def _log_probabilities(logits: Tensor) -> Tensor:
    if logits.shape[-1] == 1:  # regression: a unit-variance Gaussian around the prediction
        return torch.cat([-0.5 * logits.float().square(), torch.zeros_like(logits)], -1)
    return F.log_softmax(logits.float(), -1)


def _columns(view: BlockView, kept: Sequence[int]) -> Tensor:
    unit = torch.tensor(list(kept), dtype=torch.long)
    return (unit[:, None] * view.unit_size + torch.arange(view.unit_size)[None, :]).reshape(-1)
