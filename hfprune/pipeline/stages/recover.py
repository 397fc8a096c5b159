"""Training of the small model after the physical removal."""

from __future__ import annotations

from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, keep, plan_in
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.training import checkpoint_of, recovery_trainer, train


def run(
    context: Context,
    prepared: Prepared,
    label: str,
    pruned: str,
    teacher: SavedModel,
    learning_rate: float | None = None,
) -> SavedModel:
    """Train what is left, from the folder ``pruned``.

    Args:
        learning_rate: in place of the recipe's.
    """
    stage = f"recover-{label}"
    trainer = recovery_trainer(
        context,
        prepared,
        prepared.saved(context, pruned),
        prepared.teacher(context, teacher),
        stage,
        num_train_epochs=context.recipe.recovery.num_train_epochs,
        **({} if learning_rate is None else {"learning_rate": learning_rate}),
    )
    train(prepared, trainer, checkpoint_of(context, stage))
    plan = plan_in(context.path(pruned))
    history, processor = trainer.state.log_history, prepared.small.processor
    return keep(context, trainer.model, f"{label}-recovered", processor, plan, history)
