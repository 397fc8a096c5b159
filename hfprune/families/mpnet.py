"""MPNet: BERT's layer, with a bias of relative positions that all layers share.

The encoder computes the bias once, for the heads that the config names. An attention block that
lost heads therefore picks out the rows of those that it kept; their indices are a buffer of the
block, so they are saved with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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

KEPT_HEADS = "kept_heads"


def _pick_heads(
    attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward pre-hook: the bias ``(batch, all heads, length, length)`` of the kept heads."""
    bias: Tensor | None = kwargs.get("position_bias")
    if bias is not None:
        kwargs = {**kwargs, "position_bias": bias.index_select(1, getattr(attention, KEPT_HEADS))}
    return args, kwargs


class MPNetAdapter(Adapter):
    model_types = ("mpnet",)
    positions_from_padding = True

    def check(self, model: nn.Module) -> None:
        config: Any = model.config
        for index, layer in enumerate(self.layers(model)):
            kept = getattr(layer.attention, KEPT_HEADS, None)
            if kept is None:
                continue
            heads = kept.tolist()
            inside = all(0 <= head < config.num_attention_heads for head in heads)
            if not inside or heads != sorted(set(heads)):
                raise UnsupportedModelError(
                    f"layer {index}: {KEPT_HEADS} must be ascending indices below "
                    f"{config.num_attention_heads}, got {heads}"
                )

    def layers(self, model: nn.Module) -> Sequence[Any]:
        base: Any = model.base_model
        return list(base.encoder.layer)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        outer = layer.attention
        if isinstance(outer, PassOver):
            return None
        inner = outer.attn
        size = inner.attention_head_size

        def set_units(kept: Sequence[int]) -> None:
            inner.num_attention_heads = len(kept)
            inner.all_head_size = len(kept) * size
            index = torch.tensor(list(kept), device=inner.q.weight.device)
            before = getattr(outer, KEPT_HEADS, None)
            if before is None:
                outer.register_forward_pre_hook(_pick_heads, with_kwargs=True)
            outer.register_buffer(KEPT_HEADS, index if before is None else before[index])

        return BlockView(
            key=key,
            producers=tuple(Producer(m, size) for m in (inner.q, inner.k, inner.v)),
            consumer=inner.o,
            stream=inner.q,
            units=inner.num_attention_heads,
            unit_size=size,
            skips=(Skip(layer, "attention", PassInputTuple("attn.o.weight")),),
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
