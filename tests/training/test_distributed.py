"""Two real processes (gloo, CPU) equal one with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import save_tiny_classifier, write_reviews

TESTS = Path(__file__).parents[1]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command),
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
        # This tree's hfprune, whatever is installed.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
        timeout=240,
    )


def trained(folder: Path, order: str, *launcher: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return carried_out("distributed_worker.py", folder, launcher, "fisher", order)


def carried_out(
    worker: str, folder: Path, launcher: tuple[str, ...], *arguments: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    folder.mkdir()
    command = launcher or (sys.executable,)
    done = start(*command, str(TESTS / worker), str(folder), *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report, load_file(folder / "model.safetensors")


@pytest.mark.parametrize("order", ["shuffled", pytest.param("grouped", marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_twice_the_batch(order: str, tmp_path: Path) -> None:
    one, alone = trained(tmp_path / "one", order)
    two, together = trained(tmp_path / "two", order, *TWO)
    assert (one["world"], two["world"]) == (1, 2)
    assert two["plan"] == one["plan"]
    assert two["predictions"] == one["predictions"] == 21, "every sample once"
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "target",
    [
        "reconstruction",
        *(pytest.param(name, marks=pytest.mark.slow)
          for name in ("speedup", "fast reconstruction", "family")),
    ],
)  # fmt: skip
def test_two_processes_plan_as_one(target: str, tmp_path: Path) -> None:
    """Also where the Trainer goes through stages, most of which only the main process does."""
    worker = "distributed_targets.py"
    one, alone = carried_out(worker, tmp_path / "one", (), target)
    two, together = carried_out(worker, tmp_path / "two", tuple(TWO), target)
    assert (one["world"], two["world"]) == (1, 2)
    assert two["plan"] == one["plan"]
    assert two["predictions"] == one["predictions"] == 21
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gates", "reconstruction"])
def test_the_script_under_two_processes(method: str, tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 120)
    pruning: dict[str, Any] = {"sparsity": 0.5, "method": method}
    if method == "gates":
        pruning.update(min_neurons=4, update_every_steps=2)
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 4},
        "pruning": pruning,
        "recovery": {"num_train_epochs": 1},
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 2},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    script = str(TESTS.parent / "scripts" / "prune.py")
    done = start(*TWO, script, "--recipe", str(tmp_path / "recipe.yaml"))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert results["processes"] == 2
    assert results["pruning"]["sparsity"] >= 0.5
    assert done.stdout.count("encoder weights removed") == 1, "one process reports"
