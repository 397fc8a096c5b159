"""Two real processes (gloo, CPU) equal one with twice the batch."""

from __future__ import annotations

import json
import os
import socket
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
        "reranking by gates",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("reconstruction", "speedup", "fast reconstruction", "family", "embeddings"),
                *("embeddings by gates", "reranking"),
            )
        ),
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


@pytest.mark.parametrize("what", ["loss", pytest.param("gradient", marks=pytest.mark.slow)])
def test_all_processes_stop_where_one_is_not_finite(what: str, tmp_path: Path) -> None:
    done = start(*TWO, str(TESTS / "distributed_faults.py"), str(tmp_path), what)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (0, 1))
    assert (first["steps"], second["steps"]) == (3, 3)
    assert (first["processes"], second["processes"]) == (2, 2)
    told = {
        "loss": (
            "the loss is no finite number in another process at step 3",
            "the loss is nan at step 3",
        ),
        "gradient": 2 * ("gradients are not finite at step 3: lower the learning rate",),
    }[what]
    assert told[0] in first["told"]
    assert told[1] in second["told"]


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


def on_two_machines(folder: Path, script: str, places: list[Path]) -> list[tuple[int, str]]:
    """Two launchers that meet on loopback, each with a process in a folder of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    running = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank",
                str(rank), "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port",
                str(port), script, "--recipe", str(folder / "recipe.yaml"),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=place, env=env,
        )
        for rank, place in enumerate(places)
    ]  # fmt: skip
    said = [one.communicate(timeout=280)[0] for one in running]
    return [(one.returncode, text) for one, text in zip(running, said, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gates", "reconstruction"])
def test_two_machines_with_a_shared_folder_are_two_processes(method: str, tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 120)
    pruning: dict[str, Any] = {"sparsity": 0.5, "method": method}
    if method == "gates":
        pruning.update(min_neurons=4, update_every_steps=2)
    recipe: dict[str, Any] = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "teacher": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 4},
        "pruning": pruning,
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 2},
        "output_dir": "out",  # relative: in the folder that a process is started in
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    script = str(TESTS.parent / "scripts" / "prune.py")
    shared, single = tmp_path / "shared", tmp_path / "single"
    for folder in (shared, single):
        folder.mkdir()
    done = on_two_machines(tmp_path, script, [shared, shared])
    assert [code for code, _ in done] == [0, 0], done
    # Without a training, one process plans the same; dropout draws differ from process to process.
    launcher = TWO if method == "gates" else [sys.executable]
    alone = subprocess.run(
        [*launcher, script, "--recipe", str(tmp_path / "recipe.yaml")],
        capture_output=True, text=True, check=False, cwd=single,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)},
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr[-3000:]
    plans = [(folder / "out" / "plan.json").read_text() for folder in (shared, single)]
    assert plans[0] == plans[1]


@pytest.mark.slow
def test_machines_that_do_not_share_the_folder_are_told_at_once(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 120)
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "pruning": {"sparsity": 0.5},
        "output_dir": "out",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    places = [tmp_path / "here", tmp_path / "there"]
    for place in places:
        place.mkdir()
    script = str(TESTS.parent / "scripts" / "prune.py")
    done = on_two_machines(tmp_path, script, places)
    assert all(code != 0 for code, _ in done)
    for _, said in done:
        assert "(process 1) cannot see" in said
        assert "output_dir must lie on a disk that all machines of a run share" in said
