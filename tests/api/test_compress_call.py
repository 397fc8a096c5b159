"""``hfprune.compress``: the run of a recipe, from objects in memory."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from tiny import TRANSFORMERS_5, save_tiny_classifier, tiny_model, tiny_tokenizer, write_reviews

import hfprune
from hfprune.api.rows import as_file
from hfprune.core.errors import DataError, OutputError, RecipeError
from hfprune.pipeline import run
from hfprune.report.console import Console

QUICK: dict[str, Any] = {
    "data": {"max_length": 32},
    "training": {"per_device_train_batch_size": 8, "learning_rate": 1e-3},
    "recovery": {"num_train_epochs": 1.0},
    "export": {"quantization": {}},
    "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_classifier("bert", folder / "model")
    write_reviews(folder / "reviews.csv", 80)
    return folder


def rows_of(inputs: Path) -> list[dict[str, str]]:
    with (inputs / "reviews.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
# Three runs: minutes, with the exporter of transformers 5, and nothing in it is of the stack.
@pytest.mark.skipif(TRANSFORMERS_5, reason="runs on the other stack")
def test_it_is_the_run_of_a_recipe(inputs: Path, tmp_path: Path) -> None:
    """From a path and from a data frame, the weights are those of the recipe, bit for bit."""
    import pandas as pd

    pruning = {"min_neurons": 4, "method": "gates", "update_every_steps": 2}
    common: dict[str, Any] = {"sparsity": 0.5, "pruning": pruning, "quiet": True, **QUICK}
    small = hfprune.compress(
        str(inputs / "model"), train=inputs / "reviews.csv", output_dir=tmp_path / "a", **common
    )
    frame = pd.DataFrame(rows_of(inputs))
    again = hfprune.compress(inputs / "model", train=frame, output_dir=tmp_path / "b", **common)
    recipe = {
        "model": {"name_or_path": str(inputs / "model")},
        "teacher": {"name_or_path": str(inputs / "model")},
        "data": {"train_file": str(inputs / "reviews.csv"), "max_length": 32},
        "output_dir": str(tmp_path / "c"),
        "pruning": {"sparsity": 0.5, **pruning},
        "training": {**QUICK["training"], "group_by_length": True, "bf16": "auto"},
        "recovery": {**QUICK["recovery"], "learning_rate": 2e-4, "freeze_embeddings": True},
        "export": QUICK["export"],
        "benchmark": QUICK["benchmark"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(hfprune.load_recipe(tmp_path / "recipe.yaml"), Console(quiet=True))
    for name in ("plan.json", "model.safetensors"):
        wanted = (tmp_path / "c" / name).read_bytes()
        assert (small.folder / name).read_bytes() == wanted
        assert (again.folder / name).read_bytes() == wanted
    assert not (tmp_path / "b.inputs").exists()
    assert {"accuracy", "dense_accuracy", "speedup", "megabytes"} <= small.metrics.keys()
    assert small.metrics["accuracy"] == again.metrics["accuracy"]
    table = small._repr_html_()
    assert "<table>" in table
    assert f"<td>{small.results.served('pruned')}</td>" in table
    assert "speed-up" in table
    batch = small.tokenizer(["good film"], return_tensors="pt")
    with torch.no_grad():
        assert small.model(**batch).logits.shape == (1, 2)
    small.export(tmp_path / "served")
    assert (tmp_path / "served" / "model_quantized.onnx").is_file()
    saved = small.save(tmp_path / "saved")
    assert hfprune.from_pretrained(saved).config.hfprune == small.model.config.hfprune
    with pytest.raises(OutputError, match="is not empty"):
        small.export(tmp_path / "served")


def test_objects_in_memory_and_a_temporary_folder(inputs: Path) -> None:
    from datasets import ClassLabel, Dataset

    rows = rows_of(inputs)
    names = ["negative", "positive"]
    data = Dataset.from_dict(
        {"sentence": [r["text"] for r in rows], "y": [names.index(r["label"]) for r in rows]}
    ).cast_column("y", ClassLabel(names=names))
    model = tiny_model("bert", labels=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = hfprune.compress(
        model, train=data, tokenizer=tiny_tokenizer(), keep_layers=[0, 2],
        text_column="sentence", label_column="y", quiet=True,
        **{**QUICK, "recovery": {"num_train_epochs": 0.0}},
    )  # fmt: skip
    assert small.results.labels == names
    assert small.results.members["pruned"].heads == [4, 0, 4]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    folder = small.folder
    assert folder.is_dir()
    del small
    assert not folder.exists(), "nobody needs it any more"


def test_arguments_that_no_recipe_allows(inputs: Path, tmp_path: Path) -> None:
    model, rows = str(inputs / "model"), inputs / "reviews.csv"
    with pytest.raises(RecipeError, match="give exactly one of sparsity, speedup"):
        hfprune.compress(model, train=rows, output_dir=tmp_path / "a")
    with pytest.raises(RecipeError, match="compress has no argument 'prunning'; sections of"):
        hfprune.compress(model, train=rows, sparsity=0.5, prunning={}, output_dir=tmp_path / "a")
    with pytest.raises(RecipeError, match="a model in memory needs its tokenizer"):
        hfprune.compress(tiny_model("bert"), train=rows, sparsity=0.5, output_dir=tmp_path / "a")
    with pytest.raises(DataError, match="train has no column 'text'; it has words, label"):
        hfprune.compress(
            model, train={"words": ["a"], "label": ["b"]}, sparsity=0.5, output_dir=tmp_path / "b"
        )
    assert not list(tmp_path.iterdir()), "nothing that was written for the run is left"
    (tmp_path / "c.inputs").mkdir()
    with pytest.raises(OutputError, match=r"c\.inputs' is there and was not made by"):
        hfprune.compress(model, train=rows, sparsity=0.5, output_dir=tmp_path / "c")


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    """Others may hold images or vectors, which take gigabytes as Python's lists."""

    class Rows:
        column_names: ClassVar = ["text", "label", "vector"]
        features: ClassVar = dict.fromkeys(column_names)

        def __getitem__(self, name: str) -> list[str]:
            assert name != "vector"
            return ["a", "b"]

    file = tmp_path / "rows.jsonl"
    as_file(Rows(), file, what="train", needed=["text", "label"])
    assert file.read_text() == '{"text": "a", "label": "a"}\n{"text": "b", "label": "b"}\n'


def test_rows_in_all_forms_are_the_same_file(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd
    from datasets import Dataset

    columns = {"text": ['a\n"b"', "\u00e9", ""], "label": [0, 1, 0], "more": [1, 2, 3]}
    forms = [
        columns,
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        pd.DataFrame(columns),
        Dataset.from_dict(columns),
        {**columns, "label": np.asarray(columns["label"])},
    ]
    texts = set()
    for number, rows in enumerate(forms):
        file = tmp_path / f"{number}.jsonl"
        assert as_file(rows, file, what="train", needed=["text", "label"]) == str(file)
        texts.add(file.read_text())
    assert len(texts) == 1
    assert as_file("rows.csv", tmp_path / "x", what="train", needed=[]) == "rows.csv"
    with pytest.raises(DataError, match="train is a int; expected a path"):
        as_file(5, tmp_path / "x", what="train", needed=[])
    with pytest.raises(DataError, match="columns of different lengths: text 2, label 1"):
        as_file({"text": ["a", "b"], "label": [1]}, tmp_path / "x", what="train",
                needed=["text", "label"])  # fmt: skip
