"""Llama, Qwen2 and Qwen3: pre-norm decoders with grouped queries and a gated feed-forward.

A unit of attention is a key-value head together with the query heads that share it: removing
whole groups keeps their number a head, which the attention functions rely on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.families.base import (
    Adapter,
    BlockView,
    PassOver,
    PassZero,
    PassZeroTuple,
    Producer,
    Skip,
)
from hfprune.families.blocks import BlockKey


class LlamaAdapter(Adapter):
    model_types = ("llama", "qwen2", "qwen3")

    def layers(self, model: nn.Module) -> Sequence[Any]:
        base: Any = model.base_model
        return list(base.layers)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.self_attn
        if isinstance(inner, PassOver):
            return None
        size = inner.head_dim
        queries = inner.num_key_value_groups * size
        return BlockView(
            key=key,
            producers=(
                Producer(inner.q_proj, queries),
                Producer(inner.k_proj, size),
                Producer(inner.v_proj, size),
            ),
            consumer=inner.o_proj,
            stream=layer.input_layernorm,
            units=inner.k_proj.out_features // size,
            unit_size=queries,
            skips=(Skip(layer, "self_attn", PassZeroTuple("o_proj.weight")),),
            discards=((layer, "input_layernorm"),),
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.mlp
        if isinstance(inner, PassOver):
            return None
        return BlockView(
            key=key,
            producers=(Producer(inner.gate_proj, 1), Producer(inner.up_proj, 1)),
            consumer=inner.down_proj,
            stream=layer.post_attention_layernorm,
            units=inner.down_proj.in_features,
            unit_size=1,
            skips=(Skip(layer, "mlp", PassZero("down_proj.weight")),),
            discards=((layer, "post_attention_layernorm"),),
        )

    def settle(self, model: nn.Module) -> None:
        # The cache counts past tokens by layer 0 and would be wrong without a layer's attention.
        if any(isinstance(layer.self_attn, PassOver) for layer in self.layers(model)):
            config: Any = model.config
            config.use_cache = False
