"""What is refused before anything is trained."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
import transformers
from torch import nn

from hfprune.core.errors import TrainingError
from hfprune.core.kinds import without_head
from hfprune.models.configs import plain_outputs_
from hfprune.pruning.cost import LatencyTable
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.base import Section
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig

SectionT = TypeVar("SectionT", bound=Section)


def read_pruning(value: Any) -> PruningConfig | None:
    """What is to be pruned, from what a user wrote.

    Args:
        value: the configuration itself, a mapping of its keys, the path of a recipe whose
            ``pruning`` section counts, or ``None``.

    Raises:
        RecipeError: as a recipe's, for keys and values.
        TrainingError: for anything else.
    """
    if isinstance(value, str | os.PathLike):
        return load_recipe(value).pruning
    return read_section(value, PruningConfig, "pruning", "sparsity=0.8")


def read_distillation(value: Any) -> DistillationConfig | None:
    """The weights of the losses, from the configuration, a mapping of its keys or ``None``."""
    return read_section(value, DistillationConfig, "distillation", "temperature=2.0")


def read_section(value: Any, kind: type[SectionT], name: str, example: str) -> SectionT | None:
    """A section of a recipe from the section itself, a mapping of its keys or ``None``.

    Args:
        name: of the argument, for errors.
        example: of a key and its value, for errors.

    Raises:
        RecipeError: as a recipe's, for keys and values.
        TrainingError: for anything else.
    """
    if value is None or isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        return kind(**{str(key): entry for key, entry in value.items()})
    more = " or the path of a recipe" if kind is PruningConfig else ""
    raise TrainingError(
        f"{name} must be a {kind.__name__}, a dict of its keys{more}, got {value!r:.80} "
        f"({type(value).__name__}): write {kind.__name__}({example})"
    )


def check_teacher(teacher: Any, distillation: Any, unlabeled: Any) -> None:
    """Refuse what needs a teacher without one.

    Raises:
        TrainingError: naming what was given.
    """
    for given, name in (
        (unlabeled, "unlabeled_dataset needs a teacher that labels it"),
        (distillation, "distillation needs a teacher"),
    ):
        if given is not None and teacher is None:
            raise TrainingError(
                f"{name}: pass teacher=<the dense fine-tuned model or its path>, or leave "
                f"{name.split()[0]} out"
            )


def check_evaluations(args: Any, state: Any, end: float) -> None:
    """Refuse to look for the best model where none is evaluated after the target is reached.

    Args:
        args: the ``TrainingArguments``.
        state: the ``TrainerState`` at the beginning.
        end: fraction of the training from which the whole target is due.

    Raises:
        TrainingError: if no evaluation comes after that.
    """
    # transformers 5 evaluates after the last step, whatever eval_steps says.
    if not args.load_best_model_at_end or args.eval_strategy != "steps" or _TRANSFORMERS_5:
        return
    steps = int(state.max_steps)
    target = min(math.ceil(end * steps), steps)
    last = steps // int(state.eval_steps) * int(state.eval_steps)
    if last < target:
        raise TrainingError(
            f"load_best_model_at_end compares evaluations after the target is reached, at step "
            f"{target} of {steps}, but with eval_steps {int(state.eval_steps)} the last one is at "
            f"step {last}: evaluate more often, or let pruning end earlier (pruning.end)"
        )


def warn_of_no_best(args: Any, state: Any) -> None:
    """Say so where the last model was kept although the best was asked for."""
    if args.load_best_model_at_end and state.best_model_checkpoint is None:
        warnings.warn(
            "load_best_model_at_end: no evaluated checkpoint was written after pruning reached its "
            "target, so the last model is kept, not the best",
            stacklevel=4,
        )


def train_in_float32_(model: nn.Module) -> nn.Module:
    """Turn weights of half precision to float32, and outputs to those with names. In place.

    A step of the optimizer is often smaller than the distance of two neighbouring numbers of
    bfloat16: most weights would never move. With ``bf16`` or ``fp16`` of the arguments, forward
    passes are in half precision all the same. transformers 5 loads a model as it was saved.
    """
    plain_outputs_(cast(Any, model).config)
    found = {p.dtype for p in model.parameters()} & {torch.bfloat16, torch.float16}
    if found:
        warnings.warn(
            f"the model's weights are {' and '.join(sorted(map(str, found)))}, in which most steps "
            "of an optimizer are lost: they are trained, and saved, as float32 (bf16=True still "
            "computes in bfloat16)",
            stacklevel=4,
        )
        model.float()
    return model


OPTIMIZER_GONE = (
    "the optimizer that was passed holds the weights of the model before it was shrunk: set "
    "trainer.optimizer to one of trainer.model.parameters() (and trainer.lr_scheduler), or call "
    "trainer.create_optimizer() for that of the arguments"
)

NO_SHARDED_GATES = (
    "FSDP shards parameters, which gates cannot follow: prune with pruning.method reconstruction, "
    "whose trainings (of the teacher, and of what is left) may be sharded, or use plain data "
    "parallelism (accelerate launch --multi_gpu)"
)

NO_SHARDED_SENTENCES = (
    "FSDP shards parameters, which trainers of sentence-transformers save and load in ways of "
    "their own: use plain data parallelism (accelerate launch --multi_gpu)"
)

NOT_TAUGHT = (
    "the loss was computed without the teacher: compute_loss was replaced after the trainer was "
    "made; override it in a subclass instead, or leave the teacher out"
)

NO_DIVERGENCE = (
    "metric_for_best_model is divergence, which is from a teacher, and there is none: pass "
    "teacher, or choose loss or another metric"
)

NOTHING_TO_EMBED_LIKE = (
    "embeddings are learned from those of a dense model: pass teacher=<the model as it is now, "
    "another hfprune.load_embedder, or its path>, or rows with 'labels', embeddings to come near to"
)

_TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5


def require_head(model: Any, what: str) -> None:
    """Refuse an encoder as it comes from ``AutoModel``, which gives nothing to learn by.

    Args:
        what: ``model`` or ``teacher``, for errors.

    Raises:
        TrainingError: saying what embeds, and what classifies.
    """
    if without_head(model):
        raise TrainingError(
            f"the {what} is a {type(model).__name__}, an encoder without a head, which gives "
            "hidden states alone: for embeddings pass hfprune.load_embedder(folder, "
            "pooling='mean') as model and as teacher, for labels a model of "
            "AutoModelForSequenceClassification or the like"
        )


def reached_in_one(pruning: PruningConfig, latency: LatencyTable | None) -> bool:
    """Whether one training with gates reaches a target."""
    beyond = (pruning.keep_layers, pruning.max_metric_drop, pruning.vocabulary)
    if pruning.method != "gates" or any(part is not None for part in beyond):
        return False
    return pruning.speedup is None or (isinstance(pruning.speedup, float) and latency is not None)


def check_target(pruning: PruningConfig, latency: LatencyTable | None) -> None:
    """Refuse targets that one training with gates cannot reach.

    Raises:
        TrainingError: naming what does it instead.
    """
    if not reached_in_one(pruning, latency):
        raise TrainingError(
            "one training with gates reaches a sparsity, or one speed with its latency table; "
            "hfprune.HFPruneTrainer goes through the stages of the other targets"
        )


def check_environment(args: Any, *, deepspeed: bool, fsdp: str | None) -> None:
    """Refuse what gates and physical removal cannot follow.

    Args:
        args: the ``TrainingArguments``.
        fsdp: what stands in the way of FSDP, in words; ``None``: nothing, or it is not used.

    Raises:
        TrainingError: for DeepSpeed, FSDP where it cannot be, and DataParallel.
    """
    if deepspeed:
        raise TrainingError(
            "DeepSpeed shards parameters, which gates and physical removal cannot follow; "
            "use plain data parallelism (accelerate launch --multi_gpu)"
        )
    if fsdp is not None:
        raise TrainingError(fsdp)
    if args.n_gpu > 1:
        raise TrainingError(
            f"torch.nn.DataParallel over {args.n_gpu} GPUs is not supported; start with "
            "`accelerate launch` or set CUDA_VISIBLE_DEVICES to one GPU"
        )
