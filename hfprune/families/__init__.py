"""Families: the only place that knows names such as ``attention.self.query``."""

from hfprune.families.base import (
    Adapter,
    BlockView,
    LayerView,
    PassInput,
    PassInputTuple,
    PassOver,
    PassResidual,
    PassZero,
    PassZeroTuple,
    Producer,
    Projection,
    Skip,
    weight_of,
)
from hfprune.families.registry import (
    adapter_for,
    adapter_of,
    block_views,
    layer_views,
    model_sizes,
    position_limit,
    supported_model_types,
)

__all__ = [
    "Adapter",
    "BlockView",
    "LayerView",
    "PassInput",
    "PassInputTuple",
    "PassOver",
    "PassResidual",
    "PassZero",
    "PassZeroTuple",
    "Producer",
    "Projection",
    "Skip",
    "adapter_for",
    "adapter_of",
    "block_views",
    "layer_views",
    "model_sizes",
    "position_limit",
    "supported_model_types",
    "weight_of",
]
