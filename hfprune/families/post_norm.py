"""Post-norm families: what a block returns is added to the stream, and the sum is normed.

Without the block the layer has to hand the stream on as it came, un-normed.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from hfprune.families.base import PassInput, PassInputTuple, PassOver, PassResidual
from hfprune.families.parts import Parts, PartsAdapter, Place


class PostNormAdapter(PartsAdapter):
    """BERT and its like. The places here are BERT's, whose modules add and norm by themselves.

    The stream enters at the first producer, unless the parts say otherwise. Where the layer adds
    and norms (a place that names a ``norm``), the block becomes a zero and the norm the identity.
    """

    layers_at = "encoder.layer"
    attention_at: ClassVar[Place] = Place("attention", PassInputTuple)
    ffn_at: ClassVar[Place] = Place("output", PassResidual, discards=("intermediate",))

    def _stream(self, layer: nn.Module, place: Place, parts: Parts) -> nn.Module:
        return parts.producers[0].module

    def _around(self, place: Place) -> tuple[tuple[tuple[str, PassOver], ...], tuple[str, ...]]:
        return (((place.norm, PassInput("weight")),) if place.norm else (), ())
