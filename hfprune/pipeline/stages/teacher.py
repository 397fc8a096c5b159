"""The dense model: fine-tuned, or given."""

from __future__ import annotations

from typing import Any

from transformers import set_seed

from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.scores import score
from hfprune.models.loading import check_fits
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, keep
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.training import checkpoint_of, make_trainer
from hfprune.training.distillation.ensemble import Ensemble


def run(context: Context, prepared: Prepared) -> SavedModel:
    """Fine-tune the dense model, or take the one that the recipe names as it is.

    A sentence encoder is taken as it is: what it says is what is to be kept.
    """
    recipe = context.recipe
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
        return _trained(context, prepared, model, "teacher")
    return keep(context, model, "teacher", processor)


def another(context: Context, prepared: Prepared, number: int) -> SavedModel:
    """Fine-tune the dense model once more, with another seed, to learn from.

    Args:
        number: from 2.
    """
    recipe, seed = context.recipe, context.recipe.training.seed + number - 1
    set_seed(seed)  # of the new head, too
    model = prepared.load(
        context, recipe.model.name_or_path, recipe.model.revision, new_head=recipe.model.new_head
    )
    return _trained(context, prepared, model, f"teacher-{number}", seed=seed)


def _trained(
    context: Context, prepared: Prepared, model: Any, name: str, **changes: Any
) -> SavedModel:
    own = context.recipe.teacher.model_dump(include={"num_train_epochs", "learning_rate"})
    changes |= {name: value for name, value in own.items() if value is not None}
    trainer = make_trainer(context, prepared, model, name, prepared.dense, changes)
    trainer.train(resume_from_checkpoint=checkpoint_of(context, name))
    history, processor = trainer.state.log_history, prepared.dense.processor
    return keep(context, trainer.model, name, processor, history=history)


def tell_ceiling(context: Context, prepared: Prepared, dense: SavedModel) -> None:
    """What all teachers together reach on the validation rows, which a student may come near."""
    recipe, data = context.recipe, prepared.data
    models = [prepared.saved(context, model) for model in (dense, *prepared.taught.others)]
    name, size = recipe.evaluation.metrics[0], recipe.training.per_device_eval_batch_size
    found = []
    for model in (models[0], Ensemble(models)):
        logits = predict_logits(model, data.validation, prepared.dense.collator, batch_size=size)
        logits, labels = data.by_text("validation", logits), data.label_array("validation")
        found.append(score(name, logits, labels, data.task, data.num_labels, data.label_names))
    context.console.note(
        f"teacher of {len(models)} seeds: validation {name} {found[1]:.4f} "
        f"({found[0]:.4f} of the first alone)"
    )
