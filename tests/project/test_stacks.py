"""transformers 4 and 5: a model saved on one is the same on the other, and so is its ONNX file.

``make test-v5`` names the interpreter of the other stack in ``HFPRUNE_OTHER_PYTHON``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import transformers
from stack_worker import EXPORTED, FAMILIES, digest, save

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).parents[1] / "stack_worker.py"
OTHER = os.environ.get("HFPRUNE_OTHER_PYTHON")


def worker(python: str, mode: str, folder: Path) -> str:
    found = subprocess.run(
        [python, str(WORKER), mode, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.skipif(OTHER is None, reason="`make test-v5` runs it, with both stacks at hand")
@pytest.mark.parametrize("saved_by", ["this", "other"])
def test_saved_here_loaded_there(saved_by: str, tmp_path: Path) -> None:
    this, other = sys.executable, os.path.abspath(str(OTHER))
    first, second = (this, other) if saved_by == "this" else (other, this)
    worker(first, "save", tmp_path)
    found = json.loads(worker(second, "load", tmp_path).splitlines()[-1])
    version = found.pop("transformers")
    assert (version == transformers.__version__) == (saved_by == "other")
    assert {family: entry["equal"] for family, entry in found.items()} == dict.fromkeys(found, True)
    for family, entry in found.items():
        assert max(entry["differences"].values()) <= 1e-5, (family, entry)
    assert set(found[EXPORTED]["differences"]) == {
        "PyTorch",
        "ONNX of the other stack",
        "ONNX of this stack",
    }


def test_optimum_still_excludes_transformers_5() -> None:
    """The day this fails, the default of the Makefile may move to transformers 5."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in requires("optimum-onnx") or []]
    except PackageNotFoundError:
        pytest.skip("optimum-onnx is not installed on this stack")
    (wanted,) = [entry for entry in needed if entry.name == "transformers" and not entry.marker]
    assert not wanted.specifier.contains("5.23.0"), (
        f"optimum-onnx now allows transformers 5 ({wanted}): the default stack of the Makefile may "
        "move to it; say so in docs/quickstart.md and pyproject.toml"
    )


def test_the_extra_onnx_holds_no_transformers_down() -> None:
    """Nor does what it brings: `pip install hfprune[onnx]` changes nothing that is there."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [Requirement(text) for text in project["optional-dependencies"]["onnx"]]
    assert {each.name for each in asked} == {"onnx", "onnxruntime", "onnxscript"}
    names, seen = [each.name for each in asked], set[str]()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        names += [each.name for each in needed if each.marker is None or each.marker.evaluate()]
    assert seen.isdisjoint({"transformers", "optimum", "optimum-onnx", "huggingface-hub"})
    (wanted,) = [
        Requirement(text) for text in project["dependencies"] if text.startswith("transformers")
    ]
    assert all(wanted.specifier.contains(each) for each in ("4.57.6", "5.0.0", "5.24.0"))


def test_the_worker_sees_a_changed_weight(tmp_path: Path) -> None:
    """So that the comparison above can fail."""
    import torch

    import hfprune

    save(tmp_path, export=False)
    model = hfprune.from_pretrained(tmp_path / FAMILIES[0])
    before = digest(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert digest(model) != before
