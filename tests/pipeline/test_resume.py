"""A run that is killed (SIGKILL) wherever it may be, and resumed, ends as if nothing happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny_classifier, write_reviews

TESTS = Path(__file__).parents[1]
TIMED = 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["gates", "speed"])
def test_killed_at_any_moment_and_resumed(kind: str, tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 60)
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "training": {
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
            "save_strategy": "steps",
            "save_steps": 3,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "group_by_length": True,
        },
        "pruning": {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 2, "score": "fisher"},
        "recovery": {"num_train_epochs": 1},
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
        "deploy": None,  # the search for int8 settings is one of the points
        "output_dir": str(tmp_path / "unused"),
    }
    if kind == "speed":
        recipe["pruning"] = {"method": "reconstruction", "speedup": [2.0, 5.0], "search_rounds": 2}
        recipe["export"] = {"quantization": {}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    folder = tmp_path / "runs"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(TESTS / "chaos_worker.py"), str(tmp_path / "recipe.yaml"), str(folder),
         "7", str(TIMED), kind],
        capture_output=True, text=True, check=False, cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
            [str(TESTS.parent), str(TESTS)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "report.json").read_text())
    log = (folder / "log.txt").read_text()
    assert set(report["codes"]) == {0, -9}, log[-5000:]
    assert report.get("missed", []) == [], "every point is come to, in this order"
    assert report["timed"] >= TIMED
    assert report["kills"] >= 20
    want = folder / "whole"
    for name in report["ends"]:
        for member in ("",) if kind == "gates" else ("2x", "5x"):
            for file in ("plan.json", "model.safetensors"):
                found, wanted = (place / member / file for place in (folder / name, want))
                assert found.read_bytes() == wanted.read_bytes(), (name, member)
        results, first = (
            json.loads((place / "metrics.json").read_text()) for place in (folder / name, want)
        )
        for part in ("pruning" if kind == "gates" else "family", "evaluation"):
            assert results[part] == first[part], (name, part)
    left = {path.name for path in folder.iterdir()}
    assert left == {*report["ends"], "log.txt", "report.json"}, "nothing lies about"
    print(f"{report['kills']} kills survived, a whole run takes {report['seconds']:.1f} s")
