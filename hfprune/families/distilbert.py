"""DistilBERT: the layer itself adds the residual, so a removed block returns zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hfprune.families.base import Adapter, BlockView, PassInput, PassOver, PassZero, Producer, Skip
from hfprune.families.blocks import BlockKey


class PassZeroOfQuery(PassOver):
    """As :class:`PassZero`, with the arguments and the tuple of DistilBERT's attention."""

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return (query.new_zeros(()), None)


class DistilBertAdapter(Adapter):
    model_types = ("distilbert",)

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        base: Any = model.base_model
        return list(base.transformer.layer)

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        inner = layer.attention
        if isinstance(inner, PassOver):
            return None
        size = inner.q_lin.out_features // inner.n_heads

        def set_units(kept: Sequence[int]) -> None:
            inner.n_heads = len(kept)
            inner.dim = len(kept) * size

        return BlockView(
            key=key,
            producers=tuple(Producer(m, size) for m in (inner.q_lin, inner.k_lin, inner.v_lin)),
            consumer=inner.out_lin,
            stream=inner.q_lin,
            units=inner.n_heads,
            unit_size=size,
            skips=(
                Skip(layer, "attention", PassZeroOfQuery("out_lin.weight")),
                Skip(layer, "sa_layer_norm", PassInput("weight")),
            ),
            set_units=set_units,
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        if isinstance(layer.ffn, PassOver):
            return None
        return BlockView(
            key=key,
            producers=(Producer(layer.ffn.lin1, 1),),
            consumer=layer.ffn.lin2,
            stream=layer.ffn.lin1,
            units=layer.ffn.lin2.in_features,
            unit_size=1,
            skips=(
                Skip(layer, "ffn", PassZero("lin2.weight")),
                Skip(layer, "output_layer_norm", PassInput("weight")),
            ),
        )
