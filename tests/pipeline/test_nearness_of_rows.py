"""How far a small model is from its teacher, by what the validation rows were drawn by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import prepared_run, tiny_model, tiny_tokenizer, write_reviews, write_tagged

from hfprune import load_recipe
from hfprune.pipeline.decisions import shown_nearer
from hfprune.pipeline.stages.trial import by_rows, together
from hfprune.report.console import Console


def prepared(folder: Path, task: str, data: dict[str, Any]) -> tuple[Any, Any]:
    tiny_model("bert").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    recipe = {
        "model": {"name_or_path": str(folder / "model")},
        "task": task,
        "data": data,
        "training": {"per_device_eval_batch_size": 5},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(folder / "out"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return prepared_run(load_recipe(folder / "recipe.yaml"), Console(quiet=True))


def kl(student: Any, teacher: Any) -> float:
    """Of two rows of logits, by the definition."""
    p, q = (np.exp(values - values.max()) for values in (teacher, student))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def alone(model: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids])).logits[0].double().numpy()


def test_of_tokens_those_count_that_are_learned_and_a_text_is_one_entry(tmp_path: Path) -> None:
    write_tagged(tmp_path / "tagged.jsonl", 40)
    data = {
        "train_file": str(tmp_path / "tagged.jsonl"),
        "text_column": "words",
        "label_column": "tags",
        "max_length": 32,
    }
    context, made = prepared(tmp_path, "token_classification", data)
    labels, rows = len(made.data.label_names), made.small.data.validation
    dense, small = (tiny_model("bert", labels=labels, tokens=True, seed=seed) for seed in (0, 1))
    found = by_rows(context, made, small, dense)
    texts: list[list[float]] = []
    for row in rows:
        pairs = zip(alone(small, row["input_ids"]), alone(dense, row["input_ids"]), strict=True)
        texts.append([kl(*pair) for pair, label in zip(pairs, row["labels"], strict=True)
                      if label != -100])  # fmt: skip
    every = [value for some in texts for value in some]
    assert np.mean(found) == pytest.approx(np.mean(every), rel=1e-4), "special tokens count not"
    wanted = [sum(some) * len(texts) / len(every) for some in texts]
    assert found == pytest.approx(wanted, rel=1e-3)


def test_of_windows_a_text_is_one_entry(tmp_path: Path) -> None:
    write_reviews(tmp_path / "reviews.csv", 40)
    data = {"train_file": str(tmp_path / "reviews.csv"), "max_length": 6, "stride": 1}
    context, made = prepared(tmp_path, "single_label_classification", data)
    rows = made.small.data.validation
    dense, small = (tiny_model("bert", labels=2, seed=seed) for seed in (0, 1))
    found = by_rows(context, made, small, dense)
    owners = rows["text_row"][:]
    assert len(set(owners)) < len(rows)
    apart = [kl(alone(small, ids), alone(dense, ids)) for ids in rows["input_ids"][:]]
    wanted = [sum(one for one, owner in zip(apart, owners, strict=True) if owner == text)
              * len(set(owners)) / len(rows) for text in sorted(set(owners))]  # fmt: skip
    assert found == pytest.approx(wanted, rel=1e-3)


def test_tokens_of_one_text_are_no_independent_rows() -> None:
    """1,000 comparisons of two models of which neither is nearer: what differs, differs by text."""
    draw, shown = np.random.default_rng(3), {"tokens": 0, "texts": 0}
    owners = np.arange(30).repeat(20)
    for _ in range(1000):
        before, after = (
            np.abs(draw.normal(0.1, 0.03, 30)).repeat(20) + draw.normal(0, 0.01, 600)
            for _ in range(2)
        )
        shown["tokens"] += shown_nearer(before, after)
        shown["texts"] += shown_nearer(together(before, owners), together(after, owners))
    assert shown["tokens"] > 200, "as if they were"
    assert shown["texts"] < 60
    assert json.dumps(together(np.zeros(0), np.zeros(0)).tolist()) == "[]"
