"""The notebooks are valid, hold no outputs, compile, and run from top to bottom."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["quickstart", "targets"]


@named
def test_it_is_valid_and_holds_no_outputs(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    for cell in code(nbformat.read(path, as_version=4)):
        assert cell.outputs == [], cell.id
        assert cell.execution_count is None, cell.id


@named
def test_its_code_compiles_and_knows_hfprune(path: Path) -> None:
    from importlib import import_module

    for cell in code(nbformat.read(path, as_version=4)):
        lines = cell.source.splitlines()
        source = "\n".join(line for line in lines if not line.startswith("%"))
        for node in ast.walk(ast.parse(source, cell.id)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hfprune"):
                for alias in node.names:
                    assert hasattr(import_module(str(node.module)), alias.name), alias.name


def test_what_the_trainer_is_asked_for_in_notebooks_goes_together() -> None:
    """Sections that exclude each other were an error of the first notebook, after its training."""
    from hfprune.api.asked import SECTIONS, Asked
    from hfprune.core.errors import RecipeError

    asked = 0
    for path in NOTEBOOKS:
        for cell in code(nbformat.read(path, as_version=4)):
            lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
            for node in ast.walk(ast.parse("\n".join(lines), cell.id)):
                if getattr(getattr(node, "func", None), "id", "") == "HFPruneTrainer":
                    given = {one.arg: ast.literal_eval(one.value) for one in node.keywords  # type: ignore[attr-defined]
                             if one.arg in ("pruning", *SECTIONS)}  # fmt: skip
                    pruning = given.pop("pruning")
                    Asked.of(
                        pruning, None, None, text_column="text", text_pair_column=None, **given
                    )
                    asked += 1
    assert asked
    with pytest.raises(RecipeError, match=r"export\.quantization_seconds is for the search"):
        Asked.of(
            {"sparsity": 0.6}, None, None, text_column="text", text_pair_column=None,
            export={"quantization_seconds": 30},
        )  # fmt: skip


@named
def test_it_says_how_to_get_the_model_and_the_data(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0].source
    assert "python scripts/fetch_demo.py --dest demo-assets" in first


def test_from_a_fine_tuned_model_to_a_served_file_in_ten_lines() -> None:
    notebook = nbformat.read(ROOT / "notebooks/quickstart.ipynb", as_version=4)
    (cell,) = [cell for cell in code(notebook) if "HFPruneTrainer(" in cell.source]
    assert "model_quantized.onnx" in cell.source
    assert "session.run(" in cell.source
    assert len([line for line in cell.source.splitlines() if line.strip()]) <= 10
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [b for b in readme.split("```python\n") if "HFPruneTrainer(" in b.split("```")[0]]
    lines = [line for line in block.split("```")[0].splitlines() if line.strip()]
    assert any(".export(" in line for line in lines)
    assert len(lines) <= 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
@named
def test_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    jupyter = pytest.importorskip("jupyter_client.manager")
    if not (ROOT / "demo-assets").is_dir():
        pytest.skip("the demo's model and data are not there; `make test` fetches them")
    # Targets: a teacher at chance has nothing to lose, and the search for a drop finds no end.
    rows = "100" if path.stem == "quickstart" else "400"
    monkeypatch.setenv("HFPRUNE_NOTEBOOK_ROWS", os.environ.get("HFPRUNE_NOTEBOOK_ROWS", rows))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws inline
    notebook = nbformat.read(path, as_version=4)
    # This interpreter, not whatever a kernel installed for the user points to.
    manager = jupyter.AsyncKernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    try:
        nbclient.NotebookClient(
            notebook, km=manager, timeout=900, resources={"metadata": {"path": str(ROOT)}}
        ).execute()
    finally:  # a client ends only a kernel that it made itself
        asyncio.run(manager.shutdown_kernel(now=True))
    shown = [output for cell in code(notebook) for output in cell.outputs]
    text = "".join(output.get("text", "") for output in shown)
    if path.stem == "quickstart":
        assert any("image/png" in output.get("data", {}) for output in shown)
        assert all(name in text for name in ("dense", "pruned", "speed-up"))
    else:
        assert all(target in text for target in ("sparsity", "speedup", "max_metric_drop"))
