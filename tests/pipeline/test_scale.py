"""Many rows of many classes within bounds, alone in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measured(name: str, folder: Path, timeout: float = 600) -> dict[str, Any]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "scale_worker.py"), name, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True, timeout=timeout,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_hundred_thousand_rows_of_a_thousand_classes(tmp_path: Path) -> None:
    found = measured("rows", tmp_path)
    assert found["labels"] == 1_000
    assert found["rows"] == 100_000
    # The file has 18 MB; token ids in 32 bits and the texts take some 60.
    assert found["added"] < 400e6, found
    assert found["seconds"] < 120, "labels are looked up, not searched for"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_rows_are_read_and_trained_on_within_bounds(tmp_path: Path) -> None:
    found = measured("million", tmp_path, timeout=1700)
    assert (found["rows"], found["steps"]) == (980_000, 3)
    # The file has 48 MB; while train's tokens are made, texts, labels and tokens lie side by side.
    assert found["added"] < 800e6, found
    assert found["seconds"] < 240, "in proportion to the rows: a tenth of them take a tenth"
