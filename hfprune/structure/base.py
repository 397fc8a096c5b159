"""What pruning needs to know of a model, whatever its family.

An :class:`Adapter` turns a model into :class:`BlockView`\\ s: for every block the Linears whose
*output rows* belong to a unit (producers), the one Linear whose *input columns* belong to a unit
(the consumer, where gates sit), and how the block is passed over when nothing of it is left.
All other modules work on these views and never name a family's attributes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hfprune.errors import UnsupportedModelError
from hfprune.plan import BlockKey, BlockKind


class PassOver(nn.Module):
    """Stands where a removed block stood. Subclasses say what flows on.

    The marker buffer sits under the name of a weight that the stock class has, with another shape:
    plain ``from_pretrained`` then stops with a size mismatch instead of filling the hole with
    random numbers and a warning.
    """

    def __init__(self, marker: str) -> None:
        super().__init__()
        holder: nn.Module = self
        *parents, leaf = marker.split(".")
        for part in parents:
            child = nn.Module()
            holder.add_module(part, child)
            holder = child
        holder.register_buffer(leaf, torch.zeros(1))


class PassInput(PassOver):
    """Returns its first argument: the block becomes the identity."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


class PassInputTuple(PassOver):
    """Returns ``(first argument, None)``, as attention modules that also return weights do."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return (hidden_states, None)


class PassResidual(PassOver):
    """Returns its second argument, the residual stream, where the family passes it along."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return input_tensor


class PassZero(PassOver):
    """Returns a zero that broadcasts, for families whose layer adds the residual itself."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states.new_zeros(())


@dataclass(frozen=True)
class Skip:
    """One module that is replaced (or, while gating, overruled by a hook) to pass over a block."""

    parent: nn.Module
    attribute: str
    replacement: PassOver

    @property
    def module(self) -> nn.Module:
        """The module in place now."""
        found = getattr(self.parent, self.attribute)
        if not isinstance(found, nn.Module):
            raise UnsupportedModelError(f"{self.attribute} is not a module of {type(self.parent)}")
        return found


@dataclass(frozen=True)
class Producer:
    """A Linear whose output rows belong to units.

    Attributes:
        module: weight of shape ``(parts * units * unit_size, inputs)``.
        unit_size: rows of one unit in one part.
        parts: number of stacked projections in a fused Linear (3 for a fused QKV, 2 for a gated
            feed-forward), each laid out unit by unit.
    """

    module: nn.Linear
    unit_size: int
    parts: int = 1

    def rows(self, kept: Sequence[int], units: int) -> Tensor:
        """int64 indices of the rows of the kept units, in the order of the layout."""
        unit = torch.tensor(list(kept), dtype=torch.long)
        within = torch.arange(self.unit_size)
        one = (unit[:, None] * self.unit_size + within[None, :]).reshape(-1)
        offsets = torch.arange(self.parts) * (units * self.unit_size)
        return (offsets[:, None] + one[None, :]).reshape(-1)


@dataclass(frozen=True)
class BlockView:
    """One block of a live model.

    Attributes:
        key: its address.
        producers: Linears whose rows are sliced.
        consumer: the Linear whose columns are sliced; gates multiply its input.
        units: number of heads or neurons now.
        unit_size: input columns of the consumer for one unit (head size, or 1).
        skips: how the block is passed over when it is off.
        discards: further ``(parent, attribute)`` that hold weights and are dropped with the block.
        set_units: tells the stock module its new number of units after slicing.
    """

    key: BlockKey
    producers: tuple[Producer, ...]
    consumer: nn.Linear
    units: int
    unit_size: int
    skips: tuple[Skip, ...]
    set_units: Callable[[int], None]
    discards: tuple[tuple[nn.Module, str], ...] = ()

    def unit_parameters(self) -> int:
        """Parameters that leave with one unit: producer rows, their biases, consumer columns."""
        count = self.unit_size * self.consumer.out_features
        for producer in self.producers:
            row = producer.module.in_features + (producer.module.bias is not None)
            count += producer.parts * producer.unit_size * row
        return count


@dataclass(frozen=True)
class LayerView:
    """One layer: its blocks, ``None`` where a block has been removed."""

    attention: BlockView | None
    ffn: BlockView | None

    def block(self, kind: BlockKind) -> BlockView | None:
        return self.attention if kind == "attention" else self.ffn


class Adapter(ABC):
    """Knows one family. Subclasses name their model types and build the views of a layer."""

    model_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        """The layers of the encoder, in order."""

    @abstractmethod
    def attention(self, layer: nn.Module, key: BlockKey) -> BlockView | None:
        """The attention block of a layer, ``None`` if it was removed."""

    @abstractmethod
    def ffn(self, layer: nn.Module, key: BlockKey) -> BlockView | None:
        """The feed-forward block of a layer, ``None`` if it was removed."""

    def check(self, model: nn.Module) -> None:  # noqa: B027 - most families have nothing to refuse
        """Raise :class:`UnsupportedModelError` for a variant that cannot be pruned."""

    def views(self, model: nn.Module) -> tuple[LayerView, ...]:
        """The views of all layers."""
        self.check(model)
        return tuple(
            LayerView(
                attention=self.attention(layer, BlockKey(index, "attention")),
                ffn=self.ffn(layer, BlockKey(index, "ffn")),
            )
            for index, layer in enumerate(self.layers(model))
        )
