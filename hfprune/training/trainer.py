"""`HFPruneTrainer`: a `transformers.Trainer` that prunes while it trains.

It decides *when* to score, plan and gate; how is the business of :mod:`importance`,
:mod:`search`, :mod:`gates` and :mod:`surgery`. Pruning rides on the Trainer's own hooks
(callbacks, ``compute_loss``, ``_save_checkpoint``), so gradient accumulation, mixed precision,
evaluation, early stopping, best-model loading and resuming stay the Trainer's.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from datasets import Dataset, concatenate_datasets
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from hfprune.core.errors import CheckpointError, OutputError, PlanError, TrainingError
from hfprune.core.faults import is_out_of_memory, why_not_written
from hfprune.core.files import atomic_write_json, cache_folder
from hfprune.core.kinds import (
    TEXT_INPUTS,
    TOKENS,
    image_tokens,
    kind_of_model,
    takes_images,
)
from hfprune.core.text import one_line
from hfprune.data.collate import ImageCollator
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.task_data import TEXT_ROW
from hfprune.data.words import IGNORED
from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.models.configs import plain_outputs_
from hfprune.models.saved import load_alike
from hfprune.pruning.cost import LatencyTable, parameter_costs
from hfprune.pruning.gates import Gates
from hfprune.pruning.importance import GradientScores, Scores, is_gradient_score, weight_scores
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.schedule import fraction
from hfprune.pruning.search import budget_plan, global_plan, plan_sparsity, uniform_plan
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig
from hfprune.training.checkpoints import SCORES_NAME, STATE_NAME, checkpoint_files, last_checkpoint
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.losses import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    compared_layers,
    hidden_loss,
    logits_loss,
)
from hfprune.training.distillation.variations import with_variations
from hfprune.training.samplers import GroupedByLength

# Column that the Trainer adds to the training rows, to look the teacher's outputs up.
ROW_COLUMN = "teacher_row"

# Columns that say which row it is, and are no input of a model.
ROW_NUMBERS = (ROW_COLUMN, TEXT_ROW)


def _check_target(pruning: PruningConfig, latency: LatencyTable | None) -> None:
    if pruning.method != "gates":
        raise TrainingError(
            "method: reconstruction prunes without training; call "
            "hfprune.pruning.reconstruction.reconstruct.prune_without_training, or use a recipe"
        )
    if pruning.vocabulary is not None:
        raise TrainingError(
            "the vocabulary is reduced before training, and the data tokenized anew; call "
            "hfprune.pruning.vocabulary.reduce.reduce_vocabulary_, or use a recipe"
        )
    if pruning.keep_layers is not None:
        raise TrainingError(
            "keep_layers drops layers at once, before any training; use hfprune.shrink_ with such "
            "a plan, or a recipe"
        )
    if pruning.max_metric_drop is not None or isinstance(pruning.speedup, list):
        raise TrainingError(
            "a family of models or a limit on the metric takes several trainings; use a recipe, or "
            "give the Trainer one sparsity or speedup at a time"
        )
    if pruning.speedup is not None and latency is None:
        raise TrainingError(
            "pruning.speedup needs measured times: pass "
            "latency=hfprune.deploy.speed.table.latency_table(...)"
        )


def _stop_dropout_(model: nn.Module) -> None:
    """Until the next ``model.train()``; gradients are computed, and recomputed, as before.

    Encoders differ in training mode by their dropout alone, which each family keeps elsewhere; but
    gradient checkpointing asks for it too.
    """
    for module in model.modules():
        if not getattr(module, "gradient_checkpointing", False):
            module.training = False


class _PruningCallback(TrainerCallback):
    """Carries the Trainer's events to the pruner."""

    def __init__(self, trainer: HFPruneTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._begin_pruning()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._check_gradients()
        self._trainer._collect_scores()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._maybe_prune()


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
            _check_target(pruning, latency)
        if unlabeled_dataset is not None and teacher is None:
            raise TrainingError(
                "unlabeled_dataset needs a teacher that labels it: pass teacher=<the dense "
                "fine-tuned model or its path>, or leave unlabeled_dataset out"
            )
        if distillation is not None and teacher is None:
            raise TrainingError(
                "distillation needs a teacher: pass teacher=<the dense fine-tuned model or its "
                "path>, or leave distillation out"
            )
        self.pruning = pruning
        self.latency = latency
        self.distillation = distillation
        if teacher is not None and distillation is None:
            self.distillation = DistillationConfig()
        self.plan: PruningPlan | None = None
        self._costs: dict[BlockKey, float] = {}
        self._gates: Gates | None = None
        self._scores: GradientScores | None = None
        self._complete = pruning is None
        self._batch_shape = ""
        self.teacher_cache = self._given_cache = teacher_cache
        self._cache: TeacherCache | None = None  # what training looks up
        self._rows: Dataset | None = None  # the training rows as they were given
        self._unlabeled = unlabeled_dataset
        # The loss of each micro-batch is its own mean, so the Trainer must divide by the number of
        # accumulated batches; encoders' heads average over samples, not over tokens.
        self.model_accepts_loss_kwargs = False
        self._check_environment()
        plain_outputs_(self._bare_model().config)
        if pruning is not None:
            self.plan = PruningPlan.dense(model_sizes(self._bare_model()))
            if is_gradient_score(pruning.score):
                self._scores = GradientScores(pruning.score, pruning.score_decay)
        self.teacher = self._load_teacher(teacher)
        self.add_callback(_PruningCallback(self))

    # -- set-up ---------------------------------------------------------------------------------

    def _bare_model(self) -> nn.Module:
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def _check_environment(self) -> None:
        for enabled, name in (
            (self.is_deepspeed_enabled, "DeepSpeed"),
            (self.is_fsdp_enabled, "FSDP"),
        ):
            if enabled:
                raise TrainingError(
                    f"{name} shards parameters, which gates and physical removal cannot follow; "
                    "use plain data parallelism (accelerate launch --multi_gpu)"
                )
        if self.args.n_gpu > 1:
            raise TrainingError(
                f"torch.nn.DataParallel over {self.args.n_gpu} GPUs is not supported; start with "
                "`accelerate launch` or set CUDA_VISIBLE_DEVICES to one GPU"
            )

    def _problem_type(self) -> str:
        config: Any = self._bare_model().config
        if config.problem_type in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
            return str(config.problem_type)
        return REGRESSION if config.num_labels == 1 else SINGLE_LABEL

    def _load_teacher(self, teacher: nn.Module | str | Path | None) -> nn.Module | None:
        if teacher is None:
            return None
        student: Any = self._bare_model()
        given = isinstance(teacher, nn.Module)
        loaded: Any = teacher if given else load_alike(str(teacher), student, "teacher")
        plain_outputs_(loaded.config)
        if loaded is student:
            raise TrainingError(
                "the teacher is the very model that is trained; pass a copy of it, or its path"
            )
        config: Any = loaded.config
        if config.num_labels != student.config.num_labels:
            raise TrainingError(
                f"the teacher has {config.num_labels} labels, the student "
                f"{student.config.num_labels}; they must be for the same task"
            )
        if isinstance(loaded, PreTrainedModel):
            theirs, mine = (getattr(c, "vocab_size", None) for c in (config, student.config))
            if theirs != mine:
                raise TrainingError(
                    f"the teacher's vocabulary has {theirs} tokens, the student's {mine}; "
                    "they read the same token ids, so both must use one tokenizer"
                )
        return cast(nn.Module, loaded.to(self.args.device).eval().requires_grad_(False))

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
            self._fill_cache()
            if resume_from_checkpoint is True:
                found = last_checkpoint(str(self.args.output_dir), self._needed_files())
                resume_from_checkpoint = True if found is None else str(found)
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        except Exception as error:
            if isinstance(error, TrainingError) or not is_out_of_memory(error):
                raise
            raise TrainingError(self._out_of_memory(error)) from error
        finally:
            if self._gates is not None:
                self._gates.detach()
        if self.pruning is not None and not self._complete:
            raise TrainingError(
                "training ended before pruning reached its target (a callback stopped it, or it "
                "had no steps); train longer or let pruning end earlier (pruning.end)"
            )
        if self._gates is not None:
            self.shrink()
        return result

    def shrink(self) -> nn.Module:
        """Remove from ``self.model`` what the plan does not keep; returns the model.

        Called by :meth:`train`. Afterwards the trainer no longer prunes: a further ``train()``
        fine-tunes the small model with a new optimizer.
        """
        model = self._bare_model()
        if self._gates is None or self.plan is None:
            return model
        self._gates.detach()
        self._gates = None
        shrink_(model, self.plan)
        self.model = self.model_wrapped = model
        self.optimizer = self.lr_scheduler = None
        self.pruning = None
        return model

    def _begin_pruning(self) -> None:
        if self.pruning is None or self.plan is None:
            return
        if self.state.max_steps <= 0:
            raise TrainingError("pruning needs at least one training step")
        if self._gates is not None:
            self._gates.detach()
        self._gates = Gates(self._bare_model(), self.plan).attach()
        self._costs = parameter_costs(self._bare_model())
        self._gates.set_trainable(self._scores is not None and not self._complete)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        """As ``Trainer.training_step``; stops at a loss that is not finite."""
        ids = inputs.get("input_ids")
        shape = None if ids is None else tuple(ids.shape)
        if shape is not None and len(shape) == 2:
            self._batch_shape = f" (a batch of {shape[0]} rows of {shape[1]} tokens)"
        loss: torch.Tensor = super().training_step(model, inputs, *args)
        if not bool(torch.isfinite(loss).all()):
            raise TrainingError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}"
                f"{self._batch_shape}: lower the learning rate, or check the labels and the "
                f"starting weights for extreme values; {self._last_good()}"
            )
        return loss

    def _check_gradients(self) -> None:
        """Stop before the optimizer spreads a gradient that is not finite over all weights."""
        if getattr(self.accelerator, "scaler", None) is not None:
            return  # float16: the scaler skips such steps and tries a smaller scale
        norms = [
            torch.linalg.vector_norm(parameter.grad)
            for parameter in self._bare_model().parameters()
            if parameter.grad is not None
        ]
        if norms and not bool(torch.isfinite(torch.stack(norms)).all()):
            raise TrainingError(self._not_finite())

    def _not_finite(self) -> str:
        return (
            f"gradients are not finite at step {self.state.global_step + 1}: lower the learning "
            f"rate, or check the data for extreme values; {self._last_good()}"
        )

    def _needed_files(self) -> tuple[str, ...]:
        return () if self.pruning is None else checkpoint_files(self.pruning)

    def _last_good(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = last_checkpoint(str(self.args.output_dir), self._needed_files())
        if found is None:
            return "no checkpoint has been written yet"
        return f"the last good checkpoint is {found}"

    def _out_of_memory(self, error: Exception) -> str:
        args = self.args
        return (
            f"out of memory at step {self.state.global_step + 1}{self._batch_shape}: lower "
            f"per_device_train_batch_size ({args.per_device_train_batch_size}) and raise "
            f"gradient_accumulation_steps ({args.gradient_accumulation_steps}) by the same factor, "
            "which keeps the result and can be resumed; or set gradient_checkpointing; or lower "
            "data.max_length, or "
            f"per_device_eval_batch_size ({args.per_device_eval_batch_size}) if it was evaluating; "
            f"{self._last_good()} ({' '.join(str(error).split())[:200]})"
        )

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
            # Groups of what all processes take in one step: the order is that of a single process
            # with as many times the batch.
            sampler.batch_size *= self.args.world_size
            return GroupedByLength(sampler, seed)
        return sampler

    def _collect_scores(self) -> None:
        """Read the gate gradients of the batch that is about to be stepped on."""
        if self._gates is None or self._scores is None or self._complete:
            return
        gradients = self._gates.gradients()
        self._gates.clear_gradients()
        scaler = getattr(self.accelerator, "scaler", None)
        scale = float(scaler.get_scale()) if scaler is not None else 1.0
        # One flat tensor: one all-reduce instead of one a block. The mean over processes is the
        # gradient of the global batch, before it is squared.
        flat = torch.cat([gradients[key] for key in gradients]) / scale
        if self.args.world_size > 1:
            dist.all_reduce(flat)
            flat /= self.args.world_size
        parts = flat.split([len(gradients[key]) for key in gradients])
        if not self._scores.update(dict(zip(gradients, parts, strict=True))) and scaler is None:
            raise TrainingError(self._not_finite())

    def _maybe_prune(self) -> None:
        pruning = self.pruning
        if pruning is None or self._gates is None or self._complete or self.plan is None:
            return
        step, last = self.state.global_step, self.state.max_steps
        progress = min(step / last, 1.0)
        end = pruning.start if pruning.schedule == "one_shot" else pruning.end
        finished = progress >= end or step >= last
        if not finished and step % pruning.update_every_steps:
            return
        share = (
            1.0 if finished else fraction(pruning.schedule, progress, pruning.start, pruning.end)
        )
        if share <= 0.0 and not finished:
            return
        self.plan = self._next_plan(share)
        self._gates.set_plan(self.plan)
        if finished:
            self._complete = True
            self._gates.set_trainable(False)
        # Logging counts as the step's log: without this, its loss would go unlogged.
        due = self.control.should_log
        self.log(self.pruning_metrics())
        self.control.should_log = due

    def _next_plan(self, share: float) -> PruningPlan:
        """The plan at a share of the target, in [0, 1]."""
        pruning, current = self.pruning, self.plan
        if pruning is None or current is None:
            raise PlanError("this trainer has no pruning configuration")
        scores = self._current_scores()
        sparsity = share * (pruning.sparsity or 0.0)
        if self.latency is not None and isinstance(pruning.speedup, float):
            table = self.latency
            price = table.price(current.totals())
            begin = sum(price(k, len(current.mask(k))) for k in current.keys())
            budget = begin + share * (table.budget_ms(pruning.speedup) - begin)
            plan = budget_plan(
                {key: scores[key] for key in self._costs},
                price,
                current,
                budget,
            )
        elif pruning.allocation == "uniform":
            plan = uniform_plan(scores, self._costs, current, sparsity)
        else:
            plan = global_plan(
                scores,
                self._costs,
                current,
                sparsity,
                min_heads=pruning.min_heads,
                min_neurons=pruning.min_neurons,
            )
        self._require_same_plan(plan)
        return plan

    def _current_scores(self) -> Scores:
        if self._scores is not None:
            if not self._scores.updates:
                raise TrainingError(
                    "no training batch gave finite gradients before the first pruning step"
                )
            return self._scores.values
        score = self.pruning.score if self.pruning is not None else "magnitude"
        return weight_scores(score, self._bare_model(), self.args.seed)

    def _require_same_plan(self, plan: PruningPlan) -> None:
        if self.args.world_size <= 1:
            return
        digests: list[str | None] = [None] * self.args.world_size
        dist.all_gather_object(digests, plan.digest())
        if len(set(digests)) > 1:
            raise TrainingError(
                f"the processes decided on different plans at step {self.state.global_step} "
                f"({digests}); all must see the same model and score settings"
            )

    def pruning_metrics(self) -> dict[str, float]:
        """Where pruning stands, as logged: sparsity in [0, 1] of encoder weights, and counts."""
        if self.plan is None:
            return {}
        sizes = self.plan.sizes()
        return {
            "pruning/sparsity": round(plan_sparsity(self.plan, self._costs), 6),
            "pruning/heads": float(sum(heads for heads, _ in sizes)),
            "pruning/neurons": float(sum(neurons for _, neurons in sizes)),
            "pruning/blocks": float(sum((h > 0) + (n > 0) for h, n in sizes)),
        }

    # -- losses ---------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The task's loss; while training with a teacher, plus the distillation losses."""
        settings = self.distillation
        rows = inputs.get(ROW_COLUMN)
        labels = inputs.get("labels")
        inputs = {name: value for name, value in inputs.items() if name not in ROW_NUMBERS}
        if self.teacher is None or settings is None or not model.training:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if not settings.dropout:
            _stop_dropout_(model)
        wants_hidden = settings.hidden_weight > 0
        inputs = {**inputs, "output_hidden_states": wants_hidden}
        teacher_inputs = {name: value for name, value in inputs.items() if name != "labels"}
        label, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        logits, hidden, mask = self._taught(teacher_inputs, rows)
        # Of tokens those count that carry a label: what the teacher says of others was not taught.
        counted = inputs.get("attention_mask") if labels is None else labels != IGNORED
        extra = settings.logits_weight * logits_loss(
            outputs.logits,
            logits,
            settings.temperature,
            self._problem_type(),
            None if outputs.logits.dim() < 3 or counted is None else counted.bool(),
        )
        if wants_hidden:
            plan = self.plan if self._gates is not None else None
            sizes = model_sizes(self._bare_model()) if plan is None else plan.sizes()
            layers = compared_layers(sizes)
            if len(hidden) == len(outputs.hidden_states) - 1 and layers:
                hidden = [hidden[layer] for layer in layers]
                mine = [outputs.hidden_states[1:][layer] for layer in layers]
            else:
                mine = outputs.hidden_states[1:]
            extra = extra + settings.hidden_weight * hidden_loss(mine, hidden, mask)
        if self.compute_loss_func is not None and num_items_in_batch is not None:
            # A user's loss function divides by the whole batch itself, and the Trainer then no
            # longer divides by the number of accumulated batches.
            extra = extra / self.current_gradient_accumulation_steps
        loss = settings.label_weight * label + extra
        return (loss, outputs) if return_outputs else loss

    def _taught(
        self, inputs: dict[str, Any], rows: torch.Tensor | None
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor], torch.Tensor | None]:
        """The teacher's logits, hidden states without embeddings, and the tokens they are of."""
        mask = inputs.get("attention_mask")
        if self._cache is not None and rows is not None:
            device, rows = rows.device, rows.cpu()
            hidden: Sequence[torch.Tensor] = ()
            length = (
                inputs["input_ids"].shape[1]
                if "input_ids" in inputs
                else image_tokens(cast(Any, self.teacher).config)
            )
            if inputs["output_hidden_states"]:
                hidden = [h.to(device) for h in self._cache.hidden_states(rows, length)]
                kept = self._cache.has_hidden(rows).to(device)[:, None]
                mask = kept.expand(-1, length) if mask is None else mask * kept
            return self._cache.logits(rows, length).to(device), hidden, mask
        with torch.no_grad():
            target = cast(Any, self.teacher)(**inputs)
        return target.logits, (target.hidden_states or ())[1:], mask

    def _fill_cache(self) -> None:
        """Compute the teacher's outputs once, where that pays and fits; add variations of rows."""
        settings, teacher = self.distillation, self.teacher
        self._cache = None
        if teacher is None or settings is None:
            return
        dataset = self.train_dataset
        columns = dataset.column_names if isinstance(dataset, Dataset) else []
        of_texts = "input_ids" in columns
        # Another collator may change images at random, so that no two epochs are alike.
        of_images = IMAGE_COLUMN in columns and isinstance(self.data_collator, ImageCollator)
        if settings.augmentation:
            self._check_augmentable(of_texts, "distillation.augmentation varies")
        if self._unlabeled is not None:
            self._check_augmentable(of_texts, "unlabeled_dataset adds to")
        if not isinstance(dataset, Dataset) or not (of_texts or of_images):
            return
        if self._rows is None:
            self._rows = dataset
        labelled, copies = len(self._rows), settings.augmentation
        rows = dataset = self._with_unlabeled(self._rows)
        if copies:
            dataset = with_variations(rows, self._special_ids(), copies, self.args.seed)
        more = len(dataset) > labelled
        hidden = len(rows) if settings.hidden_weight > 0 else 0
        tokens = 0
        if hidden and of_texts:
            tokens = sum(len(ids) for ids in rows["input_ids"])
        elif hidden:
            tokens = len(rows) * image_tokens(cast(Any, teacher).config)
        size = TeacherCache.size(teacher, tokens)
        pays = self.args.num_train_epochs >= 2 and settings.cache_limit_gb > 0
        fits = size <= settings.cache_limit_gb * 1e9
        if not more and not (pays and fits):
            return
        columns = [c for c in (*TEXT_INPUTS, IMAGE_COLUMN) if c in columns]
        hidden = hidden if fits else 0
        cache = self._given_cache
        if cache is None:
            with self.compute_loss_context_manager():
                cache = TeacherCache(
                    teacher,
                    dataset.select_columns(columns),
                    self.data_collator,
                    hidden=hidden,
                    batch_size=self.args.per_device_eval_batch_size,
                    folder=cache_folder("teacher") if more else None,
                )
        cache.require(len(dataset), hidden)
        self.teacher_cache = cache
        if more:
            dataset = self._with_teacher_labels(dataset, labelled, cache)
        if fits and settings.cache_limit_gb > 0:
            self._cache = cache
            dataset = dataset.add_column(ROW_COLUMN, list(range(len(dataset))))
        self.train_dataset = dataset

    def _check_augmentable(self, of_texts: bool, what: str) -> None:
        if not of_texts:
            raise TrainingError(
                f"{what} rows of token ids (a datasets.Dataset with input_ids), and the training "
                "data are others; leave it out"
            )
        if kind_of_model(self._bare_model()) is TOKENS:
            raise TrainingError(
                f"{what} rows whose label the teacher decides, and a token classifier has a label "
                "for each token; leave it out"
            )

    def _with_unlabeled(self, rows: Dataset) -> Dataset:
        """The rows, followed by the unlabeled ones; what is no input is copied from the first."""
        extra = self._unlabeled
        if extra is None or len(extra) == 0:
            return rows
        inputs = [name for name in rows.column_names if name in TEXT_INPUTS]
        missing = [name for name in inputs if name not in extra.column_names]
        if missing or len(rows) == 0:
            raise TrainingError(
                f"unlabeled_dataset has the columns {', '.join(extra.column_names)}, but the "
                f"{len(rows)} training rows have {', '.join(inputs)} for the model, which it needs "
                "as well"
            )
        columns = {
            name: extra[name] if name in inputs else [rows[0][name]] * len(extra)
            for name in rows.column_names
        }
        return concatenate_datasets([rows, Dataset.from_dict(columns, features=rows.features)])

    def _special_ids(self) -> list[int]:
        tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        found = getattr(tokenizer, "all_special_ids", None)
        if found is None:
            raise TrainingError(
                "distillation.augmentation must know the special tokens: pass "
                "processing_class=tokenizer, or set it to 0"
            )
        return list(found)

    def _with_teacher_labels(self, dataset: Dataset, start: int, cache: TeacherCache) -> Dataset:
        """The rows with the teacher's decisions as labels from row ``start`` on."""
        name = next((n for n in ("labels", "label") if n in dataset.column_names), None)
        if name is None:
            raise TrainingError(
                "rows that are added for distillation get the teacher's decision as label, but the "
                "training data has no column 'labels' or 'label'; columns: "
                f"{', '.join(dataset.column_names)}"
            )
        logits = cache.logits(torch.arange(start, len(dataset)))
        problem = self._problem_type()
        if problem == SINGLE_LABEL:
            decided = logits.argmax(-1)
        elif problem == MULTI_LABEL:
            decided = (logits > 0).float()
        else:
            decided = logits.squeeze(-1)
        features = dataset.features
        columns = {n: dataset[n] for n in dataset.column_names if n != name}
        columns[name] = [*dataset[name][:start], *decided.tolist()]
        return Dataset.from_dict({n: columns[n] for n in features}, features=features)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = cast(list[str], self._signature_columns)
        kept = (*ROW_NUMBERS, IMAGE_COLUMN) if takes_images(self._bare_model()) else ROW_NUMBERS
        columns += [name for name in kept if name not in columns]

    # -- best model, checkpoints ----------------------------------------------------------------

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if not self._complete:
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
        try:
            self._write_checkpoint(model, trial, folder)
        except Exception as error:
            full = why_not_written(error, folder)
            if full is None and not isinstance(error, OSError | OutputError | SafetensorError):
                raise
            if self.args.should_save:  # half a checkpoint only takes space
                shutil.rmtree(folder, ignore_errors=True)
            why = full or one_line(str(error))
            raise OutputError(
                f"cannot write the checkpoint {folder}: {why}; {self._last_good()}, and nothing "
                "earlier was changed: resume from there (resume_from_checkpoint)"
            ) from error

    def _write_checkpoint(self, model: nn.Module, trial: Any, folder: Path) -> None:
        # First ours: the Trainer writes trainer_state.json last, so what has it is whole.
        if self.plan is not None and self._gates is not None and self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            if self._scores is not None:
                save_file(self._scores.state_dict(), folder / SCORES_NAME)
            atomic_write_json(
                folder / STATE_NAME, {"plan": self.plan.to_dict(), "complete": self._complete}
            )
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.pruning is None:
            return
        folder = Path(resume_from_checkpoint)
        try:
            state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
            plan = PruningPlan.from_dict(state["plan"])
            plan.require_sizes(model_sizes(self._bare_model()))
            if self._scores is not None:
                self._scores.load_state_dict(load_file(folder / SCORES_NAME))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} holds no pruning state ({error.filename}); it was not written by an "
                "HFPruneTrainer with the same pruning settings, so it cannot be resumed from"
            ) from error
        except (ValueError, KeyError, TypeError, PlanError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: the pruning state is damaged: {error}") from error
        self.plan = plan
        self._complete = bool(state["complete"])
