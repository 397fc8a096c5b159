"""BERT and the families that share its layer: RoBERTa, XLM-R, CamemBERT, ELECTRA."""

from __future__ import annotations

from typing import Any

from torch import nn

from hfprune.core.errors import UnsupportedModelError
from hfprune.families.base import Producer, StockNames
from hfprune.families.parts import Parts, counted
from hfprune.families.post_norm import PostNormAdapter


class BertAdapter(PostNormAdapter):
    model_types = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
    positions_from_padding = True
    stock = StockNames()

    def check(self, model: nn.Module) -> None:
        config: Any = model.config
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            raise UnsupportedModelError(
                f"{type(model).__name__} is configured as a decoder; hfprune prunes encoders "
                "(set is_decoder=False and add_cross_attention=False)"
            )

    def heads(self, layer: Any) -> Parts:
        inner = layer.attention.self
        size = inner.attention_head_size
        return Parts(
            producers=tuple(Producer(m, size) for m in (inner.query, inner.key, inner.value)),
            consumer=layer.attention.output.dense,
            unit_size=size,
            units=inner.num_attention_heads,
            set_units=counted(inner, size, "num_attention_heads", "all_head_size"),
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.intermediate.dense, 1),), layer.output.dense)
