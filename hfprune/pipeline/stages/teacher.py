"""The dense model: fine-tuned, or given."""

from __future__ import annotations

from typing import Any

from transformers import set_seed

from hfprune.data.token_rows import TokenRows
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.scores import score
from hfprune.models.loading import check_fits, load_classifier, load_processor
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, Reading, keep
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.training import checkpoint_of, make_trainer
from hfprune.training.distillation.reading import Original, originals_of, read_by_another


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


def outside(context: Context, prepared: Prepared) -> tuple[Any, ...]:
    """The models of ``teacher.learn_from``, each with a tokenizer of its own where it has one.

    Raises:
        CheckpointError: one cannot be read, or is not for the task of the data.
    """
    recipe, small = context.recipe, prepared.small
    found: list[Any] = []
    made: dict[bytes, Original] | None = None
    for name in recipe.teacher.learn_from:
        key, trusted = "teacher.learn_from", recipe.model.trust_remote_code
        processor = load_processor(
            name, recipe.task, revision=None, trust_remote_code=trusted, key=key
        )
        model = load_classifier(
            name, prepared.data, revision=None, trust_remote_code=trusted, key=key, trained=True
        )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = processor.pad_token_id
        made = _originals(small) if made is None else made
        length = prepared.data.max_length
        reader = read_by_another(model.eval(), processor, small.processor, length, made)
        if reader is model:
            check_fits(model, small.data, processor, ())
        found.append(reader)
    return tuple(found)


def _originals(reading: Reading) -> dict[bytes, Original]:
    """What the rows were made of that a teacher is asked about; of windows nothing is known."""
    data = reading.data
    found: dict[bytes, Original] = {}
    for name in ("train", "validation"):
        rows = TokenRows(data.split(name))
        if len(rows) == len(data.texts[name]):
            found |= originals_of(rows, data.texts[name], data.text_pairs.get(name))
    if data.unlabeled is not None and reading.unlabeled is not None:
        more = data.unlabeled
        rows = TokenRows(reading.unlabeled.select_columns(["input_ids"]))
        start = len(rows) - len(more.texts)  # after the rests of long texts
        last = (rows[place] for place in range(start, len(rows)))
        found |= originals_of(last, more.texts, more.pairs)
    return found


def tell_ceiling(context: Context, prepared: Prepared, dense: SavedModel) -> None:
    """What all teachers together reach on the validation rows, which a student may come near."""
    recipe, data = context.recipe, prepared.data
    models = [prepared.saved(context, dense), prepared.teacher(context, dense)]
    name, size = recipe.evaluation.metrics[0], recipe.training.per_device_eval_batch_size
    found = []
    for model in models:
        logits = predict_logits(model, data.validation, prepared.dense.collator, batch_size=size)
        logits, labels = data.by_text("validation", logits), data.label_array("validation")
        found.append(score(name, logits, labels, data.task, data.num_labels, data.label_names))
    outside = len(recipe.teacher.learn_from)
    what = f"{recipe.teacher.num_seeds} seeds" if not outside else f"{outside} other model(s)"
    alone = "of the first alone" if not outside else "of the dense model"
    context.console.note(
        f"teacher of {what}: validation {name} {found[1]:.4f} ({found[0]:.4f} {alone})"
    )
