"""`HFPruneTrainer`: a `transformers.Trainer` that prunes while it trains.

What is pruned when is the business of :class:`~hfprune.training.pruner.Pruner`, what a teacher
teaches that of :class:`~hfprune.training.distillation.teaching.Teaching`. Both ride on the
Trainer's own hooks (callbacks, ``compute_loss``, ``_save_checkpoint``), so gradient accumulation,
mixed precision, evaluation, early stopping, best-model loading and resuming stay the Trainer's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from hfprune.core.errors import TrainingError
from hfprune.core.kinds import become_reranker_, gives_embeddings, is_reranker, takes_images
from hfprune.data.candidates import QUERY_ROW
from hfprune.data.images import IMAGE_COLUMN
from hfprune.models.embedding import cut_as_read_
from hfprune.pruning.cost import LatencyTable
from hfprune.recipe.sections.lessons import NOTHING_TO_SCORE
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig
from hfprune.training import checks
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.losses import EMBEDDING
from hfprune.training.distillation.nearness import (
    DIVERGENCE,
    Nearness,
    is_divergence,
    with_predictions,
)
from hfprune.training.distillation.reading import teacher_with_tokenizer
from hfprune.training.distillation.rows import TaughtRows
from hfprune.training.distillation.teaching import (
    ROW_NUMBERS,
    Teaching,
    load_teacher,
    without_rows,
)
from hfprune.training.gated import TrainsWithGates
from hfprune.training.samplers import (
    by_query,
    evaluated_in_order,
    has_queries,
    in_fixed_order,
)
from hfprune.training.sharding import version_of, why_not

logger = logging.getLogger(__name__)


@cache
def _warn_once(told: str) -> None:
    """A run trains several times on the same rows."""
    logger.warning("%s", told)


class HFPruneTrainer(TrainsWithGates):
    """One training that prunes heads, neurons and whole blocks with gates, then removes them.

    What people import is :class:`hfprune.api.trainer.HFPruneTrainer`, which is this and reaches the
    other targets by several of these trainings. What it promises, how it differs from the Trainer,
    and the arguments are described there; here ``pruning`` must be reached in one training.

    Args:
        model to preprocess_logits_for_metrics: as of :class:`transformers.Trainer`.
        latency: measured times of blocks, needed for ``pruning.speedup``.
        pruning to careful, trainer_arguments: as of the other.

    Raises:
        TrainingError: for settings that cannot work (DeepSpeed, gates under FSDP, DataParallel, a
            teacher that does not match), and targets of several trainings, before any training.
        RecipeError: for keys and values of ``pruning`` and ``distillation``.
        UnsupportedModelError: if the model's family has no adapter.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., torch.Tensor] | None = None,
        *,
        pruning: PruningConfig | Mapping[str, Any] | str | PathLike[str] | None = None,
        distillation: DistillationConfig | Mapping[str, Any] | None = None,
        teacher: nn.Module | str | Path | None = None,
        latency: LatencyTable | None = None,
        unlabeled_dataset: Dataset | None = None,
        teacher_cache: TeacherCache | None = None,
        careful: bool | None = None,
        **trainer_arguments: Any,
    ) -> None:
        self.pruning = checks.read_pruning(pruning)
        self.distillation = checks.read_distillation(distillation)
        if self.pruning is not None:
            checks.check_target(self.pruning, latency)
        checks.check_teacher(teacher, self.distillation, unlabeled_dataset)
        self.careful = self.pruning is not None if careful is None else careful
        self._differs = self.pruning is not None or teacher is not None or self.careful
        self._ranks = has_queries(train_dataset)
        if self._ranks and isinstance(model, PreTrainedModel):
            become_reranker_(model.config)
        if processing_class is not None:  # transformers 4 refuses it beside an old name of it
            trainer_arguments["processing_class"] = processing_class
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            **trainer_arguments,
        )
        checks.check_environment(
            self.args,
            deepspeed=self.is_deepspeed_enabled,
            fsdp=why_not(version_of(self.accelerator)) if self.is_fsdp_enabled else None,
        )
        cut_as_read_(self.bare_model(), self._reader())
        if self._differs:
            own = compute_loss_func or type(self).compute_loss is not HFPruneTrainer.compute_loss
            if teacher is not None or not own:
                checks.require_head(self.bare_model(), "model")
            # The loss of each micro-batch is its own mean, so the Trainer must divide by the number
            # of accumulated batches; encoders' heads average over samples, not over tokens.
            self.model_accepts_loss_kwargs = False
            checks.train_in_float32_(self.bare_model())
        if is_divergence(self.args.metric_for_best_model):
            self.args.greater_is_better = False  # TrainingArguments takes it for an accuracy
        self._own_optimizer = any(part is not None for part in optimizers)
        self._as_it_is = False  # whether files are for resuming
        # Shows how far the teacher's answers are: (rows done, rows in all). None: a bar of tqdm.
        self.teacher_progress: Callable[[int, int], None] | None = None
        self._own_loss: Any = None  # a subclass's, while the teacher's part is added to it
        self.set_up(self.pruning, latency)
        self.learn_from(teacher, self.distillation, unlabeled_dataset, teacher_cache)
        if self._differs:
            self._hook_in()

    def learn_from(
        self,
        teacher: nn.Module | str | Path | None,
        distillation: DistillationConfig | None,
        unlabeled_dataset: Dataset | None = None,
        teacher_cache: TeacherCache | None = None,
    ) -> None:
        """What trainings from now on distil; arguments as of the class."""
        self.distillation, self.teaching = distillation, None
        self.teacher_cache = teacher_cache
        self._rows = TaughtRows(unlabeled_dataset, teacher_cache)
        self._nearness: Nearness | None = None
        if self._own_loss is not None:
            vars(self).pop("compute_loss", None)
            self._own_loss = None
        if teacher is None:
            return
        self.distillation = distillation or DistillationConfig()
        student = self.bare_model()
        self.teaching = Teaching(
            load_teacher(teacher, student, self.args.device, self._reads_otherwise),
            self.distillation,
            student,
            lambda: self.pruner.sizes(self.bare_model()),
            lambda: self.pruner.complete,
        )
        quiet = self.distillation.dropout is False and self.teaching.problem == EMBEDDING
        if quiet and self.pruning is not None and self.pruning.by_gates:
            raise TrainingError(NOTHING_TO_SCORE)
        if is_divergence(self.args.metric_for_best_model):
            self._nearness = Nearness(self.teaching)
        if type(self).compute_loss is not HFPruneTrainer.compute_loss:
            self._own_loss = self.compute_loss
            completed = self.teaching.completing(self._own_loss, self.bare_model)
            vars(self)["compute_loss"] = completed

    def _reads_otherwise(self, model: Any, name: str) -> Any:
        """A teacher from a folder, whose tokenizer lies there, for rows of this one's."""
        return teacher_with_tokenizer(model, name, self._reader(), self.distillation)

    def _reader(self) -> Any:
        """The tokenizer of the rows, as far as there is one."""
        return self.processing_class or getattr(self.data_collator, "tokenizer", None)

    @property
    def teacher(self) -> Any:
        """The teacher's module, if there is one."""
        return None if self.teaching is None else self.teaching.teacher

    # -- what happens when ----------------------------------------------------------------------

    def _refuse(self) -> None:
        gone = self._own_optimizer and self.optimizer is None
        if gone and self.pruner.shrunk(self.bare_model()):
            raise TrainingError(checks.OPTIMIZER_GONE)
        if self.teaching is None and is_divergence(self.args.metric_for_best_model):
            raise TrainingError(checks.NO_DIVERGENCE)

    def _prepare(self) -> None:
        super()._prepare()
        self._prepare_rows()

    def call_model_init(self, trial: Any = None) -> Any:
        """As ``Trainer.call_model_init``; the model in float32."""
        model = super().call_model_init(trial)
        if self._ranks:
            become_reranker_(model.config)
        if hasattr(self, "processing_class"):  # else the Trainer is being made, and does so later
            cut_as_read_(model, self._reader())
        return checks.train_in_float32_(model) if self._differs else model

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As ``Trainer.training_step``; stops at a loss that is not finite."""
        lessons = 0 if self.teaching is None else self.teaching.lessons
        loss = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.teaching is not None and self.teaching.lessons == lessons:
            raise TrainingError(checks.NOT_TAUGHT)
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        labels = inputs.get("labels")
        if labels is not None and labels.dim() == 1 and is_reranker(self.bare_model().config):
            # One number a pair, as sentence-transformers has it, for one output a pair.
            inputs["labels"] = labels.float().reshape(-1, 1)
        return inputs

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.evaluation_loop``, of the model as it is pruned so far.

        With ``metric_for_best_model="divergence"`` also how far its predictions are from the
        teacher's.
        """
        nearness = self._nearness
        if nearness is None:
            return super().evaluation_loop(*args, **kwargs)
        args, kwargs = with_predictions(args, kwargs)
        found = super().evaluation_loop(*args, **kwargs)
        loader = args[0] if args else kwargs["dataloader"]
        value = nearness.of(self, loader.dataset, found.predictions, found.label_ids)
        prefix = kwargs.get("metric_key_prefix", args[4] if len(args) > 4 else "eval")
        return found._replace(metrics={**(found.metrics or {}), f"{prefix}_{DIVERGENCE}": value})

    # -- losses and rows ------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The task's loss; while training with a teacher, plus the distillation losses."""
        teaching = self.teaching
        queries = inputs.get(QUERY_ROW)
        inputs, rows = without_rows(inputs)
        if teaching is None or not teaching.learns(model):
            if "labels" not in inputs and gives_embeddings(self.bare_model()):
                raise TrainingError(checks.NOTHING_TO_EMBED_LIKE)
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        teaching.stop_dropout_(model)
        if "labels" not in inputs and teaching.problem == EMBEDDING:
            outputs, label = model(**inputs, **teaching.asks), 0.0
        else:
            label, outputs = super().compute_loss(
                model,
                {**inputs, **teaching.asks},
                return_outputs=True,
                num_items_in_batch=num_items_in_batch,
            )
        extra = teaching.loss(outputs, inputs, rows, queries)
        if self.compute_loss_func is not None and num_items_in_batch is not None:
            # A user's loss function divides by the whole batch itself, and the Trainer then no
            # longer divides by the number of accumulated batches.
            extra = extra / self.current_gradient_accumulation_steps
        loss = teaching.settings.label_weight * label + extra
        return (loss, outputs) if return_outputs else loss

    def _prepare_rows(self) -> None:
        """Compute the teacher's outputs on the training rows, where that pays."""
        if self.teaching is None:
            return
        lessons = self._rows.prepare(self, self.teaching)
        self.train_dataset = lessons.dataset
        self.teaching.cache = lessons.cache if lessons.looked_up else None
        self.teacher_cache = lessons.cache or self.teacher_cache

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        settings = None if self.teaching is None else self.teaching.settings
        if settings is not None and settings.ranking_loss != "pointwise":
            of_queries = by_query(args[0] if args else self.train_dataset, self.args)
            if (told := of_queries.cut()) is not None and self.is_world_process_zero():
                _warn_once(f"{settings.ranking_loss}: {told}")
            return of_queries
        sampler = super()._get_train_sampler(*args, **kwargs)
        return in_fixed_order(sampler, self.args)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return evaluated_in_order(super()._get_eval_sampler(eval_dataset))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = cast(list[str], self._signature_columns)
        kept = (*ROW_NUMBERS, IMAGE_COLUMN) if takes_images(self.bare_model()) else ROW_NUMBERS
        columns += [name for name in kept if name not in columns]
