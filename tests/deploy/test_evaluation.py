"""What an evaluation measures, against predictions made by hand and scikit-learn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import precision_recall_fscore_support
from tiny import (
    random_plan,
    save_tiny_classifier,
    tiny_model,
    tiny_tokenizer,
    write_images,
    write_reviews,
    write_tagged,
)
from transformers import AutoTokenizer

from hfprune.core.errors import CheckpointError, DataError, RecipeError
from hfprune.data.loading import load_rows
from hfprune.data.task_data import TEXT_ROW
from hfprune.deploy.evaluation import EvaluationReport
from hfprune.deploy.evaluation import evaluate as measure
from hfprune.deploy.evaluation import table as shown
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.measure.intervals import wilson_interval
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.export import QuantizationConfig

NAMES = ("negative", "positive")


def evaluate(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The report as ``--json`` prints it."""
    return measure(*arguments, **options).to_json()


def table(report: dict[str, Any]) -> Any:
    return shown(EvaluationReport.model_validate(report))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shrunk model with its ONNX files and the recipe of the run that made it."""
    place = tmp_path_factory.mktemp("evaluation") / "model"
    model = tiny_model("bert", labels=2)
    model.config.id2label = dict(enumerate(NAMES))
    shrink_(model, random_plan(model, seed=3))
    model.save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    export_onnx(model, tiny_tokenizer(), place / "onnx")
    quantize_onnx(place / "onnx", QuantizationConfig())
    write_reviews(place.parent / "reviews.csv", 80)
    recipe = {
        "model": {"name_or_path": "some/model"},
        "data": {"train_file": str(place.parent / "reviews.csv"), "max_length": 32},
        "pruning": {"sparsity": 0.5},
        "evaluation": {"confidence": 0.8},
        "output_dir": "runs/x",
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return place


def by_hand(folder: Path, file: Path) -> tuple[Any, Any]:
    """Labels and predictions, one row at a time and without hfprune's data code."""
    import hfprune

    model, tokenizer = hfprune.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    with torch.no_grad():
        found = [int(model(**tokenizer(r["text"], return_tensors="pt")).logits[0].argmax())
                 for r in rows]  # fmt: skip
    return np.asarray([NAMES.index(row["label"]) for row in rows]), np.asarray(found)


def test_files_of_rows(folder: Path) -> None:
    file = folder.parent / "new.csv"
    write_reviews(file, 50)
    found = evaluate(folder, [file])
    assert list(found["models"]) == ["PyTorch", "ONNX", "int8"]
    labels, predictions = by_hand(folder, file)
    entry = found["models"]["PyTorch"]
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0.0
    )
    right = int((labels == predictions).sum())
    assert entry["metrics"] == pytest.approx({
        "accuracy": right / 50, "f1_macro": f1, "precision_macro": precision,
        "recall_macro": recall,
    })  # fmt: skip
    assert entry["intervals"]["accuracy"] == pytest.approx(wilson_interval(right, 50, 0.8))
    low, high = entry["intervals"]["f1_macro"]
    assert low < f1 < high
    assert found["confidence"] == 0.8, "the recipe's"
    assert found["max_length"] == 32
    assert (found["samples"], found["rows"], found["truncated"]) == (50, ["new.csv"], 0)
    assert entry["agreement"] == found["models"]["ONNX"]["agreement"] == 1.0
    assert found["models"]["ONNX"]["metrics"] == entry["metrics"]
    assert json.loads(json.dumps(found)) == found
    twice = evaluate(folder, [file, file], metrics=["accuracy"], confidence=0.9)
    assert twice["samples"] == 100
    assert twice["models"]["PyTorch"]["metrics"] == {"accuracy": right / 50}
    assert twice["confidence"] == 0.9


def test_the_test_rows_of_the_recipe(folder: Path) -> None:
    found = evaluate(folder)
    assert found["samples"] == 16, "a fifth of 80"
    assert found["rows"] == ["the test split of its recipe"]
    assert found["primary"] == "accuracy"
    assert [column.header for column in table(found).columns][:2] == ["model", "accuracy"]


def test_other_columns_and_shorter_rows(folder: Path) -> None:
    file = folder.parent / "other.csv"
    write_reviews(file, 20)
    same = evaluate(folder, [file])
    lines = file.read_text().replace("text,label", "words,stars", 1)
    lines = lines.replace("negative", "0").replace("positive", "1")
    file.write_text(lines)
    with pytest.raises(DataError, match="has no column 'text', which data.text_column asks for"):
        evaluate(folder, [file])
    found = evaluate(folder, [file], text_column="words", label_column="stars")
    assert found["models"] == same["models"]
    cut = evaluate(folder, [file], text_column="words", label_column="stars", max_length=5)
    assert cut["truncated"] > 0
    assert "rows cut at 5 tokens" in str(table(cut).caption)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no classifier"):
        evaluate(tmp_path)
    (tmp_path / "4x").mkdir()
    (tmp_path / "4x/metrics.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds a family of models: give .*4x"):
        evaluate(tmp_path)
    with pytest.raises(RecipeError, match="'pearson' is not a metric of task single_label"):
        evaluate(folder, metrics=["pearson"])
    with pytest.raises(RecipeError, match="the confidence is 95"):
        evaluate(folder, confidence=95)
    with pytest.raises(DataError, match=r"reviews.csv\): there is no such file"):
        evaluate(folder, [tmp_path / "reviews.csv"])
    (tmp_path / "moved").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "moved" / name).write_bytes((folder / name).read_bytes())
    text = (folder / "recipe.yaml").read_text().replace("reviews.csv", "gone.csv")
    (tmp_path / "moved/recipe.yaml").write_text(text)
    with pytest.raises(DataError, match=r"the data of .*recipe.yaml cannot be read: .*--data"):
        evaluate(tmp_path / "moved")
    encoder = tiny_model("bert").bert
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="holds no classifier but a BertModel"):
        evaluate(tmp_path / "encoder")


