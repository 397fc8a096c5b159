"""A Trainer's stages follow from the rows that its teacher labels, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainingArguments

import hfprune


def rows(begin: int, count: int) -> Dataset:
    ids = [[2, *range(number, number + 4), 3] for number in range(begin, begin + count)]
    return Dataset.from_dict({"input_ids": ids, "labels": [number % 2 for number in range(count)]})


def steps(folder: Path, unlabeled: Dataset, resume: bool) -> int:
    """That a training in stages took; 0 where every stage was taken as it was."""
    more: Any = unlabeled.remove_columns("labels")
    trainer = hfprune.HFPruneTrainer(
        tiny_model("bert", labels=2),
        TrainingArguments(
            str(folder), num_train_epochs=1, use_cpu=True, report_to=[], disable_tqdm=True,
            save_strategy="no", per_device_train_batch_size=8,
        ),
        train_dataset=rows(10, 8), eval_dataset=rows(20, 4), processing_class=tiny_tokenizer(),
        teacher=tiny_model("bert", labels=2, seed=1), unlabeled_dataset=more,
        pruning={"keep_layers": [0, 2]},
    )  # fmt: skip
    return int(trainer.train(resume_from_checkpoint=resume).global_step)


def test_other_rows_to_label_are_learned_on_resuming(tmp_path: Path) -> None:
    assert steps(tmp_path, rows(30, 8), False) == 2
    assert steps(tmp_path, rows(30, 8), True) == 0, "all is there"
    assert steps(tmp_path, rows(40, 8), True) == 2
