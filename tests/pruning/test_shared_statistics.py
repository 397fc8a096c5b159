"""Several processes read a share of the scoring batches each; the plan is that of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from statistics_worker import SELECTIONS, planned

from hfprune.pruning.obs.moments import SecondMoment

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("products", ["float64", "float32"])
def test_sums_of_shares_are_the_sums(products: str) -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    made = [SecondMoment(6, 2, products=products) for _ in range(3)]  # type: ignore[arg-type]
    whole, first, second = made
    whole.update(x, x[:, :2])
    first.update(x[:25], x[:25, :2])
    second.update(x[25:], x[25:, :2])
    others = iter((second.second, second.sum_x, second.cross, second.sum_y, second._probed))
    left = [other for other in others if other is not None] + [torch.tensor([15.0])]
    first.join_(lambda sums: sums.add_(left.pop(0)))
    assert not left
    assert first.count == whole.count == 40
    torch.testing.assert_close(first.second, whole.second, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first.cross, whole.cross, rtol=1e-6, atol=1e-6)
    assert first.rounding() < 1e-5


@pytest.mark.slow
def test_two_processes_plan_by_hash_as_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(ROOT / "tests" / "statistics_worker.py"), str(tmp_path)],
        env=environment, check=True, timeout=500,
    )  # fmt: skip
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for selection in SELECTIONS:
        plan, read = planned(selection)
        assert plan is not None
        assert first[selection]["plan"] == plan.digest()
        assert second[selection]["plan"] is None
        assert set(first[selection]["read"]) == {0, 2}
        assert set(second[selection]["read"]) == {1}
        assert set(read) == {0, 1, 2}
