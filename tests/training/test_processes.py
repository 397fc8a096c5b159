"""What is checked where several processes work, or should, without starting any."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from accelerate.state import AcceleratorState
from tiny import random_plan, tiny_model

from hfprune import HFPruneTrainer, PruningConfig
from hfprune.core.errors import TrainingError
from hfprune.core.processes import leave_processes, lost_processes
from hfprune.training.checks import check_environment
from hfprune.training.pruner import require_same_plan
from tests.training.test_trainer import make

ROOT = Path(__file__).parents[2]
LAUNCHED = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize("pruning", [None, PruningConfig(sparsity=0.5)])
def test_deepspeed_is_refused_before_training(pruning: Any, tmp_path: Path) -> None:
    class Sharded(HFPruneTrainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            self.is_deepspeed_enabled = True

    with pytest.raises(TrainingError, match="DeepSpeed shards parameters.*use plain data parallel"):
        make(tmp_path, cls=Sharded, pruning=pruning)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("target", [{"sparsity": 0.5}, {"max_metric_drop": 0.1}])
def test_gates_and_the_first_fsdp_are_refused_before_training(
    version: int, target: dict[str, float], tmp_path: Path
) -> None:
    class Sharded(HFPruneTrainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            self.is_fsdp_enabled = True
            self.accelerator.state.fsdp_plugin = SimpleNamespace(fsdp_version=version)

    told = "version 1 flattens parameters" if version == 1 else "FSDP shards.*gates cannot follow"
    try:
        with pytest.raises(TrainingError, match=told):
            make(tmp_path, cls=Sharded, pruning=PruningConfig(**target))
    finally:
        AcceleratorState._shared_state.pop("fsdp_plugin")  # all trainers of a process share it


def test_several_gpus_in_one_process_are_refused() -> None:
    with pytest.raises(TrainingError, match="DataParallel over 2 GPUs is not supported; start"):
        check_environment(SimpleNamespace(n_gpu=2), deepspeed=False, fsdp=None)


def test_different_plans_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert")
    plan = random_plan(model)
    others = {"same": plan, "other": random_plan(model, seed=1)}

    def gather(into: list[Any], mine: str) -> None:
        into[:] = [mine, others[which].digest()]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    which = "same"
    require_same_plan(plan, 2, 0)
    which = "other"
    with pytest.raises(TrainingError, match="processes decided on different plans at step 0"):
        require_same_plan(plan, 2, 0)


def test_several_processes_asked_for_and_one_started() -> None:
    text = lost_processes(LAUNCHED)
    assert text is not None
    assert "python -m torch.distributed.run --nproc_per_node 2 scripts/prune.py" in text
    assert lost_processes({}) is None
    assert lost_processes({"ACCELERATE_MIXED_PRECISION": "no"}) is None, "one was asked for"
    assert lost_processes({"MASTER_ADDR": "a", "MASTER_PORT": "1"}) is None, "not accelerate"
    for real in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        assert lost_processes({**LAUNCHED, real: "2"}) is None


@pytest.mark.slow
@pytest.mark.parametrize(("count", "lost"), [("2", True), ("1", False)])
def test_accelerate_sets_what_this_is_told_by(count: str, lost: bool, tmp_path: Path) -> None:
    """Also holds of the release of accelerate at hand."""
    script = tmp_path / "script.py"
    script.write_text(
        "from hfprune.core.processes import lost_processes; print('lost', lost_processes())"
    )
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", count,
         "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(script)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"lost (.*)", done.stdout)
    assert len(found) == 1, "one process, whatever was asked for"
    assert (found[0] != "None") == lost


def test_leaving_without_a_group_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_processes()
    calls: list[str] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroyed"))
    leave_processes()
    assert calls == ["destroyed"]
