"""ViT and DeiT: pre-norm encoders of image patches.

transformers 5 builds them of other modules than transformers 4, and writes the old names to files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from hfprune.families.base import (
    Adapter,
    BlockView,
    PassOver,
    PassResidual,
    PassZero,
    PassZeroTuple,
    Producer,
    Skip,
)
from hfprune.families.blocks import BlockKey

# Names in files to names of modules in transformers 5.
_NEW_NAMES = (
    (re.compile(r"encoder\.layer\."), "layers."),
    (re.compile(r"attention\.attention\.([qkv])(?:uery|ey|alue)\."), r"attention.\1_proj."),
    (re.compile(r"attention\.output\.dense\."), "attention.o_proj."),
    (re.compile(r"intermediate\.dense\."), "mlp.fc1."),
    (re.compile(r"(?<=\d\.)output\.dense\."), "mlp.fc2."),
)


class ViTAdapter(Adapter):
    model_types = ("vit", "deit")

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        base: Any = model.base_model
        return list(base.layers if hasattr(base, "layers") else base.encoder.layer)

    def tensor_name(self, model: nn.Module, saved: str) -> str:
        if not hasattr(model.base_model, "layers"):
            return saved
        for pattern, name in _NEW_NAMES:
            saved = pattern.sub(name, saved)
        return saved

    def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
        outer = layer.attention
        if isinstance(outer, PassOver):
            return None
        if hasattr(outer, "q_proj"):
            inner, size = outer, outer.head_dim
            producers, consumer = (outer.q_proj, outer.k_proj, outer.v_proj), outer.o_proj
            skip = Skip(layer, "attention", PassZeroTuple("o_proj.weight"))
        else:
            inner = outer.attention
            size, consumer = inner.attention_head_size, outer.output.dense
            producers = (inner.query, inner.key, inner.value)
            skip = Skip(layer, "attention", PassZero("output.dense.weight"))

        def set_units(kept: Sequence[int]) -> None:
            inner.num_attention_heads = len(kept)
            if inner is not outer:
                inner.all_head_size = len(kept) * size

        return BlockView(
            key=key,
            producers=tuple(Producer(m, size) for m in producers),
            consumer=consumer,
            stream=layer.layernorm_before,
            units=inner.num_attention_heads,
            unit_size=size,
            skips=(skip,),
            set_units=set_units,
            discards=((layer, "layernorm_before"),),
        )

    def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
        if hasattr(layer, "mlp"):
            if isinstance(layer.mlp, PassOver):
                return None
            producer, consumer = layer.mlp.fc1, layer.mlp.fc2
            skip = Skip(layer, "mlp", PassZero("fc2.weight"))
            discards: tuple[tuple[nn.Module, str], ...] = ()
        else:
            if isinstance(layer.output, PassOver):
                return None
            producer, consumer = layer.intermediate.dense, layer.output.dense
            # The output module adds the residual, which it is given.
            skip = Skip(layer, "output", PassResidual("dense.weight"))
            discards = ((layer, "intermediate"),)
        return BlockView(
            key=key,
            producers=(Producer(producer, 1),),
            consumer=consumer,
            stream=layer.layernorm_after,
            units=consumer.in_features,
            unit_size=1,
            skips=(skip,),
            discards=(*discards, (layer, "layernorm_after")),
        )
