"""A family from outside: MegatronBERT, which norms before its blocks, each block in its own way.

Its package says, in pyproject.toml::

    [project.entry-points."hfprune.families"]
    megatron-bert = "hfprune_megatron:MegatronBertAdapter"

Then hfprune prunes models whose config.json has ``"model_type": "megatron-bert"``, by recipe or by
``HFPruneTrainer``. ``scripts/check_family.py megatron-bert KEY=VALUE ...`` checks the adapter.
"""

from __future__ import annotations

from typing import Any

from hfprune.families import Parts, Place, PreNormAdapter, Producer, counted
from hfprune.families.base import PassInputTuple, PassResidual


class MegatronBertAdapter(PreNormAdapter):
    model_types = ("megatron-bert",)
    layers_at = "encoder.layer"
    # The attention module norms its input and adds the residual itself: without it, the stream
    # flows on. No norm of the layer belongs to it.
    attention_at = Place("attention", PassInputTuple)
    # The layer norms for the feed-forward, whose last module is given the residual to add.
    ffn_at = Place("output", PassResidual, norm="ln", discards=("intermediate",))

    def heads(self, layer: Any) -> Parts:
        inner = layer.attention.self
        size = inner.attention_head_size
        return Parts(
            producers=tuple(Producer(m, size) for m in (inner.query, inner.key, inner.value)),
            consumer=layer.attention.output.dense,
            unit_size=size,
            units=inner.num_attention_heads,
            set_units=counted(inner, size, "num_attention_heads", "all_head_size"),
        )

    def neurons(self, layer: Any) -> Parts:
        return Parts((Producer(layer.intermediate.dense, 1),), layer.output.dense)
