"""Pre-norm families: the stream is normed for a block, and what the block returns is added to it.

Without the block the layer has to add zero; the norm is then of no use and leaves too.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from hfprune.families.base import PassOver
from hfprune.families.parts import Parts, PartsAdapter, Place


class PreNormAdapter(PartsAdapter):
    """GPT-2 and its like: places name the norm before the block, where the stream enters.

    Attributes:
        caches: whether the model can keep keys and values of past tokens. It counts them by layer
            0 and would be wrong without a layer's attention: then the config says so.
    """

    caches: ClassVar[bool] = False

    def settle(self, model: nn.Module) -> None:
        if self.caches and any(
            isinstance(getattr(layer, self.place(layer, "attention").module), PassOver)
            for layer in self.layers(model)
        ):
            config: Any = model.config
            config.use_cache = False

    def _stream(self, layer: nn.Module, place: Place, parts: Parts) -> nn.Module:
        found: nn.Module = getattr(layer, place.norm or place.module)
        return found

    def _around(self, place: Place) -> tuple[tuple[tuple[str, PassOver], ...], tuple[str, ...]]:
        return ((), (place.norm,) if place.norm else ())
