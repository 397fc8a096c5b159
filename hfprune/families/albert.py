"""ALBERT: layers of a group share their weights, so there is one view a group, not a layer.

A model with ``num_hidden_groups`` groups of ``inner_group_num`` inner layers has as many views as
it has inner layers; what is pruned from one is pruned from every layer that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.core.errors import UnsupportedModelError
from hfprune.families.base import PassZero, Producer, StockNames
from hfprune.families.parts import Parts, Place, counted
from hfprune.families.post_norm import PostNormAdapter


class AlbertAdapter(PostNormAdapter):
    model_types = ("albert",)
    stock = StockNames(layers=None)
    # The layer adds the residual between the two.
    ffn_at = Place(
        "ffn_output", PassZero, norm="full_layer_layer_norm", discards=("ffn", "activation")
    )

    def check(self, model: nn.Module) -> None:
        config: Any = model.config
        layers, groups = config.num_hidden_layers, config.num_hidden_groups
        if layers % groups:
            raise UnsupportedModelError(
                f"each of ALBERT's weight groups must serve as many layers as the others, got "
                f"num_hidden_layers={layers} and num_hidden_groups={groups}"
            )
        if config.chunk_size_feed_forward:
            raise UnsupportedModelError(
                f"an ALBERT with chunk_size_feed_forward={config.chunk_size_feed_forward} cannot "
                "be pruned; set it to 0 (results stay the same)"
            )

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        base: Any = model.base_model
        return [
            layer for group in base.encoder.albert_layer_groups for layer in group.albert_layers
        ]

    def order(self, model: nn.Module) -> Sequence[int]:
        config: Any = model.config
        inner = int(config.inner_group_num)
        return [
            group * inner + layer
            for group in range(config.num_hidden_groups)
            for _ in range(config.num_hidden_layers // config.num_hidden_groups)
            for layer in range(inner)
        ]

    def uses(self, layer: Any) -> int:
        return int(layer.config.num_hidden_layers // layer.config.num_hidden_groups)

    def heads(self, layer: Any) -> Parts:
        inner = layer.attention
        size = inner.attention_head_size
        return Parts(
            producers=tuple(Producer(m, size) for m in (inner.query, inner.key, inner.value)),
            consumer=inner.dense,
            unit_size=size,
            units=inner.num_attention_heads,
            set_units=counted(inner, size, "num_attention_heads", "all_head_size"),
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.ffn, 1),), layer.ffn_output)
