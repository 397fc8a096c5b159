"""A recipe's ``training`` section as ``TrainingArguments`` of the transformers installed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

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