@pytest.mark.parametrize("kind", ["tokens", "images", "windows", "regression", "flags"])
def test_every_kind_of_row(kind: str, tmp_path: Path) -> None:
    files = [tmp_path / "rows.jsonl"]
    options: dict[str, Any] = {}
    if kind == "tokens":
        tags = ["O", "B-POS", "I-POS", "B-NEG", "I-NEG"]
        model = tiny_model("bert", labels=5, tokens=True)
        model.config.id2label = dict(enumerate(tags))
        write_tagged(files[0], 12)
        options = {"text_column": "words", "label_column": "tags"}
        expected, count = "entity_f1", 12
    elif kind == "images":
        pytest.importorskip("PIL")
        save_tiny_classifier("vit", tmp_path)
        write_images(tmp_path / "images", 8)
        paths = sorted((tmp_path / "images/train").rglob("*.png"))
        lines = [{"image": str(p), "label": ["left", "right"].index(p.parent.name)} for p in paths]
        files[0].write_text("\n".join(map(json.dumps, lines)))
        found = evaluate(tmp_path, files)
        assert (found["samples"], found["max_length"], found["primary"]) == (8, None, "accuracy")
        return
    elif kind == "flags":
        model = tiny_model("bert", labels=2)
        model.config.problem_type = "multi_label_classification"
        model.config.id2label = {0: "warm", 1: "long"}
        lines = [{"text": "a film", "warm": n % 2, "long": 1} for n in range(6)]
        files[0].write_text("\n".join(map(json.dumps, lines)))
        options = {"label_column": ["warm", "long"]}
        expected, count = "f1_macro", 6
    elif kind == "regression":
        model = tiny_model("bert", labels=1)
        lines = [{"text": f"a film {'good ' * n}", "label": n / 2} for n in range(6)]
        files[0].write_text("\n".join(map(json.dumps, lines)))
        expected, count = "pearson", 6
    else:
        config = DataConfig(train_file="unused", max_length=6, stride=1, label_names=["no", "yes"])
        texts = ["a film", "the plot is very very good and the story is a story", "fine"]
        for number in range(2):
            lines = [{"text": text, "label": "yes"} for text in texts]
            (tmp_path / f"{number}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        names = [str(tmp_path / f"{number}.jsonl") for number in range(2)]
        data = load_rows(config, names, tiny_tokenizer(), "single_label_classification")
        assert data.size("test") == 6
        owners = data.test[TEXT_ROW][:]
        assert sorted(set(owners)) == list(range(6))
        assert len(owners) > 6
        assert data.label_array("test").tolist() == [1] * 6
        assert data.texts["test"] == texts * 2
        return
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found = evaluate(tmp_path, files, **options)
    assert found["samples"] == count
    assert found["primary"] == expected
    (low, high), value = (
        found["models"]["PyTorch"]["intervals"][expected],
        found["models"]["PyTorch"]["metrics"][expected],
    )
    assert low <= value <= high or value == pytest.approx(low) or value == pytest.approx(high)


def test_load_rows_refuses_what_has_no_names(tmp_path: Path) -> None:
    config = DataConfig(train_file="unused", max_length=6)
    with pytest.raises(DataError, match="no file of rows is given"):
        load_rows(config, [], tiny_tokenizer(), "single_label_classification")
    with pytest.raises(DataError, match="by the names of its labels; none are given"):
        load_rows(config, ["x.csv"], tiny_tokenizer(), "single_label_classification")


def test_the_report_as_json_and_as_a_table() -> None:
    """What scripts read from ``hfprune evaluate --json``: these keys, in this order."""
    entry = {"metrics": {"mse": 0.25}, "intervals": {"mse": [0.125, 0.5]}, "agreement": None}
    values = {
        "format_version": 1, "task": "regression", "labels": [], "rows": ["a.csv", "b.csv"],
        "samples": 3, "truncated": 2, "max_length": 8, "confidence": 0.9, "primary": "mse",
        "models": {"PyTorch": entry, "int8": entry | {"agreement": 0.9375}},
    }  # fmt: skip
    report = EvaluationReport.model_validate(values)
    assert json.dumps(report.to_json()) == json.dumps(values)
    found = shown(report)
    assert found.caption == (
        "regression: 3 rows of a.csv, b.csv, 90% intervals; 2 rows cut at 8 tokens"
    )
    assert [[str(c.header), *map(str, c.cells)] for c in found.columns] == [
        ["model", "PyTorch", "int8"],
        ["mse", "0.2500 (0.125-0.500)", "0.2500 (0.125-0.500)"],
        ["as PyTorch", "-", "93.75%"],
    ]
