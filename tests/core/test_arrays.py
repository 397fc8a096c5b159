"""Large arrays: what is never written takes no memory, and parts are all of the rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hfprune.core.arrays import all_finite, row_parts, zeros

STATUS = Path("/proc/self/status")


@pytest.mark.parametrize("shape", [(3, 2), (0, 5), (2_000, 50, 100)])
def test_zeros_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    found = zeros(shape)
    assert found.shape == shape
    assert found.dtype == np.float32
    assert not found.any()
    if len(found):
        found[1, :1] = 3.0
        assert found.sum() == 3.0 * found[1, :1].size


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say what a process holds")
def test_padding_takes_no_memory_written_or_read() -> None:
    # Alone: what the rest of the tests gave back to the heap would be taken first.
    told = """
from hfprune.core.arrays import zeros

def held():
    lines = open("/proc/self/status").read().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

before = held()
found = zeros((10_000, 512, 10))
for row in range(10_000):
    found[row, :20] = 1.0
assert found.sum() == 10_000 * 200
print(held() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=120
    )
    # A page or two a row; all of it is 205 MB.
    assert int(done.stdout) < 90e6


def test_parts_are_all_rows_in_order_and_at_least_one_each() -> None:
    values = np.arange(70, dtype=np.float32).reshape(7, 10)
    for most in (1, 40, 100, 10_000):
        parts = list(row_parts(values, most))
        np.testing.assert_array_equal(np.concatenate([values[part] for part in parts]), values)
        assert all(values[part].nbytes <= max(most, 40) for part in parts)
    assert list(row_parts(np.zeros((0, 4)))) == []


def test_one_value_that_is_no_number_is_found_in_any_part() -> None:
    values = np.zeros((9, 1_000_000), dtype=np.float32)
    assert all_finite(values)
    values[7, 3] = np.inf
    assert not all_finite(values)
