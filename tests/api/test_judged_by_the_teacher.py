"""Which teacher candidates, rates and rounds of a Trainer are judged by: the one it was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tiny import random_rows as rows
from tiny import tiny_model
from transformers import TrainingArguments

import hfprune
from hfprune import HFPruneTrainer
from hfprune.pipeline import candidates
from hfprune.training.distillation.cache import TeacherCache

SEARCHED = {
    "sparsity": 0.5, "method": "reconstruction", "search_rounds": 1, "scoring_samples": 16,
    "trial_epochs": 0,
}  # fmt: skip


def opinionated(shift: float) -> Any:
    """A model of the same sizes that says one class of everything."""
    model = tiny_model("bert", labels=2)
    with torch.no_grad():
        model.classifier.bias += torch.tensor([shift, -shift])
    return model


def make(folder: Path, **changes: Any) -> HFPruneTrainer:
    settings = {"num_train_epochs": 1, **changes.pop("settings", {})}
    args = TrainingArguments(
        str(folder), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        logging_strategy="no", per_device_train_batch_size=8,
        learning_rate=1e-3, **settings,
    )  # fmt: skip
    given: dict[str, Any] = {
        "train_dataset": rows(), "eval_dataset": rows(8, seed=1), "pruning": SEARCHED, **changes,
    }  # fmt: skip
    return HFPruneTrainer(tiny_model("bert", labels=2), args, **given)


def divergence(model: Any, teacher: Any, judged: datasets.Dataset) -> float:
    """Of the softmax at temperature 1, by hand; the mean over the rows."""
    ids = torch.tensor(judged["input_ids"][:])
    with torch.no_grad():
        mine, theirs = (one.eval()(ids).logits.double().softmax(-1) for one in (model, teacher))
    return float((theirs * (theirs / mine).log()).sum(-1).mean())


class PassesOn(torch.nn.Module):
    """A class of the user's own, whose inputs are those of what it holds."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


@pytest.mark.parametrize("own", [False, True])
def test_candidates_are_judged_by_the_teacher_that_was_given(tmp_path: Path, own: bool) -> None:
    """And not by the model that came in, which need not be alike."""
    teacher = PassesOn(opinionated(3.0)) if own else opinionated(3.0)
    trainer = make(tmp_path, teacher=teacher.train())
    trainer.train()
    assert teacher.training, "left as it is"
    made = trainer._after._made
    assert made is not None
    told = made.members.all[0].candidates
    assert told is not None
    assert len(told) > 1
    for name, about in told.items():
        place = tmp_path / "pruned.work" / f"pruned-{name.replace(', ', '-').replace(' ', '-')}"
        wanted = divergence(hfprune.from_pretrained(place), teacher, rows(8, seed=1))
        assert about["divergence"] == pytest.approx(wanted, rel=1e-4), name
    assert np.mean([about["divergence"] for about in told.values()]) > 0.3


def test_what_a_teacher_said_before_is_taken_in_stages_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = opinionated(3.0)
    two = {"settings": {"num_train_epochs": 2}}
    first = make(tmp_path / "a", teacher=teacher, **two)
    first.train()
    assert first.teacher_cache is not None
    monkeypatch.setattr(TeacherCache, "_ask", lambda *args: pytest.fail("asked again"))
    second = make(tmp_path / "b", teacher=teacher, teacher_cache=first.teacher_cache, **two)
    second.train()
    assert second.teacher_cache is first.teacher_cache


def test_trials_of_like_names_leave_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers 0, tried longer, are not layers 0 and 2."""
    monkeypatch.setattr(candidates, "left_to_try", list)
    trainer = make(tmp_path, teacher=opinionated(3.0), pruning={**SEARCHED, "trial_epochs": 1})
    trainer.train()
    record = json.loads((tmp_path / "pruned.work" / "stages.json").read_text())["stages"]
    files = [told["result"]["rows"] for name, told in record.items() if name.startswith("trial")]
    assert {"trial layers 0, longer", "trial layers 0, 2"} <= set(record)
    assert len(set(files)) == len(files)
