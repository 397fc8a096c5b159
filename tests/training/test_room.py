"""Hidden states that are too large to be held lie in a file that nobody has to delete."""

from __future__ import annotations

import gc
import logging
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from hfprune import DistillationConfig, HFPruneTrainer
from hfprune.data.collate import data_collator
from hfprune.training.distillation import room, rows
from hfprune.training.distillation.cache import TeacherCache

Usage = namedtuple("Usage", "total used free")


def some_rows(count: int = 12) -> datasets.Dataset:
    texts = [[2, *range(5, 8 + number % 5), 3] for number in range(count)]
    return datasets.Dataset.from_dict(
        {"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts]}
    )


def test_a_file_without_a_name(tmp_path: Path) -> None:
    found = room.room_on_disk(2 * 1000, tmp_path / "new")
    assert found is not None
    assert (found.shape, found.dtype) == ((1000,), torch.float16)
    assert not found.any()
    assert list((tmp_path / "new").iterdir()) == [], "gone with the process, even if it is killed"
    found[17] = 0.5
    view = found[10:20].view(2, 5)
    del found
    gc.collect()
    assert view[1, 2] == 0.5, "what is read of it keeps it"


def test_half_of_the_free_disk_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(9000, 5000, 4000))
    assert room.room_on_disk(2000, tmp_path) is not None
    assert room.room_on_disk(2002, tmp_path) is None


def test_a_disk_that_gives_no_room_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.os, "posix_fallocate", full, raising=False)
    with caplog.at_level(logging.WARNING):
        assert room.room_on_disk(2000, tmp_path) is None
    assert f"no room on disk for the teacher's hidden states in {tmp_path}" in caplog.text
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("large", [False, True])
def test_the_same_states_as_in_memory(large: bool, tmp_path: Path) -> None:
    teacher, data = tiny_model("bert", labels=2), some_rows()
    if large:  # beyond float16: bfloat16, in the same place
        with torch.no_grad():
            teacher.bert.encoder.layer[1].output.LayerNorm.bias[3] = 7e4
    tokens = sum(map(len, data["input_ids"]))
    size = TeacherCache.size(teacher, tokens)
    place = room.room_on_disk(size, tmp_path)
    found = [
        TeacherCache(
            teacher, data, data_collator(tiny_tokenizer()), hidden=12, batch_size=5, room=some
        )
        for some in (None, place)
    ]
    assert place is not None
    assert place.any(), "it was used"
    chosen = torch.tensor([3, 0, 11])
    for mine, theirs in zip(*(cache.hidden_states(chosen, 9) for cache in found), strict=True):
        assert mine.dtype == (torch.bfloat16 if large else torch.float16)
        assert torch.equal(mine, theirs)
        assert bool(mine.isfinite().all())


def trainer_of(
    folder: Path, cache: TeacherCache | None = None, epochs: float = 2, more: bool = False
) -> HFPruneTrainer:
    return HFPruneTrainer(
        tiny_model("bert", labels=2),
        TrainingArguments(
            str(folder), num_train_epochs=epochs, use_cpu=True, report_to=[], save_strategy="no",
            disable_tqdm=True, per_device_train_batch_size=8,
        ),
        train_dataset=some_rows().add_column("labels", [0, 1] * 6),
        processing_class=tiny_tokenizer(),
        teacher=tiny_model("bert", labels=2, seed=3),
        teacher_cache=cache,
        unlabeled_dataset=some_rows().select(range(5)) if more else None,
        distillation=DistillationConfig(cache_limit_gb=1e-6),
    )  # fmt: skip


def test_a_later_trainer_takes_no_room_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer_of(tmp_path / "first")
    first.train()
    assert first.teaching.cache is not None
    assert first.teaching.cache.keeps_hidden
    assert list((tmp_path / "first").iterdir()) == []
    monkeypatch.setattr(rows, "room_on_disk", lambda *args: pytest.fail("again"))
    second = trainer_of(tmp_path / "second", first.teacher_cache)
    second.train()
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)


def test_a_short_trial_with_more_rows_keeps_states_for_the_training_after_it(
    tmp_path: Path,
) -> None:
    """It asks the teacher about every row, for labels; the next has a whole training to go."""
    trial = trainer_of(tmp_path / "trial", epochs=0.5, more=True)
    trial.train()
    assert trial.teaching.cache is not None
    assert trial.teaching.cache.keeps_hidden
    long = trainer_of(tmp_path / "long", trial.teacher_cache, more=True)
    calls: list[int] = []
    long.teaching.teacher.register_forward_hook(lambda *_: calls.append(1))
    long.train()
    assert len(calls) == 2, "of which both see whether padding changes its answers"


def test_without_room_the_teacher_is_asked_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "room_on_disk", lambda *args: None)
    trainer = trainer_of(tmp_path)
    trainer.train()
    assert trainer.teaching.cache is None
