"""DeBERTa-v2 and v3: BERT's layer, whose heads also project relative positions.

Depending on the config, positions have projections of their own (rows of which belong to heads
like those of queries and keys) or share those of queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.families.base import (
    Adapter,
    BlockView,
    PassInputTuple,
    PassOver,
    PassResidual,
    Producer,
    Skip,
)
from hfprune.families.blocks import BlockKey

PROJECTIONS = ("query_proj", "key_proj", "value_proj", "pos_query_proj", "pos_key_proj")


class DebertaV2Adapter(Adapter):
    model_types = ("deberta-v2",)

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        base: Any = model.base_model
        return list(base.encoder.layer)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        outer = layer.attention
        if isinstance(outer, PassOver):
            return None
        inner = outer.self
        size = inner.attention_head_size

        def set_units(kept: Sequence[int]) -> None:
            inner.num_attention_heads = len(kept)
            inner.all_head_size = len(kept) * size

        return BlockView(
            key=key,
            producers=tuple(
                Producer(getattr(inner, name), size) for name in PROJECTIONS if hasattr(inner, name)
            ),
            consumer=outer.output.dense,
            # Not the query projection, which may be called on positions too.
            stream=outer,
            units=inner.num_attention_heads,
            unit_size=size,
            skips=(Skip(layer, "attention", PassInputTuple("output.dense.weight")),),
            set_units=set_units,
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        if isinstance(layer.output, PassOver):
            return None
        return BlockView(
            key=key,
            producers=(Producer(layer.intermediate.dense, 1),),
            consumer=layer.output.dense,
            stream=layer.intermediate.dense,
            units=layer.output.dense.in_features,
            unit_size=1,
            skips=(Skip(layer, "output", PassResidual("dense.weight")),),
            discards=((layer, "intermediate"),),
        )
