"""ModernBERT: pre-norm, with fused projections (queries, keys, values; input and gate).

A removed block adds zero. Whether a layer attends locally or globally depends on its index, which
never changes: a removed block leaves its layer in place.
"""

from __future__ import annotations

from typing import Any

from hfprune.families.base import PassZero, PassZeroTuple, Producer
from hfprune.families.parts import Parts, Place, counted
from hfprune.families.pre_norm import PreNormAdapter


class ModernBertAdapter(PreNormAdapter):
    model_types = ("modernbert",)
    layers_at = "layers"
    attention_at = Place("attn", PassZeroTuple, norm="attn_norm")
    ffn_at = Place("mlp", PassZero, norm="mlp_norm")

    def heads(self, layer: Any) -> Parts:
        inner = layer.attn
        size = inner.head_dim
        return Parts(
            producers=(Producer(inner.Wqkv, size, parts=3),),
            consumer=inner.Wo,
            unit_size=size,
            set_units=counted(inner, size, "num_heads", "all_head_size"),
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.mlp.Wi, 1, parts=2),), layer.mlp.Wo)
