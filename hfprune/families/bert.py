"""BERT and the families that share its layer: RoBERTa, XLM-R, CamemBERT, ELECTRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.core.errors import UnsupportedModelError
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


class BertAdapter(Adapter):
    model_types = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
    positions_from_padding = True

    def check(self, model: nn.Module) -> None:
        config: Any = model.config
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            raise UnsupportedModelError(
                f"{type(model).__name__} is configured as a decoder; hfprune prunes encoders "
                "(set is_decoder=False and add_cross_attention=False)"
            )

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        base: Any = model.base_model
        return list(base.encoder.layer)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        if isinstance(layer.attention, PassOver):
            return None
        inner, output = layer.attention.self, layer.attention.output
        size = inner.attention_head_size

        def set_units(kept: Sequence[int]) -> None:
            inner.num_attention_heads = len(kept)
            inner.all_head_size = len(kept) * size

        return BlockView(
            key=key,
            producers=tuple(Producer(m, size) for m in (inner.query, inner.key, inner.value)),
            consumer=output.dense,
            stream=inner.query,
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
