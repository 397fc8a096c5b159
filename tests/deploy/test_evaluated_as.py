"""As what a folder without a recipe is evaluated; rankings against scikit-learn's nDCG."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from tiny import NEUTRAL, save_tiny_classifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import hfprune.cli
from hfprune.core.errors import DataError, RecipeError
from hfprune.deploy.evaluation import evaluate, table

NAMES = ["query", "text", "label"]


def call(*words: object) -> Any:
    return CliRunner().invoke(hfprune.cli.app, ["evaluate", *map(str, words)])


def pairs(highest: int = 1) -> list[list[Any]]:
    """Six queries with three texts each; of each the one that is relevant differs."""
    found = []
    for query in range(6):
        for place in range(3):
            text = f"{NEUTRAL[query]} {NEUTRAL[place + 3]} {NEUTRAL[(query * place) % 12]} it"
            label = highest if place == query % 3 else int(highest > 1 and place == 0)
            found.append([f"good {NEUTRAL[query]}", text, label])
    return found


def write(file: Path, names: list[str], rows: list[list[Any]]) -> Path:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([names, *rows])
    return file


def cross_encoder(folder: Path) -> Path:
    """As ``CrossEncoder.save_pretrained`` marks it: its config says nothing of a task."""
    save_tiny_classifier("bert", folder, labels=1)
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"version": "5.1.0"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def by_scikit_learn(folder: Path, rows: list[list[Any]], highest: int = 1) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: dict[str, list[tuple[float, float]]] = {}
    for query, text, label in rows:
        with torch.no_grad():
            score = float(model(**tokenizer(query, text, return_tensors="pt")).logits[0, 0])
        found.setdefault(query, []).append((label / highest, score))
    return float(np.mean([ndcg_score(*np.array(some).T[:, None], k=10) for some in found.values()]))


@pytest.mark.parametrize("highest", [1, 2])
def test_a_cross_encoder_ranks_the_pairs_of_a_file(highest: int, tmp_path: Path) -> None:
    folder, rows = cross_encoder(tmp_path / "dense"), pairs(highest)
    file = write(tmp_path / "pairs.csv", NAMES, rows)
    report = evaluate(folder, [file])
    assert report.task == "reranking"
    assert report.samples == 18
    want = by_scikit_learn(folder, rows, highest)
    assert report.models["PyTorch"].metrics["ndcg_at_10"] == pytest.approx(want, abs=1e-6)
    done = call(folder, "--data", file)
    assert done.exit_code == 0, done.output
    assert "reranking: 18 rows of pairs.csv" in done.output
    other = write(tmp_path / "other.csv", ["Question", "passage", "relevance"], rows)
    again = evaluate(folder, [other])
    assert again.models == report.models


def test_a_model_of_one_output_ranks_where_the_columns_say_so(tmp_path: Path) -> None:
    folder, rows = tmp_path / "number", pairs()
    save_tiny_classifier("bert", folder, labels=1)
    file = write(tmp_path / "pairs.csv", NAMES, rows)
    report = evaluate(folder, [file])
    assert report.task == "reranking"
    want = by_scikit_learn(folder, rows)
    assert report.models["PyTorch"].metrics["ndcg_at_10"] == pytest.approx(want, abs=1e-6)
    pairs_of_numbers = evaluate(
        folder, [file], task="regression", text_column="query", text_pair_column="text"
    )
    assert list(pairs_of_numbers.models["PyTorch"].metrics) == ["pearson", "spearman", "mse"]
    assert evaluate(folder, [file], text_column="text").task == "regression", "of that alone"
    texts = write(tmp_path / "texts.csv", ["text", "label"], [[t, n] for _, t, n in rows])
    assert evaluate(folder, [texts]).task == "regression"


def test_triplets_and_scored_pairs(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "dense")
    triplets = [[q, t, f"{t} other", f"weak {t}"] for q, t, n in pairs() if n]
    names = ["query", "positive", "negative_1", "negative_2"]
    report = evaluate(folder, [write(tmp_path / "triplets.csv", names, triplets)])
    assert (report.task, report.samples) == ("reranking", 18)
    alike = write(tmp_path / "sts.csv", ["sentence1", "sentence2", "score"], pairs())
    columns = {"text_column": "sentence1", "text_pair_column": "sentence2"}
    sts = evaluate(folder, [alike], label_column="score", **columns)
    assert sts.task == "regression", "two texts of one rank"


def test_no_query_is_left_unread(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "two", labels=2)
    file = write(tmp_path / "pairs.csv", NAMES, pairs())
    with pytest.raises(DataError, match=r"a column 'query', and 'text' alone would be read: for"):
        evaluate(tmp_path / "two", [file])
    done = call(tmp_path / "two", "--data", file)
    assert done.exit_code == 1
    assert "for pairs say --text-column 'query' and --text-pair-column 'text'" in done.output
    named = {"text_column": "query", "text_pair_column": "text", "label_names": ["0", "1"]}
    assert evaluate(tmp_path / "two", [file], **named).task == "single_label_classification"
    alone = {"text_column": "text", "label_names": ["0", "1"]}
    assert evaluate(tmp_path / "two", [file], **alone).samples == 18
    folder = cross_encoder(tmp_path / "dense")
    with pytest.raises(DataError, match="a column 'query'"):
        evaluate(folder, [file], task="regression")
    odd = write(tmp_path / "odd.csv", ["q", "text", "label"], pairs())
    with pytest.raises(
        DataError, match=r"odd.csv: no column is known to hold the queries .*say which with data.te"
    ):
        evaluate(folder, [odd])
    assert "say which with --text-column" in call(folder, "--data", odd).output
    assert evaluate(folder, [odd], text_column="q").task == "reranking"


def test_a_task_must_be_one_of_the_models(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "dense")
    file = write(tmp_path / "pairs.csv", NAMES, pairs())
    done = call(folder, "--data", file, "--task", "ranking")
    assert done.exit_code == 1
    assert "error: --task is 'ranking'; expected one of single_label_classification" in done.output
    assert call(folder, "--data", file, "--task", "reranking").exit_code == 0
    with pytest.raises(
        RecipeError,
        match=r"a BertForSequenceClassification of 1 output; choose from multi_label_class"
        "ification, regression, reranking$",
    ):
        evaluate(folder, [file], task="single_label_classification")
    save_tiny_classifier("bert", tmp_path / "two", labels=2)
    with pytest.raises(RecipeError, match="of 2 outputs; choose from single_label_class"):
        evaluate(tmp_path / "two", [file], task="reranking")


def test_the_rows_of_a_recipe_are_of_its_task(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "dense")
    triplets = write(
        tmp_path / "triplets.csv",
        ["query", "positive", "negative"],
        [[f"{q} {n}", t, f"{t} other"] for n in range(4) for q, t, label in pairs() if label],
    )
    (folder / "recipe.yaml").write_text(
        json.dumps({
            "model": {"name_or_path": "some/model"}, "task": "reranking",
            "data": {"train_file": str(triplets), "negative_column": "negative",
                     "max_length": 32},
            "pruning": {"sparsity": 0.5}, "output_dir": "runs/x",
        })
    )  # fmt: skip
    assert evaluate(folder).task == "reranking"
    with pytest.raises(RecipeError, match="task regression is asked for, but the test rows of the"):
        evaluate(folder, task="regression")
    file = write(tmp_path / "pairs.csv", NAMES, pairs())
    with pytest.raises(DataError, match="has no column 'positive'"):
        evaluate(folder, [file])
    # Who names a column of labels means rows with labels.
    found = evaluate(folder, [file], text_pair_column="text", label_column="label")
    assert found.samples == 18
    assert "reranking: 18 rows" in str(table(found).caption)
