"""The rows: read, checked, split, tokenized; and what is known before any training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets import concatenate_datasets

from hfprune.core.machine import BFLOAT16_WORTH, bfloat16_gain, bfloat16_pays
from hfprune.data.loading import load_task_data, rest_of_texts, unlabeled_rows
from hfprune.data.task_data import SPLITS, TEXT_ROW, TaskData
from hfprune.data.uses import read_use, uses_of
from hfprune.measure.metrics import load_metrics
from hfprune.models.loading import load_processor
from hfprune.pipeline.context import Context
from hfprune.pipeline.fingerprint import data_digest, digest_of, model_digest
from hfprune.pipeline.prepared import Prepared, Reading
from hfprune.pipeline.results import Precision
from hfprune.pipeline.stages import embeddings
from hfprune.recipe.sections.model import TeacherConfig
from hfprune.training.imbalance import balanced_weights, weighted_loss


def prepare(context: Context) -> Prepared:
    """Read the rows; from here on it is known what all results follow from."""
    recipe, model = context.recipe, context.recipe.model
    with context.console.stage("data"):
        own = model.tokenizer is None
        processor = load_processor(
            model.tokenizer or model.name_or_path,
            recipe.task,
            revision=model.revision if own else model.tokenizer_revision,
            trust_remote_code=model.trust_remote_code,
            key="model.name_or_path" if own else "model.tokenizer",
        )
        for use, file in uses_of(recipe.evaluation):
            read_use(use, file)  # whole, as a mistake would else come after all training
        data = load_task_data(recipe.data, processor, recipe.task, prompt=embeddings.prompt(recipe))
        dense = reading_by(context, processor, data)
        context.console.note(described(data))
        for notice in data.notices:
            tell = context.console.warn if notice.level == "warning" else context.console.note
            tell(notice.text)
        _note_unlabeled(context, dense)
        weights, loss = _weighted_loss(context, data)
        load_metrics(recipe.evaluation.metrics, data.task, data.num_labels, data.label_names)
        embeds = recipe.task == "sentence_embedding"
        if context.is_main:
            context.store.follow_from(
                data=data_digest(data),
                model=model_digest(
                    recipe.model.name_or_path, recipe.model.revision, modules=embeds
                ),
                given=_teachers_digest(recipe.teacher, modules=embeds),
            )
    if recipe.task == "sentence_embedding":
        dense = embeddings.labelled(context, dense)
    return Prepared(dense, dense, loss, weights, bf16=_precision(context))


def _teachers_digest(teacher: TeacherConfig, *, modules: bool) -> Any:
    given = model_digest(teacher.name_or_path, teacher.revision, modules=modules)
    if not teacher.learn_from:
        return given
    return digest_of([given, *(model_digest(name, None) for name in teacher.learn_from)])


def reading_by(context: Context, processor: Any, data: TaskData) -> Reading:
    """How a model with this processor reads the rows."""
    distillation = context.recipe.distillation
    parts = []
    if distillation is not None and distillation.rest_of_texts:
        parts.append(rest_of_texts(data, processor))
    more = unlabeled_rows(data, processor)
    if more is not None:
        parts.append(more.select_columns(parts[0].column_names) if parts else more)
    unlabeled = concatenate_datasets(parts) if parts else None
    return Reading(processor, data, context.recipe.task, unlabeled)


def _note_unlabeled(context: Context, reading: Reading) -> None:
    distillation = context.recipe.distillation
    if distillation is None or not distillation.rest_of_texts or reading.unlabeled is None:
        return
    more = reading.data.unlabeled
    rest = len(reading.unlabeled) - (0 if more is None else len(more.texts))
    if rest == 0:
        context.console.warn(
            f"distillation.rest_of_texts adds nothing: no training text goes on for a quarter "
            f"of data.max_length ({reading.data.max_length}) beyond it"
        )
    else:
        context.console.note(f"{rest} more rows to distil on: the rest of training texts")


def _precision(context: Context) -> bool:
    """Whether to train in bfloat16: one answer for all processes, and for a resumed run."""
    wanted = context.recipe.training.bf16
    if wanted == "auto":
        return context.stage(
            "precision", Precision, lambda: Precision(bf16=bfloat16_pays()), {}, by_main=True
        ).bf16
    gain = bfloat16_gain() if wanted else 1.0
    if gain < 1 / BFLOAT16_WORTH:
        context.console.warn(
            f"training.bf16 is true, but this machine multiplies {1 / gain:.1f} times slower "
            "in bfloat16 than in float32; write bf16: auto, which uses it where it is faster"
        )
    return bool(wanted)


def _weighted_loss(
    context: Context, data: TaskData
) -> tuple[list[float] | None, Callable[..., Any] | None]:
    """Weights of the classes and the loss that has them; ``None`` where they count alike."""
    weights = context.recipe.training.class_weights
    if weights == "balanced":
        weights = balanced_weights(data.label_array("train"), data.num_labels, data.task)
    if weights is None:
        return None, None
    found = [float(weight) for weight in weights]
    return found, weighted_loss(found, data.task, data.num_labels)


def described(data: TaskData) -> str:
    """The rows in one line."""
    parts = [f"{data.size(name)} {name}" for name in SPLITS]
    cut = sum(data.truncated.values())
    note = f"; {cut} texts cut at {data.max_length} tokens" if cut else ""
    if TEXT_ROW in data.train.column_names:
        rows = sum(len(data.split(name)) for name in SPLITS)
        note = f"; {rows} windows of up to {data.max_length} tokens"
    labels = "no" if data.task == "sentence_embedding" else data.num_labels
    return ", ".join(parts) + f" samples, {labels} labels{note}"
