"""Pruning while training, by gates; or whole layers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hfprune.core.errors import PlanError
from hfprune.families import model_sizes
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import PLAN_FILE, Prepared, keep, plan_in
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.training import checkpoint_of, distilled_from, make_trainer, train
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.training.checkpoints import checkpoint_files


def run(
    context: Context,
    prepared: Prepared,
    label: str,
    target: PruningConfig,
    current: SavedModel,
    teacher: SavedModel,
    table: LatencyTable | None,
) -> SavedModel:
    """Prune ``current`` to a target, and remove physically what was pruned."""
    model = prepared.saved(context, current)
    sizes = model_sizes(model)
    history: list[dict[str, Any]] = []
    if target.keep_layers is not None:
        plan = layers_plan(sizes, target.keep_layers)
        shrink_(model, plan)
    else:
        trainer = make_trainer(
            context,
            prepared,
            model,
            f"prune-{label}",
            prepared.small,
            pruning=target,
            latency=table,
            # Layers keep their places until the model is trained: see stages/finish.py.
            finishes=False,
            **distilled_from(context, prepared, prepared.teacher(context, teacher)),
        )
        found = checkpoint_of(context, f"prune-{label}", checkpoint_files(target))
        train(prepared, trainer, found)
        plan = trainer.plan or PruningPlan.dense(sizes)
        history, model = trainer.state.log_history, trainer.model
    context.console.note(sizes_text(model_sizes(model)))
    plan = after(context, current, plan)
    return keep(context, model, f"{label}-pruned", prepared.small.processor, plan, history)


def after(context: Context, current: SavedModel, plan: PruningPlan) -> PruningPlan:
    """A plan made from the model in ``current``, as one from the dense model."""
    folder = context.path(current.folder)
    return plan_in(folder).then(plan) if (folder / PLAN_FILE).is_file() else plan


def layers_plan(sizes: Sequence[tuple[int, int]], layers: Sequence[int]) -> PruningPlan:
    """The plan that keeps these layers whole and drops the others.

    Raises:
        PlanError: for a layer that the model does not have.
    """
    if layers[-1] >= len(sizes):
        raise PlanError(
            f"pruning.keep_layers {list(layers)}: the model has layers 0 to {len(sizes) - 1}"
        )
    kept = [size if layer in layers else (0, 0) for layer, size in enumerate(sizes)]
    return PruningPlan.first_units(sizes, kept)


def sizes_text(sizes: Sequence[Sequence[int]]) -> str:
    """Heads and neurons of each layer, in one line."""
    kept = " ".join(f"{heads}+{neurons}" for heads, neurons in sizes)
    return f"heads+neurons by layer: {kept}"
