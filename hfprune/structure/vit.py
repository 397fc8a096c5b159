"""ViT and DeiT: pre-norm encoders of image patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.errors import UnsupportedModelError
from hfprune.plan import BlockKey
from hfprune.structure.base import (
    Adapter,
    BlockView,
    PassOver,
    PassResidual,
    PassZero,
    Producer,
    Skip,
)


class ViTAdapter(Adapter):
    model_types = ("vit", "deit")

    def check(self, model: nn.Module) -> None:
        base: Any = model.base_model
        if not hasattr(base, "encoder"):
            raise UnsupportedModelError(
                f"{type(model).__name__} is built differently in this release of transformers; "
                "hfprune prunes image models with transformers 4.57"
            )

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        base: Any = model.base_model
        return list(base.encoder.layer)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        outer = layer.attention
        if isinstance(outer, PassOver):
            return None
        inner = outer.attention
        size = inner.attention_head_size

        def set_units(kept: Sequence[int]) -> None:
            inner.num_attention_heads = len(kept)
            inner.all_head_size = len(kept) * size

        return BlockView(
            key=key,
            producers=tuple(Producer(m, size) for m in (inner.query, inner.key, inner.value)),
            consumer=outer.output.dense,
            stream=layer.layernorm_before,
            units=inner.num_attention_heads,
            unit_size=size,
            skips=(Skip(layer, "attention", PassZero("output.dense.weight")),),
            set_units=set_units,
            discards=((layer, "layernorm_before"),),
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        if isinstance(layer.output, PassOver):
            return None
        return BlockView(
            key=key,
            producers=(Producer(layer.intermediate.dense, 1),),
            consumer=layer.output.dense,
            stream=layer.layernorm_after,
            units=layer.output.dense.in_features,
            unit_size=1,
            # The output module adds the residual, which it is given.
            skips=(Skip(layer, "output", PassResidual("dense.weight")),),
            discards=((layer, "intermediate"), (layer, "layernorm_after")),
        )
