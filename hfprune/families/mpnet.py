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
from hfprune.families.base import Producer, StockNames
from hfprune.families.parts import Parts, counted
from hfprune.families.post_norm import PostNormAdapter

KEPT_HEADS = "kept_heads"


def _pick_heads(
    attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward pre-hook: the bias ``(batch, all heads, length, length)`` of the kept heads."""
    bias: Tensor | None = kwargs.get("position_bias")
    if bias is not None:
        kwargs = {**kwargs, "position_bias": bias.index_select(1, getattr(attention, KEPT_HEADS))}
    return args, kwargs


class MPNetAdapter(PostNormAdapter):
    model_types = ("mpnet",)
    positions_from_padding = True
    stock = StockNames()  # the heads of all layers read one bias of positions

    def check(self, model: nn.Module) -> None:
        config: Any = model.config
        for index, layer in enumerate(self.layers(model)):
            kept: Any = getattr(layer.attention, KEPT_HEADS, None)
            if kept is None:
                continue
            heads = kept.tolist()
            inside = all(0 <= head < config.num_attention_heads for head in heads)
            if not inside or heads != sorted(set(heads)):
                raise UnsupportedModelError(
                    f"layer {index}: {KEPT_HEADS} must be ascending indices below "
                    f"{config.num_attention_heads}, got {heads}"
                )

    def heads(self, layer: Any) -> Parts:
        outer, inner = layer.attention, layer.attention.attn
        size = inner.attention_head_size
        count = counted(inner, size, "num_attention_heads", "all_head_size")

        def set_units(kept: Sequence[int]) -> None:
            count(kept)
            index = torch.tensor(list(kept), device=inner.q.weight.device)
            before = getattr(outer, KEPT_HEADS, None)
            if before is None:
                outer.register_forward_pre_hook(_pick_heads, with_kwargs=True)
            outer.register_buffer(KEPT_HEADS, index if before is None else before[index])

        return Parts(
            producers=tuple(Producer(m, size) for m in (inner.q, inner.k, inner.v)),
            consumer=inner.o,
            unit_size=size,
            units=inner.num_attention_heads,
            set_units=set_units,
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.intermediate.dense, 1),), layer.output.dense)
