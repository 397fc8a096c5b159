"""GPT-2: pre-norm, with ``Conv1D`` projections (weights transposed) and a fused QKV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.core.errors import UnsupportedModelError
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


class GPT2Adapter(Adapter):
    model_types = ("gpt2",)

    def check(self, model: nn.Module) -> None:
        config: Any = model.config
        if config.add_cross_attention:
            raise UnsupportedModelError(
                f"{type(model).__name__} has cross-attention, which hfprune does not prune (set "
                "add_cross_attention=False)"
            )

    def layers(self, model: nn.Module) -> Sequence[Any]:
        base: Any = model.base_model
        return list(base.h)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.attn
        if isinstance(inner, PassOver):
            return None
        size = inner.head_dim

        def set_units(kept: Sequence[int]) -> None:
            inner.num_heads = len(kept)
            inner.split_size = len(kept) * size

        return BlockView(
            key=key,
            producers=(Producer(inner.c_attn, size, parts=3),),
            consumer=inner.c_proj,
            stream=layer.ln_1,
            units=inner.num_heads,
            unit_size=size,
            skips=(Skip(layer, "attn", PassZeroTuple("c_proj.weight")),),
            set_units=set_units,
            discards=((layer, "ln_1"),),
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.mlp
        if isinstance(inner, PassOver):
            return None
        return BlockView(
            key=key,
            producers=(Producer(inner.c_fc, 1),),
            consumer=inner.c_proj,
            stream=layer.ln_2,
            units=inner.c_proj.nx,
            unit_size=1,
            skips=(Skip(layer, "mlp", PassZero("c_proj.weight")),),
            discards=((layer, "ln_2"),),
        )

    def settle(self, model: nn.Module) -> None:
        # The cache counts past tokens by layer 0 and would be wrong without a layer's attention.
        if any(isinstance(layer.attn, PassOver) for layer in self.layers(model)):
            config: Any = model.config
            config.use_cache = False
