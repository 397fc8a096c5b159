"""A training that goes on from the checkpoint of its last step has nothing left to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_rows as rows
from tiny import tiny_model
from transformers import TrainingArguments

from hfprune.training.trainer import HFPruneTrainer


@pytest.mark.parametrize("length", [{"num_train_epochs": 1.5}, {"max_steps": 6}])
def test_no_step_is_taken_beyond_the_last(tmp_path: Path, length: dict[str, Any]) -> None:
    """Four steps an epoch, at a constant rate: a seventh would change the weights."""

    def make() -> HFPruneTrainer:
        args = TrainingArguments(
            str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True, eval_strategy="epoch",
            save_strategy="epoch", load_best_model_at_end=True, learning_rate=1e-3,
            metric_for_best_model="divergence", per_device_train_batch_size=8,
            lr_scheduler_type="constant", **length,
        )  # fmt: skip
        teacher = tiny_model("bert", labels=2, seed=7)
        with torch.no_grad():
            teacher.classifier.bias += torch.tensor([1.0, -1.0])
        return HFPruneTrainer(
            tiny_model("bert", labels=2), args, train_dataset=rows(32, 0), eval_dataset=rows(8, 1),
            teacher=teacher,
        )  # fmt: skip

    first = make()
    first.train()
    told = [entry["step"] for entry in first.state.log_history if "eval_divergence" in entry]
    assert told == [4, 6], "the half epoch is evaluated too"
    assert str(first.state.best_model_checkpoint).endswith("checkpoint-6"), "and may be chosen"
    again = make()
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6
    wanted = first.model.state_dict()
    assert all(torch.equal(one, wanted[name]) for name, one in again.model.state_dict().items())
