"""Trainings under FSDP2, in two real processes, are those of plain data parallelism."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sharding_here import LAUNCHED
from tiny import save_tiny_classifier, tiny_model, write_reviews

from hfprune import PruningConfig
from hfprune.core.errors import CheckpointError, TrainingError
from hfprune.families import model_sizes
from hfprune.pipeline.preflight import check_sharding
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_
from hfprune.training.sharding import shard_by_layers_, weights_in, why_not

TESTS = Path(__file__).parents[1]


def start(*arguments: str, processes: int = 2, **environment: str) -> tuple[int, str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [sys.executable, *launcher, str(TESTS / "sharded_worker.py"), *arguments],
        capture_output=True, text=True, check=False, timeout=280, cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
             **environment},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def trained(folder: Path, what: str = "train", **environment: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    code, said = start(what, str(folder), **environment)
    assert code == 0, said[-3000:]
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def same_weights(one: Path, other: Path) -> None:
    mine, theirs = load_file(one), load_file(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_recovery_under_fsdp_is_plain_data_parallelism(kept: str, tmp_path: Path) -> None:
    fsdp = {**LAUNCHED, "FSDP_STATE_DICT_TYPE": kept}
    plain, sharded = tmp_path / "plain", tmp_path / "sharded"
    one, two = trained(plain), trained(sharded, **fsdp)
    assert (one["sharded"], two["sharded"]) == (False, True)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["loss"] == pytest.approx(min(two["losses"]), abs=1e-6), "the best is whole"
    assert two["predictions"] == one["predictions"] == 21
    same_weights(sharded / "model.safetensors", plain / "model.safetensors")
    same_weights(sharded / "saved" / "model.safetensors", plain / "model.safetensors")
    # From a checkpoint in the middle, to the same end.
    steps = sorted(
        (sharded / "trainer").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime
    )
    for later in steps[1:]:
        shutil.rmtree(later)
    resumed = trained(sharded, "resume", **fsdp)
    assert resumed["losses"] == pytest.approx(one["losses"], abs=1e-5)
    same_weights(sharded / "model.safetensors", plain / "model.safetensors")


@pytest.mark.slow
def test_a_recipe_under_fsdp(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv", 120)
    recipe: dict[str, Any] = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "reviews.csv"), "max_length": 32},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 4},
        "pruning": {"sparsity": 0.5, "method": "reconstruction"},
        "recovery": {"num_train_epochs": 1},
        "export": {"quantization": None},
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 2},
    }
    plans, metrics = [], []
    for name, environment in (("plain", {}), ("sharded", LAUNCHED)):
        recipe["output_dir"] = str(tmp_path / name)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        code, said = start("recipe", str(tmp_path / f"{name}.yaml"), **environment)
        assert code == 0, said[-3000:]
        plans.append(json.loads((tmp_path / name / "plan.json").read_text()))
        metrics.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    assert plans[0] == plans[1]
    assert metrics[1]["processes"] == 2
    plain, sharded = (each["evaluation"]["models"] for each in metrics)
    assert sharded.keys() == plain.keys()
    for name, model in plain.items():
        assert sharded[name]["metrics"] == pytest.approx(model["metrics"], abs=0.05), name


def launched(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**LAUNCHED, **changes}.items():
        monkeypatch.setenv(name, value)


def test_gates_are_refused_under_fsdp_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    gates, rebuilt = (PruningConfig(sparsity=0.5, method=m) for m in ("gates", "reconstruction"))
    check_sharding(gates)  # nobody asked for FSDP
    launched(monkeypatch)
    with pytest.raises(TrainingError, match="gates cannot follow: prune with pruning.meth"):
        check_sharding(gates)
    check_sharding(rebuilt)
    check_sharding(PruningConfig(keep_layers=[0]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP version 1 flattens parameters.*--fsdp_version 2"),
        (
            {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            "only one process reads the weights.*--fsdp_cpu_ram_efficient_loading false",
        ),
    ],
)
def test_launches_that_cannot_do_are_refused(
    changes: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, **changes)
    with pytest.raises(TrainingError, match=told):
        check_sharding(PruningConfig(sparsity=0.5, method="reconstruction"))
    monkeypatch.delenv("FSDP_VERSION")
    assert "FSDP version 1" in (why_not() or "")


def test_layers_are_sharded_one_by_one_unless_others_are_named() -> None:
    def named(model: Any, names: list[str] | None = None) -> list[str] | None:
        plugin = SimpleNamespace(transformer_cls_names_to_wrap=names)
        shard_by_layers_(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)), model)
        return plugin.transformer_cls_names_to_wrap

    model = tiny_model("bert")
    shrink_(model, PruningPlan.first_units(model_sizes(model), [(0, 0), (2, 8), (1, 4)]))
    assert named(model) == ["BertLayer"]
    assert named(model, ["BertEmbeddings"]) == ["BertEmbeddings"]
    model.config.model_type = "unknown"
    assert named(model) is None


def test_a_checkpoint_without_safetensors_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model\\*.safetensors.*leave save_safetens"):
        weights_in(tmp_path)
