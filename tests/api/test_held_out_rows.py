"""Rows that a Trainer is judged by are not learned from, not even without their labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainingArguments

import hfprune


def rows(begin: int, count: int) -> Dataset:
    ids = [[2, *range(number, number + 4), 3] for number in range(begin, begin + count)]
    return Dataset.from_dict({"input_ids": ids, "labels": [number % 2 for number in range(count)]})


def test_unlabeled_rows_that_are_judged_by_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, judged, test = rows(10, 8), rows(20, 4), rows(30, 4)
    more = rows(18, 14).remove_columns("labels")  # 18 to 31: four of judged, two of test
    trainer = hfprune.HFPruneTrainer(
        tiny_model("bert", labels=2),
        TrainingArguments(
            str(tmp_path), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=train, eval_dataset={"first": judged, "second": rows(90, 2)},
        test_dataset=test, processing_class=tiny_tokenizer(),
        teacher=tiny_model("bert", labels=2, seed=1), unlabeled_dataset=more,
    )  # fmt: skip
    assert "6 of 14 rows hold the tokens of a row of eval_dataset or test_dataset" in caplog.text
    trainer.train()
    learned = {tuple(ids) for ids in trainer.train_dataset["input_ids"]}
    assert len(learned) == 16, "the training rows, and eight more"
    assert not learned & {tuple(ids) for one in (judged, test) for ids in one["input_ids"]}
