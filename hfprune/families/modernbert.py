"""ModernBERT: pre-norm, with fused projections (queries, keys, values; input and gate).

A removed block adds zero. Whether a layer attends locally or globally depends on its index, which
never changes: a removed block leaves its layer in place.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hfprune.families.base import PassZero, PassZeroTuple, Producer, StockNames
from hfprune.families.parts import Parts, Place, counted
from hfprune.families.pre_norm import PreNormAdapter


class ModernBertAdapter(PreNormAdapter):
    model_types = ("modernbert",)
    layers_at = "layers"
    attention_at = Place("attn", PassZeroTuple, norm="attn_norm")
    ffn_at = Place("mlp", PassZero, norm="mlp_norm")
    stock = StockNames()

    def layer_groups(self, model: nn.Module) -> tuple[tuple[int, ...], ...]:
        """Whole periods of a global and some local layers, so that those behind keep their kind.

        The first stays: its first layer has no norm before its attention.
        """
        config: Any = model.config
        count, types = len(self.layers(model)), getattr(config, "layer_types", None)
        every = getattr(config, "global_attn_every_n_layers", None)
        if types is not None:
            wide = [index for index, kind in enumerate(types) if kind == "full_attention"]
            every = next((index for index in wide if index), count)
            if wide != list(range(0, count, every)):  # a pattern of the user's own
                return ()
        starts = range(every or count, count, every or count)
        return tuple(tuple(range(at, min(at + starts.step, count))) for at in starts)

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
