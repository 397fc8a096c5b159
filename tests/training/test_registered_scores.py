"""A score that was added prunes as ours does: the same formula, the same plan and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model
from transformers import TrainingArguments

from hfprune import HFPruneTrainer, PruningConfig
from hfprune.core import scores
from hfprune.core.scores import GradientScore, WeightScore, register_score
from hfprune.pruning.importance import magnitude_scores
from hfprune.training.checkpoints import checkpoint_files


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores.SCORES, "_values", dict(scores.SCORES._values))
    register_score("squared", GradientScore(lambda gradient: gradient * gradient))
    register_score("norms", WeightScore(lambda model, seed: magnitude_scores(model)))


def trained(folder: Path, score: str) -> Any:
    ids = torch.randint(5, 100, (32, 10), generator=torch.Generator().manual_seed(0))
    rows = [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": int(row[3]) % 2}
        for row in ids
    ]
    trainer = HFPruneTrainer(
        tiny_model("bert", labels=2),
        TrainingArguments(
            str(folder),
            num_train_epochs=2,
            per_device_train_batch_size=8,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_steps=2,
        ),
        train_dataset=rows,
        pruning=PruningConfig(sparsity=0.5, score=score, update_every_steps=2, min_neurons=4),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize(("mine", "ours"), [("squared", "fisher"), ("norms", "magnitude")])
def test_the_same_formula_prunes_the_same(mine: str, ours: str, tmp_path: Path) -> None:
    first, second = trained(tmp_path / "a", mine), trained(tmp_path / "b", ours)
    assert first.plan.digest() == second.plan.digest()
    for name, value in second.model.state_dict().items():
        assert torch.equal(first.model.state_dict()[name], value)
    for score, folder in ((mine, "a"), (ours, "b")):
        for name in checkpoint_files(PruningConfig(sparsity=0.5, score=score)):
            assert list((tmp_path / folder).glob(f"checkpoint-*/{name}"))
    assert len(checkpoint_files(PruningConfig(sparsity=0.5, score=mine))) == 1 + (mine == "squared")
