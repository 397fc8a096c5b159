"""How most families are told: where a block sits in its layer, and what it is made of.

From the two, :mod:`pre_norm` and :mod:`post_norm` make the views. A family that fits neither
derives from :class:`~hfprune.families.base.Adapter` itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from hfprune.core.errors import UnsupportedModelError
from hfprune.families.base import (
    Adapter,
    BlockView,
    PassOver,
    Producer,
    Projection,
    Skip,
    weight_of,
)
from hfprune.families.blocks import BlockKey, BlockKind


@dataclass(frozen=True)
class Place:
    """Where a block sits in a layer, and what stands there when it is gone.

    Attributes:
        module: the layer's attribute that is replaced; the consumer is it, or inside it.
        becomes: by what.
        norm: pre-norm: the layer's attribute that norms the stream before the block. Post-norm:
            the one that norms the sum after it, where the layer does both. ``None`` where the
            block does it itself.
        discards: further attributes of the layer that leave with the block.
    """

    module: str
    becomes: type[PassOver]
    norm: str | None = None
    discards: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What a block is made of; the names are those of :class:`BlockView`.

    Attributes:
        producers: projections whose rows belong to units.
        consumer: the projection whose input columns do.
        unit_size: columns of one unit (head size, or 1).
        units: how many the stock module believes to have; ``None`` where it keeps no count, so that
            the consumer's columns tell.
        set_units: see :func:`counted`.
        stream: where the residual stream enters, if not where the base adapter looks for it.
    """

    producers: tuple[Producer, ...]
    consumer: Projection
    unit_size: int = 1
    units: int | None = None
    set_units: Callable[[Sequence[int]], None] = lambda kept: None
    stream: nn.Module | None = None


def counted(
    module: nn.Module, size: int, number: str, total: str | None = None
) -> Callable[[Sequence[int]], None]:
    """Tells a stock module how many heads it has left.

    Args:
        module: the one that reads the numbers in its forward pass.
        size: of a head.
        number: its attribute with the number of heads.
        total: its attribute with their features altogether, if it has one.
    """

    def set_units(kept: Sequence[int]) -> None:
        setattr(module, number, len(kept))
        if total is not None:
            setattr(module, total, len(kept) * size)

    return set_units


class PartsAdapter(Adapter):
    """An adapter by :class:`Place` and :class:`Parts`; derive from one of its two kinds.

    Attributes:
        layers_at: where the list of layers is, from ``model.base_model``.
        attention_at, ffn_at: the places of the two blocks.
    """

    layers_at: ClassVar[str]
    attention_at: ClassVar[Place]
    ffn_at: ClassVar[Place]

    @abstractmethod
    def heads(self, layer: Any) -> Parts:
        """The attention of a layer that has one."""

    @abstractmethod
    def neurons(self, layer: Any) -> Parts:
        """The feed-forward block of a layer that has one."""

    @abstractmethod
    def _stream(self, layer: nn.Module, place: Place, parts: Parts) -> nn.Module:
        """The module whose first input is the residual stream."""

    @abstractmethod
    def _around(self, place: Place) -> tuple[tuple[tuple[str, PassOver], ...], tuple[str, ...]]:
        """Attributes of the layer that are replaced besides the place, and those that leave."""

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        return list(self.layer_list(model))

    def layer_list(self, model: nn.Module) -> nn.ModuleList:
        base: Any = model.base_model
        found: nn.ModuleList = base.get_submodule(self.layers_at)
        return found

    def place(self, layer: nn.Module, kind: BlockKind) -> Place:
        """Where a block of this layer sits, should layers of a family differ."""
        return self.attention_at if kind == "attention" else self.ffn_at

    def uses(self, layer: nn.Module) -> int:
        """How often one forward pass runs the layer."""
        return 1

    def attention(self, layer: nn.Module, key: BlockKey) -> BlockView | None:
        return self._view(layer, key, self.heads)

    def ffn(self, layer: nn.Module, key: BlockKey) -> BlockView | None:
        return self._view(layer, key, self.neurons)

    def _view(
        self, layer: nn.Module, key: BlockKey, parts_of: Callable[[Any], Parts]
    ) -> BlockView | None:
        place = self.place(layer, key.kind)
        block = getattr(layer, place.module)
        if isinstance(block, PassOver):
            return None
        parts = parts_of(layer)
        units = parts.units
        if units is None:
            units = weight_of(parts.consumer).shape[1] // parts.unit_size
        others, discards = self._around(place)
        replacement = place.becomes(_weight_name(block, parts.consumer, key))
        return BlockView(
            key=key,
            producers=parts.producers,
            consumer=parts.consumer,
            stream=parts.stream or self._stream(layer, place, parts),
            units=units,
            unit_size=parts.unit_size,
            skips=(
                Skip(layer, place.module, replacement),
                *(Skip(layer, name, stand_in) for name, stand_in in others),
            ),
            set_units=parts.set_units,
            discards=tuple((layer, name) for name in (*place.discards, *discards)),
            uses=self.uses(layer),
        )


def _weight_name(block: nn.Module, consumer: nn.Module, key: BlockKey) -> str:
    """What a block calls its consumer's weight: the name under which the marker lies."""
    for name, module in block.named_modules():
        if module is consumer:
            return f"{name}.weight" if name else "weight"
    raise UnsupportedModelError(
        f"{key}: the consumer is not inside the {type(block).__name__} that is replaced when the "
        "block is removed; the adapter's Place must name the module that holds it"
    )
