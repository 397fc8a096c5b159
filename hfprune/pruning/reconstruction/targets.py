"""The dense model's residual stream, which each refitted block is to follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hfprune.core.errors import PlanError
from hfprune.families import BlockView, block_views
from hfprune.families.blocks import BlockKey
from hfprune.pruning.obs.moments import Products, SecondMoment
from hfprune.pruning.obs.refit import refit_output
from hfprune.pruning.reconstruction.common import (
    ROUNDING,
    Batch,
    Progress,
    placed,
    token_rows,
)
from hfprune.pruning.reconstruction.layer_passes import LayerPasses
from hfprune.pruning.reconstruction.memory import MEMORY
from hfprune.pruning.reconstruction.passes import captured, stopping


def refit_outputs_(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    progress: Progress | None = None,
    *,
    ridge: float = 1e-3,
    targets: RefitTargets | None = None,
    limit: float = MEMORY,
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
        targets: the teacher's side, found before on the same batches; spares
            finding it again for each of several models.
        limit: bytes that what enters the layer being fitted may take, of all batches; batches that
            find no room are passed through all layers below for each block.
    """
    mine, theirs = block_views(model), block_views(teacher)
    missing = [str(key) for key in mine if key not in theirs]
    if missing:
        raise PlanError(f"the teacher has no {', '.join(missing)}, so there is nothing to fit to")
    if not mine:
        return
    targets = targets or RefitTargets(teacher, batches)
    batches = placed(batches, model)
    passes = LayerPasses(model, batches, limit)
    for done, (key, view) in enumerate(mine.items()):
        moment = _refit_moment(passes, key, view, batches, targets)
        if moment.rounding() > ROUNDING * ridge * moment.spread():
            moment = _refit_moment(passes, key, view, batches, targets, "float64")
        old_bias = view.consumer.bias
        weight, bias = refit_output(moment, ridge=ridge, fit_bias=old_bias is not None)
        view.weight.copy_(weight.to(view.weight))
        if old_bias is not None:
            old_bias.copy_(bias.to(old_bias))
        if progress is not None:
            progress("refit", done + 1, len(mine))


def _refit_moment(
    passes: LayerPasses,
    key: BlockKey,
    view: BlockView,
    batches: Sequence[Batch],
    targets: RefitTargets,
    products: Products = "float32",
) -> SecondMoment:
    outputs, features = view.weight.shape
    moment = SecondMoment(features, outputs, device=view.weight.device, products=products)
    for index, batch in enumerate(batches):
        with (
            captured({"x": view.consumer, "stream": view.stream}) as here,
            stopping(view.consumer, view.uses),
        ):
            passes.run(index, key.layer)
        wanted = targets.wanted(key, index)
        if view.uses == 1:
            wanted = wanted - here["stream"]
        # All tokens alike: weighed by what predictions depend on, few would be fitted, and badly.
        rows, mask = token_rows(here["x"], batch)
        moment.update(rows, wanted.reshape(-1, wanted.shape[-1]), weight=mask)
    return moment


class RefitTargets:
    """What output projections are fitted to, on the teacher's side: found once for many models.

    Args:
        teacher: in eval mode; not changed.
        batches: inputs without labels.
        limit: bytes that the targets may take. If they take more, each is computed when it is
            asked for, from what enters its layer as far as there is room for that.
    """

    def __init__(
        self,
        teacher: nn.Module,
        batches: Sequence[Batch],
        *,
        limit: float = MEMORY,
    ) -> None:
        batches = placed(batches, teacher)
        self._teacher = teacher
        self._passes = LayerPasses(teacher, batches, limit)
        self._views = block_views(teacher)
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
            captured({"x": view.consumer, "stream": view.stream}) as found,
            stopping(view.consumer, view.uses),
        ):
            self._passes.run(index, key.layer)
        return self._target(view, found["x"], found["stream"])

    def _all(self, batch: Batch) -> dict[BlockKey, Tensor]:
        """The targets of all blocks, from one forward pass."""
        modules: dict[Any, nn.Module] = {
            (key, "x"): view.consumer for key, view in self._views.items()
        }
        modules |= {(key, "stream"): view.stream for key, view in self._views.items()}
        with captured(modules) as found:
            self._teacher(**batch)
        return {
            key: self._target(view, found[key, "x"], found[key, "stream"])
            for key, view in self._views.items()
        }

    @staticmethod
    def _target(view: BlockView, x: Tensor, stream: Tensor) -> Tensor:
        added: Tensor = view.consumer(x)
        return added + stream if view.uses == 1 else added
