"""`HFPruneTrainer`: a `transformers.Trainer` that prunes while it trains.

What is pruned when is the business of :class:`~hfprune.training.pruner.Pruner`, what a teacher
teaches that of :class:`~hfprune.training.distillation.teaching.Teaching`. Both ride on the
Trainer's own hooks (callbacks, ``compute_loss``, ``_save_checkpoint``), so gradient accumulation,
mixed precision, evaluation, early stopping, best-model loading and resuming stay the Trainer's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from hfprune.core.errors import TrainingError
from hfprune.core.faults import is_out_of_memory
from hfprune.core.kinds import takes_images
from hfprune.data.images import IMAGE_COLUMN
from hfprune.families import model_sizes
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.importance import is_gradient_score
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.state import read_state, write_state
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig
from hfprune.training import faults
from hfprune.training.checkpoints import checkpoint_files, last_checkpoint
from hfprune.training.checks import check_environment, check_target
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.rows import ROW_COLUMN, ROW_NUMBERS, TaughtRows, special_ids
from hfprune.training.distillation.teaching import Teaching, load_teacher, stop_dropout_
from hfprune.training.pruner import Pruner
from hfprune.training.samplers import GroupedByLength


class _PruningCallback(TrainerCallback):
    """Carries the Trainer's events to the pruner."""

    def __init__(self, trainer: HFPruneTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer.pruner.begin(self._trainer._bare_model(), state.max_steps)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._before_optimizer()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._after_step()


class HFPruneTrainer(Trainer):
    """Prunes heads, neurons and whole blocks during fine-tuning, then removes them.

    Use it as ``Trainer``; the further arguments are keywords. While training, what is pruned is
    gated (multiplied by zero); when ``train()`` returns, ``self.model`` is physically smaller and
    ``save_model``, ``evaluate`` and ``predict`` work on that.

    The best model, early stopping and ``load_best_model_at_end`` only look at evaluations made
    after the target has been reached: an earlier one would win by being less pruned.

    Sparsity and counts are logged as ``pruning/sparsity``, ``pruning/heads``, ``pruning/neurons``
    and ``pruning/blocks``. The trackers of ``report_to`` show them as ``train/pruning/...``, for
    the Trainer puts ``train/`` before all that is no evaluation.

    Args:
        *args, **kwargs: as :class:`transformers.Trainer`.
        pruning: what to reach and how; ``None`` trains without pruning (distillation still works).
        distillation: weights of the losses against the teacher; needs ``teacher``.
        latency: measured times of blocks, needed for ``pruning.speedup``.
        teacher: the dense fine-tuned model (a module, or a path / Hub name); without
            ``distillation`` its default is used.
        unlabeled_dataset: more rows of token ids that are distilled on, with the teacher's decision
            as their label; the columns of the model's inputs are enough. Needs ``teacher``.
        teacher_cache: what an earlier trainer of the same teacher, rows and distillation left as
            its ``teacher_cache``; the outputs in it are not computed again.

    Raises:
        TrainingError: for settings that cannot work (DeepSpeed, FSDP, DataParallel, a teacher that
            does not match), before anything is trained.
        UnsupportedModelError: if the model's family has no adapter.
    """

    def __init__(
        self,
        *args: Any,
        pruning: PruningConfig | None = None,
        distillation: DistillationConfig | None = None,
        teacher: nn.Module | str | Path | None = None,
        latency: LatencyTable | None = None,
        unlabeled_dataset: Dataset | None = None,
        teacher_cache: TeacherCache | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if pruning is not None:
            check_target(pruning, latency)
        for given, name in (
            (unlabeled_dataset, "unlabeled_dataset needs a teacher that labels it"),
            (distillation, "distillation needs a teacher"),
        ):
            if given is not None and teacher is None:
                raise TrainingError(
                    f"{name}: pass teacher=<the dense fine-tuned model or its path>, or leave "
                    f"{name.partition(' ')[0]} out"
                )
        # The loss of each micro-batch is its own mean, so the Trainer must divide by the number of
        # accumulated batches; encoders' heads average over samples, not over tokens.
        self.model_accepts_loss_kwargs = False
        check_environment(self.args, deepspeed=self.is_deepspeed_enabled, fsdp=self.is_fsdp_enabled)
        self._batch = ""
        self.pruning = pruning
        self.pruner = Pruner(pruning, latency, self.args.seed)
        self.pruner.forget(self._bare_model())
        self.teacher_cache = teacher_cache
        self.teaching: Teaching | None = None
        self._rows = TaughtRows(unlabeled_dataset, teacher_cache)
        if teacher is not None:
            self.teaching = Teaching(
                load_teacher(teacher, self._bare_model(), self.args.device),
                distillation or DistillationConfig(),
                self._bare_model(),
            )
        self.add_callback(_PruningCallback(self))

    @property
    def plan(self) -> PruningPlan | None:
        """What is kept of the model as it came in; ``None`` where nothing is pruned."""
        return self.pruner.plan

    @property
    def teacher(self) -> Any:
        """The teacher's module, if there is one."""
        return None if self.teaching is None else self.teaching.teacher

    def _bare_model(self) -> nn.Module:
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    # -- what happens when ----------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; then what was pruned is physically removed.

        ``resume_from_checkpoint=True`` means the newest checkpoint that is whole.

        Raises:
            TrainingError: the loss or the gradients are not finite, memory ran out, or training
                ended before the target was reached; names the step and the last whole checkpoint.
            OutputError: a checkpoint could not be written.
        """
        try:
            self.pruner.forget(self._bare_model())
            self._prepare_rows()
            if resume_from_checkpoint is True:
                found = last_checkpoint(str(self.args.output_dir), self._needed_files())
                resume_from_checkpoint = True if found is None else str(found)
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        except Exception as error:
            if isinstance(error, TrainingError) or not is_out_of_memory(error):
                raise
            text = faults.out_of_memory(
                error, self.args, self.state.global_step + 1, self._batch, self._last_good()
            )
            raise TrainingError(text) from error
        finally:
            self.pruner.release()
        if not self.pruner.complete:
            raise TrainingError(
                "training ended before pruning reached its target (a callback stopped it, or it "
                "had no steps); train longer or let pruning end earlier (pruning.end)"
            )
        self.shrink()
        return result

    def shrink(self) -> nn.Module:
        """Remove from ``self.model`` what the plan does not keep; returns the model.

        Called by :meth:`train`. Afterwards the trainer no longer prunes: a further ``train()``
        fine-tunes the small model with a new optimizer.
        """
        model = self._bare_model()
        if self.pruner.shrink(model):
            self.model = self.model_wrapped = model
            self.optimizer = self.lr_scheduler = None
        return model

    def _prepare_rows(self) -> None:
        if self.teaching is None:
            return
        self.teaching.cache = None
        lessons = self._rows.prepare(
            self.train_dataset,
            self.teaching,
            self._bare_model(),
            self.data_collator,
            epochs=self.args.num_train_epochs,
            batch_size=self.args.per_device_eval_batch_size,
            seed=self.args.seed,
            special_ids=lambda: special_ids(
                self.processing_class or getattr(self.data_collator, "tokenizer", None)
            ),
            precision=self.compute_loss_context_manager,
        )
        self.train_dataset = lessons.dataset
        if lessons.cache is not None:
            self.teacher_cache = lessons.cache
        if lessons.looked_up:
            self.teaching.cache = lessons.cache

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        """As ``Trainer.training_step``; stops at a loss that is not finite."""
        self._batch = faults.describe_batch(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, *args)
        if not bool(torch.isfinite(loss).all()):
            raise TrainingError(
                faults.loss_not_finite(
                    float(loss), self.state.global_step + 1, self._batch, self._last_good()
                )
            )
        return loss

    def _before_optimizer(self) -> None:
        """Stop before a gradient that is not finite is spread over all weights; score."""
        # float16: the scaler skips such steps and tries a smaller scale
        scaler = getattr(self.accelerator, "scaler", None)
        finite = scaler is not None or faults.finite_gradients(self._bare_model())
        if finite:
            scale = float(scaler.get_scale()) if scaler is not None else 1.0
            finite = self.pruner.collect(scale, self.args.world_size) or scaler is not None
        if not finite:
            raise TrainingError(
                faults.gradients_not_finite(self.state.global_step + 1, self._last_good())
            )

    def _after_step(self) -> None:
        step, steps = self.state.global_step, self.state.max_steps
        if self.pruner.step(self._bare_model(), step, steps, self.args.world_size):
            # Logging counts as the step's log: without this, its loss would go unlogged.
            due = self.control.should_log
            self.log(self.pruning_metrics())
            self.control.should_log = due

    def pruning_metrics(self) -> dict[str, float]:
        """Where pruning stands, as logged: sparsity in [0, 1] of encoder weights, and counts."""
        return self.pruner.metrics()

    def _needed_files(self) -> tuple[str, ...]:
        prunes = self.pruner.prunes(self._bare_model())
        return checkpoint_files(self.pruning) if self.pruning is not None and prunes else ()

    def _last_good(self) -> str:
        return faults.last_good(str(self.args.output_dir), self._needed_files())

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
        rows = inputs.get(ROW_COLUMN)
        inputs = {name: value for name, value in inputs.items() if name not in ROW_NUMBERS}
        if teaching is None or not model.training:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if not teaching.settings.dropout:
            stop_dropout_(model)
        label, outputs = super().compute_loss(
            model,
            {**inputs, "output_hidden_states": teaching.wants_hidden},
            return_outputs=True,
            num_items_in_batch=num_items_in_batch,
        )
        extra = teaching.loss(outputs, inputs, rows, self.pruner.sizes(self._bare_model()))
        if self.compute_loss_func is not None and num_items_in_batch is not None:
            # A user's loss function divides by the whole batch itself, and the Trainer then no
            # longer divides by the number of accumulated batches.
            extra = extra / self.current_gradient_accumulation_steps
        loss = teaching.settings.label_weight * label + extra
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
            # Groups of what all processes take in one step: the order is that of a single process
            # with as many times the batch.
            sampler.batch_size *= self.args.world_size
            return GroupedByLength(sampler, seed)
        return sampler

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = cast(list[str], self._signature_columns)
        kept = (*ROW_NUMBERS, IMAGE_COLUMN) if takes_images(self._bare_model()) else ROW_NUMBERS
        columns += [name for name in kept if name not in columns]

    # -- best model, checkpoints ----------------------------------------------------------------

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if not self.pruner.complete:
            return False
        if super()._determine_best_metric(metrics, trial):
            return True
        if not self._wins_a_tie(metrics):
            return False
        self.state.best_global_step = self.state.global_step
        return True

    def _wins_a_tie(self, metrics: dict[str, float]) -> bool:
        """Whether the metric is as good as the best so far, and the loss better.

        On a few hundred rows an accuracy takes few values, so ties are common, and the first of
        them, which the Trainer would keep, is the one that was trained least.
        """
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        best = self.state.best_metric
        if best is None or "eval_loss" not in metrics or metrics.get(name) != best:
            return False
        losses = [
            entry["eval_loss"]
            for entry in self.state.log_history
            if entry.get("step") == self.state.best_global_step and "eval_loss" in entry
        ]
        return bool(losses) and metrics["eval_loss"] < losses[-1]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"

        def remove() -> None:
            if self.args.should_save:  # half a checkpoint only takes space
                shutil.rmtree(folder, ignore_errors=True)

        with faults.explained_writing(folder, remove, self._last_good):
            state = self.pruner.state()
            # First ours: the Trainer writes trainer_state.json last, so what has it is whole.
            if state is not None and self.args.should_save:
                write_state(folder, state)
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        bare = self._bare_model()
        if self.pruning is not None and self.pruner.prunes(bare):
            folder, scores = Path(resume_from_checkpoint), is_gradient_score(self.pruning.score)
            self.pruner.resume(read_state(folder, model_sizes(bare), scores=scores))
