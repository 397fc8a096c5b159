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
from hfprune.programme import level_counts, search_weights
from hfprune.reconstruction import SecondMoment, obs_prune, refit_output
from hfprune.structure import BlockView, block_views, model_sizes
from hfprune.surgery import shrink_

Batch = Mapping[str, Tensor]
BlockCost = Callable[[BlockKey, int], float]
Progress = Callable[[str, int, int], None]

# Share of the mean diagonal added to the Hessians: enough for the float64 solves, too little to
# be seen in the weights.
DAMPING_RATIO = 1e-3
# How far the refit attends to the tokens that predictions depend on; the rest goes to all alike.
FOCUS = 0.9


@dataclass(frozen=True)
class BlockLevels:
    """What one block can become.

    Attributes:
        counts: units kept at each level, descending from all to 0.
        kept: indices of the units kept at each level.
        weights: the repaired output projection ``(outputs, kept * unit_size)`` of each level.
        errors: float64 ``(levels,)``, ||W'X - WX||^2 over tokens weighted by how much the
            predictions depend on them; 0 for the full size.
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
    if not block_views(model):
        raise PlanError("the model has no block left to prune")
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
    """All levels of all blocks of a model, by structured OBS on the inputs that batches give.

    A token counts by how much the model's predictions depend on what the block writes there: the
    squared gradient, at the block's output, of the log-likelihood of labels drawn from the
    predictions themselves (the Fisher information, which is the Hessian of the KL divergence).
    So errors are in one unit, about the divergence that they cause, and can be added up.
    """
    views = block_views(model)
    moments = {key: SecondMoment(view.weight.shape[1]) for key, view in views.items()}
    generator = torch.Generator().manual_seed(0)
    for done, batch in enumerate(batches):
        inputs, gradients = _sensitivities(model, views, batch, generator)
        for key, x in inputs.items():
            rows, _ = _tokens(x, batch)
            moments[key].update(rows, weight=_squared(gradients[key], batch)[0])
        if progress is not None:
            progress("statistics", done + 1, len(batches))
    found = {}
    for done, (key, view) in enumerate(views.items()):
        moment = moments.pop(key)
        counts = level_counts(view.units, every=key.kind == "attention")
        result = obs_prune(
            view.weight,
            moment.hessian(DAMPING_RATIO),
            view.unit_size,
            stop_at=counts,
            damping=moment.damping(DAMPING_RATIO),
        )
        found[key] = BlockLevels(
            counts=counts,
            kept=tuple(tuple(level.kept.tolist()) for level in result.levels),
            weights=tuple(level.weight for level in result.levels),
            errors=np.array([level.error for level in result.levels]) ** 2
            * _energy(view.weight, moment),
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
    targets = [_log_probabilities(_counted(teacher(**batch).logits, batch)) for batch in judged]

    def plan_of(choice: Sequence[int]) -> PruningPlan:
        plan = dense
        for key, level in zip(keys, choice, strict=True):
            chosen = set(levels[key].kept[level])
            plan = plan.with_block(key, [u in chosen for u in range(len(plan.mask(key)))])
        return plan

    originals = {key: view.weight.clone() for key, view in block_views(model).items()}

    def loss_of(choice: list[int]) -> float:
        plan = plan_of(choice)
        _write(model, plan, levels)
        total = 0.0
        with Gates(model, plan):
            for batch, target in zip(judged, targets, strict=True):
                guess = _log_probabilities(_counted(model(**batch).logits, batch))
                total += float(F.kl_div(guess, target, reduction="batchmean", log_target=True))
        for key, view in block_views(model).items():
            view.weight.copy_(originals[key])
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
    """
    mine, theirs = block_views(model), block_views(teacher)
    missing = [str(key) for key in mine if key not in theirs]
    if missing:
        raise PlanError(f"the teacher has no {', '.join(missing)}, so there is nothing to fit to")
    if not mine:
        return
    importance = _token_weights(teacher, {key: theirs[key] for key in mine}, batches, focus)
    for done, (key, view) in enumerate(mine.items()):
        other = theirs[key]
        outputs, features = view.weight.shape
        moment = SecondMoment(features, outputs)
        for index, batch in enumerate(batches):
            with (
                _captured({"x": view.consumer, "stream": view.stream}) as here,
                _stopping(view.consumer, view.uses),
            ):
                model(**batch)
            with (
                _captured({"x": other.consumer, "stream": other.stream}) as there,
                _stopping(other.consumer, view.uses),
            ):
                teacher(**batch)
            wanted = other.consumer(there["x"])
            if view.uses == 1:
                wanted = wanted + there["stream"] - here["stream"]
            rows, _ = _tokens(here["x"], batch)
            moment.update(rows, wanted.reshape(-1, wanted.shape[-1]), weight=importance[key][index])
        old_bias = view.consumer.bias
        weight, bias = refit_output(moment, ridge=ridge, fit_bias=old_bias is not None)
        view.weight.copy_(weight.to(view.weight))
        if old_bias is not None:
            old_bias.copy_(bias.to(old_bias))
        if progress is not None:
            progress("refit", done + 1, len(mine))


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


def _log_probabilities(logits: Tensor) -> Tensor:
    if logits.shape[-1] == 1:  # regression: a unit-variance Gaussian around the prediction
        return torch.cat([-0.5 * logits.float().square(), torch.zeros_like(logits)], -1)
    return F.log_softmax(logits.float(), -1)
