"""``import hfprune`` is light: what only some users need is imported when it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("datasets", "evaluate", "matplotlib", "onnx", "onnxruntime", "optimum", "sklearn")


def heavy_modules_loaded_by(statement: str, *, after: str = "pass") -> set[str]:
    """Which of the ``HEAVY`` packages a statement loads in a fresh interpreter.

    What the statement ``after`` has loaded before it does not count. A statement that fails
    fails the test, with its traceback.
    """
    program = f"""
import sys
{after}
before = set(sys.modules)
{statement}
print(*[name for name in {HEAVY!r} if name in sys.modules and name not in before])
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_import_is_light() -> None:
    assert heavy_modules_loaded_by("import hfprune") == set()


def test_the_recipe_is_light() -> None:
    assert heavy_modules_loaded_by("from hfprune import PruningConfig") == set()


@pytest.mark.slow
def test_the_trainer_adds_nothing_to_what_transformers_loads() -> None:
    # transformers' own Trainer imports datasets and sklearn where they are installed.
    loaded = heavy_modules_loaded_by(
        "from hfprune import HFPruneTrainer, PruningConfig\nfrom hfprune import *",
        after="from transformers import Trainer",
    )
    assert loaded == set()


@pytest.mark.parametrize("module", ["onnxruntime", "sklearn"])
def test_a_heavy_import_is_seen(module: str) -> None:
    assert module in heavy_modules_loaded_by(
        f"import hfprune.core.errors, {module}", after="import math"
    )
