"""The comparison of uniform and uneven layers: its tables, and its short mode on a tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from script import load_script
from tiny import save_tiny_classifier, write_reviews


def test_only_the_layout_differs() -> None:
    uneven, uniform = load_script("benchmark_layouts").layouts([4.0, 8.0], 3).values()
    assert uneven["pruning"].pop("layout") == "uneven"
    assert uniform["pruning"].pop("layout") == "uniform"
    assert uneven == uniform
    assert uneven["pruning"]["speedup"] == [4.0, 8.0]


def test_tables_of_made_up_results() -> None:
    script = load_script("benchmark_layouts")
    row = {
        "name": "uniform 4x", "seeds": 2, "metric": 0.85, "change": -0.01, "bytes": 2e6,
        "change_half_width": 0.002, "removed": 0.5, "speedup": {"1x32": 4.1}, "ece": 0.0312,
        "brier": None,
    }  # fmt: skip
    assert list(script._table([row])) == [
        "| method | seeds | removed | metric | change, points | MB | 1x32 | ECE | Brier |",
        "|---|---|---|---|---|---|---|---|---|",
        "| uniform 4x | 2 | 50% | 0.8500 | -1.00 ± 0.20 | 2.0 | 4.1x | 0.0312 | - |",
    ]
    one = {"metric": 0.8, "interval": [0.7, 0.9], "mean_ms": 1.5, "p95_ms": 2.5, "slow_share": 0.25}
    dense = {"metric": 0.82, "interval": [0.75, 0.9], "speedup": {"fast": 12.0, "cascade": 6.0}}
    record = {"fast": "12x", "measured": {"fast": one, "cascade": one}, "dense": dense}
    found = list(
        script._cascade_table(
            [
                {"name": "uneven cascade", "seed": 0, "record": record},
                {"name": "uniform cascade", "seed": 0, "why": "no threshold"},
            ]
        )
    )
    assert found[2:] == [
        "| uneven cascade: fast, 12x | 0 | 0.8000 | 0.700 to 0.900 | 1.50 | 2.50 | 25% | 12.0x |",
        "| uneven cascade | 0 | 0.8000 | 0.700 to 0.900 | 1.50 | 2.50 | 25% | 6.0x |",
        "| dense | 0 | 0.8200 | 0.750 to 0.900 | | | | 1.0x |",
        "| uniform cascade | 0 | none: no threshold | | | | | |",
    ]


@pytest.mark.slow
def test_short_mode_writes_tables_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("benchmark_layouts")
    save_tiny_classifier("bert", tmp_path / "model", layers=4)
    write_reviews(tmp_path / "reviews.csv", 160)
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 16},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(tmp_path / "unused"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["--recipe", str(tmp_path / "recipe.yaml"), "--short"]
    command += ["--output", str(tmp_path / "out"), "--table", str(tmp_path / "table.md")]
    assert script.main(command) == 0
    saved = json.loads((tmp_path / "out" / "layouts.json").read_text())
    names = [row["name"] for row in saved["summary"]]
    assert names[:2] == ["dense", "dense int8"]
    assert {"uneven 1.5x", "uneven 2x", "uniform 1.5x", "uniform 2x"} == set(names[2:])
    assert all(0 <= row["ece"] <= 1 for row in saved["summary"])
    assert {told["name"] for told in saved["cascades"]} == {"uneven cascade", "uniform cascade"}
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    import hfprune.pipeline as pipeline

    monkeypatch.setattr(pipeline, "run", lambda recipe: pytest.fail("run again"))
    monkeypatch.setattr(pipeline, "train_teacher", lambda recipe: pytest.fail("trained again"))
    assert script.main(command) == 0
    assert "benchmark_methods" in sys.modules
