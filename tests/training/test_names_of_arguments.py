"""A recipe's section as the arguments of whichever transformers is there, and back."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from hfprune.recipe.sections.training import TrainingConfig
from hfprune.training.arguments import training_arguments, training_section


@pytest.mark.parametrize("recomputes", [False, True])
def test_no_name_is_one_that_transformers_gives_up(recomputes: bool, tmp_path: Path) -> None:
    section = TrainingConfig(gradient_checkpointing=recomputes, bf16=False, report_to=[])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args = training_arguments(section, tmp_path)
    assert training_section(args).gradient_checkpointing is recomputes
    assert args.gradient_checkpointing is recomputes  # which the Trainer reads, 4 and 5
