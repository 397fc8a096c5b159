"""GPT-2: pre-norm, with ``Conv1D`` projections (weights transposed) and a fused QKV."""

from __future__ import annotations

from typing import Any

from torch import nn

from hfprune.core.errors import UnsupportedModelError
from hfprune.families.base import PassZero, PassZeroTuple, Producer, StockNames
from hfprune.families.parts import Parts, Place, counted
from hfprune.families.pre_norm import PreNormAdapter


class GPT2Adapter(PreNormAdapter):
    model_types = ("gpt2",)
    layers_at = "h"
    attention_at = Place("attn", PassZeroTuple, norm="ln_1")
    ffn_at = Place("mlp", PassZero, norm="ln_2")
    caches = True
    stock = StockNames(layers="n_layer", neurons="n_inner")

    def check(self, model: nn.Module) -> None:
        config: Any = model.config
        if config.add_cross_attention:
            raise UnsupportedModelError(
                f"{type(model).__name__} has cross-attention, which hfprune does not prune (set "
                "add_cross_attention=False)"
            )

    def layer_groups(self, model: nn.Module) -> tuple[tuple[int, ...], ...]:
        config: Any = model.config
        # Then a layer divides by its index.
        return () if config.scale_attn_by_inverse_layer_idx else super().layer_groups(model)

    def stock_sizes(self, config: Any) -> tuple[int, int]:
        inner = 4 * config.n_embd if config.n_inner is None else config.n_inner
        return int(config.n_head), int(inner)

    def heads(self, layer: Any) -> Parts:
        inner = layer.attn
        size = inner.head_dim
        return Parts(
            producers=(Producer(inner.c_attn, size, parts=3),),
            consumer=inner.c_proj,
            unit_size=size,
            units=inner.num_heads,
            set_units=counted(inner, size, "num_heads", "split_size"),
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.mlp.c_fc, 1),), layer.mlp.c_proj)
