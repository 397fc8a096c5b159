"""Trainers of a run, with the recipe's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import EarlyStoppingCallback, PrinterCallback

from hfprune.core.exchange import from_main
from hfprune.data.candidates import QUERY_ROW
from hfprune.data.task_data import TEXT_ROW
from hfprune.measure.metrics import make_compute_metrics
from hfprune.pipeline.context import Context
from hfprune.pipeline.decisions import USUAL_RATE, judged_metric
from hfprune.pipeline.prepared import Prepared, Reading
from hfprune.pipeline.store import CHECKPOINTS
from hfprune.training.arguments import stage_settings, training_arguments
from hfprune.training.distillation.nearness import is_divergence
from hfprune.training.trainer import HFPruneTrainer


def make_trainer(
    context: Context,
    prepared: Prepared,
    model: Any,
    stage: str,
    reading: Reading,
    changes: Mapping[str, Any] | None = None,
    *,
    finishes: bool = True,
    **pruning: Any,
) -> HFPruneTrainer:
    """A trainer with the recipe's ``training`` settings but for ``changes``.

    Args:
        finishes: as of :class:`~hfprune.training.pruner.Pruner`.
    """
    if prepared.trainer is not None:
        options = {"finishes": finishes, **pruning}
        return cast(
            HFPruneTrainer,
            prepared.trainer(context, model, stage, reading, changes or {}, **options),
        )
    recipe, data = context.recipe, reading.data
    settings = stage_settings(recipe.training, **{"bf16": prepared.bf16, **(changes or {})})
    if is_divergence(settings.metric_for_best_model) and pruning.get("teacher") is None:
        # What learns from labels alone, such as the teacher itself, is judged by them.
        settings = settings.model_copy(update={"metric_for_best_model": "loss"})
    patience = settings.early_stopping_patience
    evaluates = settings.eval_strategy != "no"  # a trial does not, and there is no stopping it
    callbacks: list[Any] = [EarlyStoppingCallback(patience)] if patience and evaluates else []
    best = settings.metric_for_best_model
    shown = judged_metric(best, None, recipe.evaluation.metrics).name
    trainer = HFPruneTrainer(
        model=model,
        args=training_arguments(
            settings,
            context.path(CHECKPOINTS) / stage,
            label_names=["labels", *({TEXT_ROW, QUERY_ROW} & set(data.train.column_names))],
            disable_tqdm=True,  # the console shows it
        ),
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=reading.collator,
        compute_loss_func=prepared.loss,
        compute_metrics=make_compute_metrics(
            recipe.evaluation.metrics, data.task, data.num_labels, data.label_names
        ),
        callbacks=[*callbacks, context.console.training(shown)],
        careful=True,
        **pruning,
    )
    trainer.pruner.finishes = finishes
    trainer.teacher_progress = context.console.before("the teacher's answers")
    # It writes to stdout, where results go.
    cast(Any, trainer).remove_callback(PrinterCallback)
    return trainer


def recovery_trainer(
    context: Context, prepared: Prepared, model: Any, teacher: Any, stage: str, **changes: Any
) -> HFPruneTrainer:
    """Training of a model that has its final size."""
    recovery = context.recipe.recovery
    model.get_input_embeddings().requires_grad_(not recovery.freeze_embeddings)
    if recovery.learning_rate is not None:
        rate = recovery.learning_rate
        changes.setdefault("learning_rate", USUAL_RATE if rate == "auto" else rate)
    distilled = distilled_from(context, prepared, teacher)
    return make_trainer(context, prepared, model, stage, prepared.small, changes, **distilled)


def distilled_from(context: Context, prepared: Prepared, teacher: Any) -> dict[str, Any]:
    """What a trainer gets to distil from the teacher of this run."""
    if context.recipe.distillation is None:
        return {}
    return {
        "distillation": context.recipe.distillation,
        "unlabeled_dataset": prepared.small.unlabeled,
        "teacher": teacher,
        "teacher_cache": prepared.taught.cache,
    }


def train(
    prepared: Prepared, trainer: HFPruneTrainer, checkpoint: str | None = None
) -> HFPruneTrainer:
    """Train, and keep the teacher's outputs for the trainings to come."""
    trainer.train(resume_from_checkpoint=checkpoint)
    prepared.taught.cache = trainer.teacher_cache
    return trainer


def checkpoint_of(context: Context, stage: str, needed: Sequence[str] = ()) -> str | None:
    """The checkpoint that a training goes on from, the same in all processes."""
    found = None
    if context.is_main:
        warn = context.console.warn
        place = context.store.checkpoint(stage, context.inputs, tuple(needed), warn)
        if place is not None:
            context.console.note(f"{stage}: resuming from {place.name}")
            found = str(place)
    answer: str | None = from_main(found)
    return answer
