"""Training of the small model after the physical removal."""

from __future__ import annotations

import json

from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import PLAN_FILE, Prepared, keep
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.training import checkpoint_of, recovery_trainer, train
from hfprune.pruning.plan import PruningPlan


def run(
    context: Context, prepared: Prepared, label: str, pruned: str, teacher: SavedModel
) -> SavedModel:
    """Train what is left, from the folder ``pruned``."""
    stage = f"recover-{label}"
    trainer = recovery_trainer(
        context,
        prepared,
        prepared.saved(context, pruned),
        prepared.saved(context, teacher),
        stage,
        num_train_epochs=context.recipe.recovery.num_train_epochs,
    )
    train(prepared, trainer, checkpoint_of(context, stage))
    file = context.path(pruned) / PLAN_FILE
    plan = PruningPlan.from_dict(json.loads(file.read_text(encoding="utf-8")))
    history, processor = trainer.state.log_history, prepared.small.processor
    return keep(context, trainer.model, f"{label}-recovered", processor, plan, history)
