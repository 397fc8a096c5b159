"""ViT and DeiT: pre-norm encoders of image patches.

transformers 5 builds them of other modules than transformers 4, and writes the old names to files.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from hfprune.families.base import PassResidual, PassZero, PassZeroTuple, Producer, StockNames
from hfprune.families.blocks import BlockKind
from hfprune.families.parts import Parts, Place, counted
from hfprune.families.pre_norm import PreNormAdapter

# Names in files to names of modules in transformers 5.
_NEW_NAMES = (
    (re.compile(r"encoder\.layer\."), "layers."),
    (re.compile(r"attention\.attention\.([qkv])(?:uery|ey|alue)\."), r"attention.\1_proj."),
    (re.compile(r"attention\.output\.dense\."), "attention.o_proj."),
    (re.compile(r"intermediate\.dense\."), "mlp.fc1."),
    (re.compile(r"(?<=\d\.)output\.dense\."), "mlp.fc2."),
)
_ATTENTION_4 = Place("attention", PassZero, norm="layernorm_before")
_ATTENTION_5 = Place("attention", PassZeroTuple, norm="layernorm_before")
# The output module of transformers 4 adds the residual, which it is given.
_FFN_4 = Place("output", PassResidual, norm="layernorm_after", discards=("intermediate",))
_FFN_5 = Place("mlp", PassZero, norm="layernorm_after")


class ViTAdapter(PreNormAdapter):
    model_types = ("vit", "deit")

    stock = StockNames()

    def layer_list(self, model: nn.Module) -> nn.ModuleList:
        base: Any = model.base_model
        found: nn.ModuleList = base.layers if hasattr(base, "layers") else base.encoder.layer
        return found

    def tensor_name(self, model: nn.Module, saved: str) -> str:
        if not hasattr(model.base_model, "layers"):
            return saved
        for pattern, name in _NEW_NAMES:
            saved = pattern.sub(name, saved)
        return saved

    def place(self, layer: Any, kind: BlockKind) -> Place:
        if kind == "attention":
            return _ATTENTION_5 if hasattr(layer.attention, "q_proj") else _ATTENTION_4
        return _FFN_5 if hasattr(layer, "mlp") else _FFN_4

    def heads(self, layer: Any) -> Parts:
        outer = layer.attention
        if hasattr(outer, "q_proj"):
            inner, size = outer, outer.head_dim
            projections, consumer = (outer.q_proj, outer.k_proj, outer.v_proj), outer.o_proj
            set_units = counted(inner, size, "num_attention_heads")
        else:
            inner = outer.attention
            size = inner.attention_head_size
            projections, consumer = (inner.query, inner.key, inner.value), outer.output.dense
            set_units = counted(inner, size, "num_attention_heads", "all_head_size")
        return Parts(
            producers=tuple(Producer(m, size) for m in projections),
            consumer=consumer,
            unit_size=size,
            units=inner.num_attention_heads,
            set_units=set_units,
        )

    def neurons(self, layer: Any) -> Parts:
        if hasattr(layer, "mlp"):
            producer, consumer = layer.mlp.fc1, layer.mlp.fc2
        else:
            producer, consumer = layer.intermediate.dense, layer.output.dense
        return Parts((Producer(producer, 1),), consumer)
