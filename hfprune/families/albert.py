"""ALBERT: layers of a group share their weights, so there is one view a group, not a layer.

A model with ``num_hidden_groups`` groups of ``inner_group_num`` inner layers has as many views as
it has inner layers; what is pruned from one is pruned from every layer that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.core.errors import UnsupportedModelError
from hfprune.families.base import (
    Adapter,
    BlockView,
    PassInput,
    PassInputTuple,
    PassOver,
    PassZero,
    Producer,
    Skip,
)
from hfprune.families.blocks import BlockKey


class AlbertAdapter(Adapter):
    model_types = ("albert",)

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

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.attention
        if isinstance(inner, PassOver):
            return None
        size = inner.attention_head_size

        def set_units(kept: Sequence[int]) -> None:
            inner.num_attention_heads = len(kept)
            inner.all_head_size = len(kept) * size

        return BlockView(
            key=key,
            producers=tuple(Producer(m, size) for m in (inner.query, inner.key, inner.value)),
            consumer=inner.dense,
            stream=inner.query,
            units=inner.num_attention_heads,
            unit_size=size,
            skips=(Skip(layer, "attention", PassInputTuple("dense.weight")),),
            set_units=set_units,
            uses=_uses(layer),
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        if isinstance(layer.ffn_output, PassOver):
            return None
        return BlockView(
            key=key,
            producers=(Producer(layer.ffn, 1),),
            consumer=layer.ffn_output,
            stream=layer.ffn,
            units=layer.ffn_output.in_features,
            unit_size=1,
            # The layer adds the residual between the two.
            skips=(
                Skip(layer, "ffn_output", PassZero("weight")),
                Skip(layer, "full_layer_layer_norm", PassInput("weight")),
            ),
            discards=((layer, "ffn"), (layer, "activation")),
            uses=_uses(layer),
        )


def _uses(layer: Any) -> int:
    return int(layer.config.num_hidden_layers // layer.config.num_hidden_groups)
