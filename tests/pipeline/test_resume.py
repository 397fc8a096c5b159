"""A run that is killed (SIGKILL) wherever it may be, and resumed, ends as if nothing happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import (
    NEUTRAL,
    POSITIVE,
    save_tiny_classifier,
    tiny_model,
    tiny_tokenizer,
    write_reviews,
)

TESTS = Path(__file__).parents[1]
TIMED = 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["gates", "speed", "reranking", "sentence_embedding"])
def test_killed_at_any_moment_and_resumed(kind: str, tmp_path: Path) -> None:
    recipe = killable(tmp_path, kind)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    report, log = killed_and_resumed(tmp_path, kind, TIMED)
    assert set(report["codes"]) == {0, -9}, log[-5000:]
    assert report.get("missed", []) == [], "every point is come to, in this order"
    assert report["timed"] >= TIMED
    assert report["kills"] >= 20
    check_ends(tmp_path / "runs", report, kind)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "kind", ["few reranking", pytest.param("few sentence_embedding", marks=pytest.mark.slow)]
)
def test_killed_at_three_points_and_resumed(kind: str, tmp_path: Path) -> None:
    """What the tasks without classes have of their own: an embedder, queries, what changed most."""
    recipe = killable(tmp_path, kind.removeprefix("few "))
    del recipe["deploy"]
    recipe["export"] = {"quantization": None}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    report, log = killed_and_resumed(tmp_path, kind, 0)
    assert set(report["codes"]) == {0, -9}, log[-5000:]
    assert (report["kills"], report.get("missed", [])) == (3, [])
    check_ends(tmp_path / "runs", report, kind)


def killable(tmp_path: Path, kind: str) -> dict[str, Any]:
    """A recipe for a tiny model, and what it names."""
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 60)
    recipe: dict[str, Any] = {
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
    elif kind != "gates":
        recipe["task"] = kind
        recipe["export"] = {"quantization": {}}
    if kind == "sentence_embedding":
        recipe["model"]["name_or_path"] = str(tmp_path / "encoder")
        tiny_model("bert").base_model.save_pretrained(tmp_path / "encoder")
        tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    if kind == "reranking":  # twelve queries of five texts
        recipe["model"]["new_head"] = True
        lines = (tmp_path / "reviews.csv").read_text().splitlines()[1:]
        names = [f"{POSITIVE[n % 6]} {NEUTRAL[n // 6]}" for n in range(12)]
        rows = [f"{names[n // 5]},{line}" for n, line in enumerate(lines)]
        rows = [row.rpartition(",")[0] + (",1" if "positive" in row else ",0") for row in rows]
        (tmp_path / "reviews.csv").write_text("\n".join(["query,text,label", *rows, ""]))
    return recipe


def killed_and_resumed(tmp_path: Path, kind: str, timed: int) -> tuple[dict[str, Any], str]:
    """What the worker reports of its kills, and the log of all attempts."""
    folder = tmp_path / "runs"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(TESTS / "chaos_worker.py"), str(tmp_path / "recipe.yaml"), str(folder),
         "7", str(timed), kind],
        capture_output=True, text=True, check=False, cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
            [str(TESTS.parent), str(TESTS)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "report.json").read_text())
    return report, (folder / "log.txt").read_text()


def check_ends(folder: Path, report: dict[str, Any], kind: str) -> None:
    """Every run that was killed ended as the whole one did, and left nothing else."""
    want = folder / "whole"
    for name in report["ends"]:
        for member in ("2x", "5x") if kind == "speed" else ("",):
            for file in ("plan.json", "model.safetensors"):
                found, wanted = (place / member / file for place in (folder / name, want))
                assert found.read_bytes() == wanted.read_bytes(), (name, member)
        results, first = (
            json.loads((place / "metrics.json").read_text()) for place in (folder / name, want)
        )
        if kind == "gates":  # which int8 settings are the fastest hangs on the machine's other work
            for some in (results, first):
                models = some["evaluation"]["models"]
                some["evaluation"]["models"] = {n: m for n, m in models.items() if "int8" not in n}
                assert len(some["evaluation"]["models"]) == len(models) - 2, "dense and pruned"
        for part in ("family" if kind == "speed" else "pruning", "evaluation"):
            assert results[part] == first[part], (name, part)
    left = {path.name for path in folder.iterdir()}
    assert left == {*report["ends"], "log.txt", "report.json"}, "nothing lies about"
    print(f"{report['kills']} kills survived, a whole run takes {report['seconds']:.1f} s")
