"""DistilBERT: the layer itself adds the residual, so a removed block returns zero."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hfprune.families.base import PassOver, PassZero, Producer, StockNames
from hfprune.families.parts import Parts, Place, counted
from hfprune.families.post_norm import PostNormAdapter


class PassZeroOfQuery(PassOver):
    """As :class:`PassZero`, with the arguments and the tuple of DistilBERT's attention."""

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return (query.new_zeros(()), None)


class DistilBertAdapter(PostNormAdapter):
    model_types = ("distilbert",)
    stock = StockNames(layers="n_layers", neurons="hidden_dim")
    layers_at = "transformer.layer"
    attention_at = Place("attention", PassZeroOfQuery, norm="sa_layer_norm")
    ffn_at = Place("ffn", PassZero, norm="output_layer_norm")

    def heads(self, layer: Any) -> Parts:
        inner = layer.attention
        size = inner.q_lin.out_features // inner.n_heads
        return Parts(
            producers=tuple(Producer(m, size) for m in (inner.q_lin, inner.k_lin, inner.v_lin)),
            consumer=inner.out_lin,
            unit_size=size,
            units=inner.n_heads,
            set_units=counted(inner, size, "n_heads", "dim"),
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.ffn.lin1, 1),), layer.ffn.lin2)
