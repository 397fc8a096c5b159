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
    StockNames,
    weight_of,
)
from hfprune.families.parts import Parts, Place, counted
from hfprune.families.post_norm import PostNormAdapter
from hfprune.families.pre_norm import PreNormAdapter
from hfprune.families.registry import (
    adapter_for,
    adapter_of,
    block_views,
    layer_views,
    model_sizes,
    position_limit,
    register_family,
    supported_model_types,
)

__all__ = [
    "Adapter",
    "BlockView",
    "LayerView",
    "Parts",
    "PassInput",
    "PassInputTuple",
    "PassOver",
    "PassResidual",
    "PassZero",
    "PassZeroTuple",
    "Place",
    "PostNormAdapter",
    "PreNormAdapter",
    "Producer",
    "Projection",
    "Skip",
    "StockNames",
    "adapter_for",
    "adapter_of",
    "block_views",
    "counted",
    "layer_views",
    "model_sizes",
    "position_limit",
    "register_family",
    "supported_model_types",
    "weight_of",
]
