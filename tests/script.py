"""Scripts as modules, for tests that call their functions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import yaml

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load_script(name: str) -> Any:
    """A fresh module of ``scripts/NAME.py``."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def recipe_without_rows(folder: Path, **changes: Any) -> list[str]:
    """Arguments that name a recipe, written in the folder, whose model and rows there are not.

    Args:
        changes: sections in place of, or besides, those that every recipe has.
    """
    recipe = {
        "model": {"name_or_path": "model"},
        "data": {"train_file": "rows.csv"},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(folder / "never"),
        **changes,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return ["--recipe", str(folder / "recipe.yaml")]
