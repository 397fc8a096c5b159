"""hfprune: structured pruning of Hugging Face encoders, really smaller and faster.

>>> from hfprune import HFPruneTrainer, PruningConfig
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hfprune.core.moved import install
from hfprune.core.version import __version__

# Public name -> the module that defines it. Loaded on first use, so that importing hfprune stays
# light (no transformers.Trainer, ONNX Runtime, Optimum or evaluate until they are needed).
_EXPORTS = {
    "HFPruneTrainer": "hfprune.api.trainer",
    "PruningConfig": "hfprune.recipe.sections.pruning",
    "DistillationConfig": "hfprune.recipe.sections.training",
    "Recipe": "hfprune.recipe.sections.whole",
    "load_recipe": "hfprune.recipe.reading",
    "PruningMixin": "hfprune.training.mixin",
    "PruningPlan": "hfprune.pruning.plan",
    "BlockKey": "hfprune.families.blocks",
    "Gates": "hfprune.pruning.gates",
    "shrink_": "hfprune.pruning.surgery",
    "compress": "hfprune.api.compress",
    "from_pretrained": "hfprune.models.checkpoint",
    "inspect": "hfprune.models.inspection",
    "load_as": "hfprune.models.within",
    "load_embedder": "hfprune.models.sentences",
    "load_encoder": "hfprune.models.sentences",
    "register_family": "hfprune.families.registry",
    "register_metric": "hfprune.core.tasks",
    "register_reader": "hfprune.data.readers.registry",
    "register_score": "hfprune.core.scores",
    "HFPruneError": "hfprune.core.errors",
}

__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from hfprune.api.compress import compress
    from hfprune.api.trainer import HFPruneTrainer
    from hfprune.core.errors import HFPruneError
    from hfprune.core.scores import register_score
    from hfprune.core.tasks import register_metric
    from hfprune.data.readers.registry import register_reader
    from hfprune.families.blocks import BlockKey
    from hfprune.families.registry import register_family
    from hfprune.models.checkpoint import from_pretrained
    from hfprune.models.inspection import inspect
    from hfprune.models.sentences import load_embedder, load_encoder
    from hfprune.models.within import load_as
    from hfprune.pruning.gates import Gates
    from hfprune.pruning.plan import PruningPlan
    from hfprune.pruning.surgery import shrink_
    from hfprune.recipe.reading import load_recipe
    from hfprune.recipe.sections.pruning import PruningConfig
    from hfprune.recipe.sections.training import DistillationConfig
    from hfprune.recipe.sections.whole import Recipe
    from hfprune.training.mixin import PruningMixin


install()


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hfprune' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
