"""Llama, Qwen2 and Qwen3: pre-norm decoders with grouped queries and a gated feed-forward.

A unit of attention is a key-value head together with the query heads that share it: removing
whole groups keeps their number a head, which the attention functions rely on.
"""

from __future__ import annotations

from typing import Any

from hfprune.families.base import PassZero, PassZeroTuple, Producer, StockNames
from hfprune.families.parts import Parts, Place
from hfprune.families.pre_norm import PreNormAdapter


class LlamaAdapter(PreNormAdapter):
    model_types = ("llama", "qwen2", "qwen3")
    layers_at = "layers"
    attention_at = Place("self_attn", PassZeroTuple, norm="input_layernorm")
    ffn_at = Place("mlp", PassZero, norm="post_attention_layernorm")
    caches = True
    stock = StockNames()

    def stock_sizes(self, config: Any) -> tuple[int, int]:
        return int(config.num_key_value_heads), int(config.intermediate_size)

    def stock_heads(self, config: Any) -> tuple[int, ...]:
        units = range(1, config.num_key_value_heads)
        if config.model_type != "llama":
            return tuple(units)
        # transformers 5 wants a number that divides the width, though heads have their own size.
        groups = config.num_attention_heads // config.num_key_value_heads
        return tuple(n for n in units if config.hidden_size % (n * groups) == 0)

    def write_stock_sizes(self, config: Any, heads: int, neurons: int) -> None:
        groups = config.num_attention_heads // config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        config.head_dim = size  # else it would follow from the number of heads
        config.num_key_value_heads, config.num_attention_heads = heads, heads * groups
        config.intermediate_size = neurons

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
