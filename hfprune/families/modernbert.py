"""ModernBERT: pre-norm, with fused projections (queries, keys, values; input and gate).

A removed block adds zero. Whether a layer attends locally or globally depends on its index, which
never changes: a removed block leaves its layer in place.
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


class ModernBertAdapter(Adapter):
    model_types = ("modernbert",)

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        base: Any = model.base_model
        return list(base.layers)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.attn
        if isinstance(inner, PassOver):
            return None
        size = inner.head_dim

        def set_units(kept: Sequence[int]) -> None:
            inner.num_heads = len(kept)
            inner.all_head_size = len(kept) * size

        return BlockView(
            key=key,
            producers=(Producer(inner.Wqkv, size, parts=3),),
            consumer=inner.Wo,
            stream=layer.attn_norm,
            units=inner.Wo.in_features // size,
            unit_size=size,
            skips=(Skip(layer, "attn", PassZeroTuple("Wo.weight")),),
            set_units=set_units,
            discards=((layer, "attn_norm"),),
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.mlp
        if isinstance(inner, PassOver):
            return None
        return BlockView(
            key=key,
            producers=(Producer(inner.Wi, 1, parts=2),),
            consumer=inner.Wo,
            stream=layer.mlp_norm,
            units=inner.Wo.in_features,
            unit_size=1,
            skips=(Skip(layer, "mlp", PassZero("Wo.weight")),),
            discards=((layer, "mlp_norm"),),
        )
