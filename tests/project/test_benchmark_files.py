"""Recommended files beside plainer ones: the table, and a whole run on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from script import load_script
from tiny import save_tiny_classifier, write_reviews


def test_a_line_a_use() -> None:
    name = "recommended for single: onnxruntime int8 lean"
    found = {
        "folder": "10x",
        "speedup": {"single": {name: [10.0, 9.5, 10.5]}},
        "over_usual": {"single": [1.1, 1.05, 1.2]},
        "test": {
            "rows": 200,
            "float32": 0.85,
            "single": {
                "file": name, "metric": 0.845, "differs_from_float32": 3, "differs_by_batch": 0,
            },
        },
    }  # fmt: skip
    assert load_script("benchmark_files").table([found]).splitlines()[2:] == [
        "| 10x | single | onnxruntime int8 lean | 10.0x (9.5 to 10.5) | 1.10x (1.05 to 1.20) | "
        "0.8500 | 0.8450 | 3 of 200 | 0 |"
    ]


def test_a_line_a_file() -> None:
    found = {
        "folder": "10x",
        "speedup": {"single": {"dense": [1.0, 1.0, 1.0]}, "batches": {"dense": [1.5, 1.4, 1.6]}},
        "metrics": {"dense": 0.85},
    }
    assert load_script("benchmark_files").each_file([found]).splitlines() == [
        "| model | file | single | batches | metric |",
        "|---|---|---|---|---|",
        "| 10x | dense | 1.0x | 1.5x | 0.8500 |",
    ]


@pytest.mark.slow
def test_a_finished_run_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hfprune import load_recipe
    from hfprune.pipeline import run
    from hfprune.report.console import Console

    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 120)
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "teacher": {"num_train_epochs": 1},
        "pruning": {"sparsity": 0.5, "method": "reconstruction", "search_rounds": 2},
        "recovery": {"num_train_epochs": 0},
        "deploy": {"seconds": 5, "runtimes": ["onnxruntime"]},
        "benchmark": {"batch_sizes": [1, 8], "sequence_lengths": [16], "repeats": 2, "warmup": 0},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run(load_recipe(tmp_path / "recipe.yaml"), Console(quiet=True)) is not None
    place = tmp_path / "out"
    told = load_script("benchmark_files").main(
        [str(place), "--dense", str(place / "onnx"), "--rounds", "3", "--output", str(tmp_path)]
    )
    assert told == 0
    (found,) = json.loads((tmp_path / "files.json").read_text())
    assert set(found["over_usual"]) == {"single", "batches"}
    assert found["test"]["single"]["differs_by_batch"] == 0
    assert {"dense float32", "dense, ONNX Runtime int8", "float32"} <= set(found["metrics"])
    assert "| out | single |" in capsys.readouterr().out
