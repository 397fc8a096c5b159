"""Two scores from outside: one of the weights, one of gradients.

The package says, in pyproject.toml::

    [project.entry-points."hfprune.scores"]
    depth = "hfprune_depth:DEPTH"
    cubed = "hfprune_depth:CUBED"

Then recipes take ``pruning.score: depth``, and ``PruningConfig(score="cubed")`` does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hfprune.core.scores import GradientScore, WeightScore
from hfprune.families import block_views
from hfprune.families.blocks import BlockKey
from hfprune.pruning.importance import magnitude_scores


def magnitude_by_depth(model: Any, seed: int) -> dict[BlockKey, Tensor]:
    """Squared weights, divided by the number of the layer (from 1): later layers go first."""
    norms = magnitude_scores(model)
    return {key: norms[key] / (key.layer + 1) for key in block_views(model)}


DEPTH = WeightScore(magnitude_by_depth)
# Between Taylor (the absolute value) and what outliers say.
CUBED = GradientScore(lambda gradient: gradient.abs() ** 3)
