"""hfprune: structured pruning of Hugging Face encoders, really smaller and faster.

>>> from hfprune import HFPruneTrainer, PruningConfig
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it. Loaded on first use, so that importing hfprune stays
# light (no transformers.Trainer, ONNX Runtime, Optimum or evaluate until they are needed).
_EXPORTS = {
    "HFPruneTrainer": "hfprune.trainer",
    "PruningConfig": "hfprune.recipe",
    "DistillationConfig": "hfprune.recipe",
    "Recipe": "hfprune.recipe",
    "load_recipe": "hfprune.recipe",
    "PruningPlan": "hfprune.plan",
    "BlockKey": "hfprune.plan",
    "Gates": "hfprune.gates",
    "shrink_": "hfprune.surgery",
    "from_pretrained": "hfprune.checkpoint",
    "inspect": "hfprune.inspection",
    "load_encoder": "hfprune.sentences",
    "HFPruneError": "hfprune.errors",
}

__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from hfprune.checkpoint import from_pretrained
    from hfprune.errors import HFPruneError
    from hfprune.gates import Gates
    from hfprune.inspection import inspect
    from hfprune.plan import BlockKey, PruningPlan
    from hfprune.recipe import DistillationConfig, PruningConfig, Recipe, load_recipe
    from hfprune.sentences import load_encoder
    from hfprune.surgery import shrink_
    from hfprune.trainer import HFPruneTrainer


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hfprune' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
