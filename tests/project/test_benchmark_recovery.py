"""Ways of training what is left: the table, and two ways on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from script import load_script
from tiny import save_tiny_classifier, write_reviews

import hfprune


def test_differences_are_paired_by_row_and_told_over_seeds() -> None:
    def one(way: str, seed: int, rows: list[float], metric: float) -> dict[str, object]:
        return {
            "way": way, "seed": seed, "divergence": sum(rows) / len(rows), "by_row": rows,
            "metric": {"accuracy": metric}, "processor_seconds": 10.0,
        }  # fmt: skip

    found = [
        one("a=1", 1, [0.2, 0.4], 0.5),
        one("a=1", 2, [0.4, 0.6], 0.7),
        one("a=2", 1, [0.1, 0.3], 0.8),
    ]
    assert load_script("benchmark_recovery").table(found).splitlines()[2:] == [
        "| a=1 | 2 | 0.4000 | - | 0.6000 | 10 |",
        "| a=2 | 1 | 0.2000 | -0.1000 ± 0.0000 | 0.8000 | 10 |",
    ]


@pytest.mark.slow
def test_two_ways_from_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 80)
    hfprune.compress(
        str(tmp_path / "model"),
        train=tmp_path / "reviews.csv",
        sparsity=0.5,
        output_dir=tmp_path / "pruned",
        quiet=True,
        data={"max_length": 32},
        recovery={"num_train_epochs": 0},
        export={"quantization": None, "temperature": False},
        deploy=None,
        benchmark={"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
    )
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "pruning": {"sparsity": 0.5},
        "recovery": {"num_train_epochs": 1},
        "training": {"bf16": "auto"},
        "output_dir": str(tmp_path / "never"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [
        *("--recipe", str(tmp_path / "recipe.yaml"), "--teacher", str(tmp_path / "model")),
        *("--pruned", str(tmp_path / "pruned"), "--output", str(tmp_path / "found"), "--quiet"),
        *("--way", "recovery.learning_rate=1e-4", "--way", "recovery.learning_rate=1e-3"),
    ]
    script = load_script("benchmark_recovery")
    assert script.main(arguments) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("| recovery.learning_rate=1e-4 | 1 | ")
    assert told[-1].startswith("| recovery.learning_rate=1e-3 | 1 | ")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "found").iterdir()}
    assert len(before) == 2
    assert script.main(arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before, "nothing is done twice"
    assert not (tmp_path / "never").exists()
