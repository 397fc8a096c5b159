"""The price of each choice."""

from __future__ import annotations

from torch import nn

from hfprune.plan import BlockKey
from hfprune.structure import block_views


def parameter_costs(model: nn.Module) -> dict[BlockKey, float]:
    """Parameters that leave with one unit of each block: encoder weights, counted."""
    return {key: float(view.unit_parameters()) for key, view in block_views(model).items()}
