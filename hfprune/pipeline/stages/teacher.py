"""The dense model: fine-tuned, or given."""

from __future__ import annotations

from typing import Any

from hfprune.models.loading import check_fits
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, keep
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.training import checkpoint_of, make_trainer


def run(context: Context, prepared: Prepared) -> SavedModel:
    """Fine-tune the dense model, or take the one that the recipe names as it is.

    A sentence encoder is taken as it is: what it says is what is to be kept.
    """
    recipe = context.recipe
    history: list[dict[str, Any]] = []
    given = recipe.teacher.name_or_path
    if given is not None:
        model = prepared.load(
            context, given, recipe.teacher.revision, key="teacher.name_or_path", trained=True
        )
    else:
        start, revision = recipe.model.name_or_path, recipe.model.revision
        model = prepared.load(context, start, revision, new_head=recipe.model.new_head)
    processor = prepared.dense.processor
    check_fits(model, prepared.data, processor, recipe.benchmark.sequence_lengths)
    if given is None and recipe.task != "sentence_embedding":
        own = recipe.teacher.model_dump(include={"num_train_epochs", "learning_rate"})
        changes = {name: value for name, value in own.items() if value is not None}
        trainer = make_trainer(context, prepared, model, "teacher", prepared.dense, changes)
        trainer.train(resume_from_checkpoint=checkpoint_of(context, "teacher"))
        model, history = trainer.model, trainer.state.log_history
    return keep(context, model, "teacher", processor, history=history)
