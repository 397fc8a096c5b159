"""A pruned model is an ordinary module: FSDP2 shards it and trains it as one process would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_worker import trained

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_recovery_under_fsdp_is_that_of_one_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(ROOT / "tests" / "sharded_worker.py"), str(tmp_path)],
        env=environment, check=True, timeout=300,
    )  # fmt: skip
    alone, sharded = trained(0, 1, sharded=False), load_file(tmp_path / "sharded.safetensors")
    assert alone.keys() == sharded.keys()
    for name, value in alone.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-3, atol=1e-4)
