"""A recipe's ``training`` section as ``TrainingArguments`` of the transformers installed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainingArguments

from hfprune.core.errors import RecipeError
from hfprune.core.machine import bfloat16_pays
from hfprune.recipe.sections.training import TrainingConfig


def stage_settings(config: TrainingConfig, **changes: Any) -> TrainingConfig:
    """A recipe's ``training`` section for one of its trainings.

    ``max_steps`` counts where the section itself says how long: epochs that are given for this
    training (of the teacher, a trial, the recovery) are not overruled by it.

    Args:
        changes: keys of the section and their values here; ``None`` is as in the section.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if "num_train_epochs" in changes:
        changes.setdefault("max_steps", -1)
    return config.model_copy(update=changes)


def training_arguments(
    config: TrainingConfig, output_dir: str | Path, **more: Any
) -> TrainingArguments:
    """A recipe's ``training`` section as ``TrainingArguments`` of the transformers installed.

    ``more`` is given to it besides. Without a word on it, the Trainer shows its own bars.
    ``bf16: auto`` is settled here, by :func:`~hfprune.core.machine.bfloat16_pays` in this process.
    """
    values = config.model_dump(exclude={"early_stopping_patience", "class_weights"}) | more
    if values["bf16"] == "auto":
        values["bf16"] = bfloat16_pays()
    known = inspect.signature(TrainingArguments).parameters
    if "warmup_ratio" not in known:  # transformers 5: below 1, warmup_steps is a fraction
        values["warmup_steps"] = values.pop("warmup_ratio")
    if "group_by_length" not in known:  # transformers 5
        grouped = values.pop("group_by_length")
        values["train_sampling_strategy"] = "group_by_length" if grouped else "random"
    if "activation_checkpointing" in known:  # transformers 5.23, which warns of the old name
        values["activation_checkpointing"] = values.pop("gradient_checkpointing")
    for name in ("eval_steps", "save_steps"):
        if values[name] is None:
            del values[name]
    values.setdefault("disable_tqdm", False)
    return TrainingArguments(
        str(output_dir),
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        **values,
    )


def training_section(args: TrainingArguments) -> TrainingConfig:
    """``TrainingArguments`` as a recipe's ``training`` section, as far as it has keys for them.

    The reverse of :func:`training_arguments`. What a recipe cannot say (another scheduler, say) is
    left at its default: the section is a record, trainings go by the arguments themselves.
    """
    # The one default by which other keys could clash.
    kept: dict[str, Any] = {"load_best_model_at_end": False}
    for group in _groups(args):
        try:
            TrainingConfig(**(kept | group))
        except RecipeError:
            continue
        kept |= group
    return TrainingConfig(**kept)


def _groups(args: TrainingArguments) -> Iterator[dict[str, Any]]:
    """Keys and values of the section; together what can only be said together."""
    for kind in ("eval", "save"):
        name = f"{kind}_strategy"
        strategy = str(getattr(getattr(args, name), "value", getattr(args, name)))
        steps = getattr(args, f"{kind}_steps")
        yield {name: strategy} | ({f"{kind}_steps": steps} if strategy == "steps" else {})
    warmup = getattr(args, "warmup_ratio", None)
    if warmup is None:  # transformers 5: below 1, warmup_steps is a fraction
        warmup = args.warmup_steps if args.warmup_steps < 1 else 0.0
    grouped = getattr(args, "group_by_length", None)
    if grouped is None:
        grouped = getattr(args, "train_sampling_strategy", None) == "group_by_length"
    best = args.metric_for_best_model
    recomputes = getattr(args, "activation_checkpointing", None)
    if recomputes is None:
        recomputes = args.gradient_checkpointing
    own = {
        "warmup_ratio": float(warmup),
        "group_by_length": bool(grouped),
        "gradient_checkpointing": bool(recomputes),
        "metric_for_best_model": None if best is None else best.removeprefix("eval_"),
        "report_to": list(cast(list[str], args.report_to or [])),
        "load_best_model_at_end": args.load_best_model_at_end,
    }
    done = {"eval_strategy", "eval_steps", "save_strategy", "save_steps", "greater_is_better"}
    for name in TrainingConfig.model_fields:
        if name in done or not (name in own or hasattr(args, name)):
            continue
        value = own.get(name, getattr(args, name, None))
        yield {name: getattr(value, "value", value)}
