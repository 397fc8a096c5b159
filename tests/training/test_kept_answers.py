"""A teacher's answers that are kept from one run to the next are of the same rows, whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from transformers import DataCollatorWithPadding

from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.reading import OtherTokenizer, row_key

IDS = [[2, 11, 12, 3, 13, 14, 3], [2, 15, 3, 16, 17, 3]]


def answers(teacher: Any, rows: Dataset, folder: Path) -> Any:
    collate = DataCollatorWithPadding(tiny_tokenizer())
    return TeacherCache(teacher, rows, collate, hidden=0, folder=folder).logits(torch.arange(2))


@pytest.mark.parametrize("column", ["token_type_ids", "attention_mask"])
def test_other_columns_are_other_rows(tmp_path: Path, column: str) -> None:
    teacher = tiny_model("bert", labels=2)
    plain = {
        "input_ids": IDS,
        "attention_mask": [[1] * len(row) for row in IDS],
        "token_type_ids": [[0] * len(row) for row in IDS],
    }
    changed = {
        **plain,
        column: [[*row[:4], *[1 - row[-1]] * (len(row) - 4)] for row in plain[column]],
    }
    for values in (plain, changed, plain):
        wanted = [
            teacher(**{name: torch.tensor([rows[place]]) for name, rows in values.items()}).logits[
                0
            ]
            for place in range(2)
        ]
        found = answers(teacher, Dataset.from_dict(values), tmp_path)
        torch.testing.assert_close(found, torch.stack(wanted).detach(), atol=1e-5, rtol=1e-4)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_other_texts_behind_the_same_tokens_are_other_rows(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"input_ids": IDS, "attention_mask": [[1] * len(row) for row in IDS]})
    model, found = tiny_model("bert", labels=2), []
    for text in ("good film", "bad film", "good film"):
        texts = {row_key(ids): text for ids in IDS}
        teacher = OtherTokenizer(model, tiny_tokenizer(), tiny_tokenizer(), 16, texts).eval()
        found.append(answers(teacher, rows, tmp_path))
    assert not torch.allclose(found[0], found[1])
    assert torch.equal(found[0], found[2])
