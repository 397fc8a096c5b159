"""Llama, Qwen2 and Qwen3: pre-norm decoders with grouped queries and a gated feed-forward.

A unit of attention is a key-value head together with the query heads that share it: removing
whole groups keeps their number a head, which the attention functions rely on.
"""

from __future__ import annotations

from typing import Any

from hfprune.families.base import PassZero, PassZeroTuple, Producer
from hfprune.families.parts import Parts, Place
from hfprune.families.pre_norm import PreNormAdapter


class LlamaAdapter(PreNormAdapter):
    model_types = ("llama", "qwen2", "qwen3")
    layers_at = "layers"
    attention_at = Place("self_attn", PassZeroTuple, norm="input_layernorm")
    ffn_at = Place("mlp", PassZero, norm="post_attention_layernorm")
    caches = True

    def heads(self, layer: Any) -> Parts:
        inner = layer.self_attn
        size = inner.head_dim
        queries = inner.num_key_value_groups * size
        return Parts(
            producers=(
                Producer(inner.q_proj, queries),
                Producer(inner.k_proj, size),
                Producer(inner.v_proj, size),
            ),
            consumer=inner.o_proj,
            unit_size=queries,
        )

    def neurons(self, layer: Any) -> Parts:
        inner = layer.mlp
        return Parts((Producer(inner.gate_proj, 1), Producer(inner.up_proj, 1)), inner.down_proj)
