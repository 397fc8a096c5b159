"""DeBERTa-v2 and v3: BERT's layer, whose heads also project relative positions.

Depending on the config, positions have projections of their own (rows of which belong to heads
like those of queries and keys) or share those of queries and keys.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hfprune.families.base import Producer, StockNames
from hfprune.families.parts import Parts, counted
from hfprune.families.post_norm import PostNormAdapter

PROJECTIONS = ("query_proj", "key_proj", "value_proj", "pos_query_proj", "pos_key_proj")


class DebertaV2Adapter(PostNormAdapter):
    model_types = ("deberta-v2",)
    stock = StockNames()

    def layer_groups(self, model: nn.Module) -> tuple[tuple[int, ...], ...]:
        groups = super().layer_groups(model)
        base: Any = model.base_model
        # What the first layer gives goes through a convolution, whichever layer that is.
        return groups if getattr(base.encoder, "conv", None) is None else groups[1:]

    def heads(self, layer: Any) -> Parts:
        inner = layer.attention.self
        size = inner.attention_head_size
        return Parts(
            producers=tuple(
                Producer(getattr(inner, name), size) for name in PROJECTIONS if hasattr(inner, name)
            ),
            consumer=layer.attention.output.dense,
            unit_size=size,
            units=inner.num_attention_heads,
            set_units=counted(inner, size, "num_attention_heads", "all_head_size"),
            # Not the query projection, which may be called on positions too.
            stream=layer.attention,
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.intermediate.dense, 1),), layer.output.dense)
