"""What pruning needs to know of a model, whatever its family.

An :class:`Adapter` turns a model into :class:`BlockView`\\ s: for every block the projections whose
*output rows* belong to a unit (producers), the one projection whose *input columns* belong to a
unit (the consumer, where gates sit), and how the block is passed over when nothing of it is left.
All other modules work on these views and never name a family's attributes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hfprune.core.errors import UnsupportedModelError
from hfprune.families.blocks import BlockKey, BlockKind

Projection: TypeAlias = nn.Linear | Conv1D


def weight_of(projection: Projection) -> Tensor:
    """A projection's weight as ``(outputs, inputs)``, whichever way round it is stored.

    GPT-2's ``Conv1D`` stores ``(inputs, outputs)``. The result is the parameter or a view of it, so
    writing to it in place writes to the parameter.
    """
    weight: Tensor = projection.weight
    return weight.T if isinstance(projection, Conv1D) else weight


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


class PassZeroTuple(PassOver):
    """As :class:`PassZero`, in the tuple of attention modules that also return weights."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return (hidden_states.new_zeros(()), None)


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


def _unit_indices(kept: Sequence[int], unit_size: int) -> Tensor:
    """int64 indices of all that belongs to the kept units, where units lie one after the other."""
    unit = torch.tensor(list(kept), dtype=torch.long)
    return (unit[:, None] * unit_size + torch.arange(unit_size)[None, :]).reshape(-1)


@dataclass(frozen=True)
class Producer:
    """A projection whose output rows belong to units.

    Attributes:
        module: weight of shape ``(parts * units * unit_size, inputs)``.
        unit_size: rows of one unit in one part.
        parts: number of projections stacked in a fused one (3 for a fused QKV, 2 for a gated
            feed-forward), each laid out unit by unit.
    """

    module: Projection
    unit_size: int
    parts: int = 1

    @property
    def weight(self) -> Tensor:
        """``(parts * units * unit_size, inputs)``; writes reach the parameter."""
        return weight_of(self.module)

    def rows(self, kept: Sequence[int], units: int) -> Tensor:
        """int64 indices of the rows of the kept units, in the order of the layout."""
        one = _unit_indices(kept, self.unit_size)
        offsets = torch.arange(self.parts) * (units * self.unit_size)
        return (offsets[:, None] + one[None, :]).reshape(-1)


@dataclass(frozen=True)
class BlockView:
    """One block of a live model.

    Attributes:
        key: its address.
        producers: projections whose rows are sliced.
        consumer: the projection whose columns are sliced; gates multiply its input.
        stream: the module whose first positional input is the residual stream where the block
            begins: a producer in post-norm families, the norm before it in pre-norm ones.
        units: number of heads (with grouped queries: of key-value heads) or neurons now.
        unit_size: input columns of the consumer for one unit (head size, or 1).
        skips: how the block is passed over when it is off.
        set_units: tells the stock modules, after slicing, which of the units before it stayed.
        discards: further ``(parent, attribute)`` that hold weights and are dropped with the block.
        uses: how often one forward pass runs the block (layers that share its weights).
    """

    key: BlockKey
    producers: tuple[Producer, ...]
    consumer: Projection
    stream: nn.Module
    units: int
    unit_size: int
    skips: tuple[Skip, ...]
    set_units: Callable[[Sequence[int]], None] = lambda kept: None
    discards: tuple[tuple[nn.Module, str], ...] = ()
    uses: int = 1

    @property
    def weight(self) -> Tensor:
        """The consumer's, ``(outputs, units * unit_size)``; writes reach the parameter."""
        return weight_of(self.consumer)

    def columns(self, kept: Sequence[int]) -> Tensor:
        """int64 indices of the consumer's input columns that belong to the kept units."""
        return _unit_indices(kept, self.unit_size)

    def unit_parameters(self) -> int:
        """Parameters that leave with one unit: producer rows, their biases, consumer columns."""
        count = self.unit_size * self.weight.shape[0]
        for producer in self.producers:
            row = producer.weight.shape[1] + (producer.module.bias is not None)
            count += producer.parts * producer.unit_size * row
        return count


@dataclass(frozen=True)
class LayerView:
    """One layer: its blocks, ``None`` where a block has been removed."""

    attention: BlockView | None
    ffn: BlockView | None

    def block(self, kind: BlockKind) -> BlockView | None:
        return self.attention if kind == "attention" else self.ffn


@dataclass(frozen=True)
class StockNames:
    """What a family's config calls the sizes that all its layers share.

    Attributes:
        layers: the number of layers; ``None`` where none can leave, as layers share weights.
        neurons: the number of neurons of each layer.
    """

    layers: str | None = "num_hidden_layers"
    neurons: str = "intermediate_size"


class Adapter(ABC):
    """Knows one family. Subclasses name their model types and build the views of a layer.

    Attributes:
        model_types: as ``config.json`` spells them.
        positions_from_padding: whether positions are counted from the padding token's id, so that
            this id is fixed.
        stock: how the family's config names sizes that all layers share; ``None``: hfprune does
            not know, and ``pruning.layout: uniform`` is refused.
    """

    model_types: ClassVar[tuple[str, ...]]
    stock: ClassVar[StockNames | None] = None
    positions_from_padding: ClassVar[bool] = False

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

    def order(self, model: nn.Module) -> Sequence[int]:
        """Indices of the layers in the order in which one forward pass runs them."""
        return range(len(self.layers(model)))

    def tensor_name(self, model: nn.Module, saved: str) -> str:
        """What a model calls a tensor that files call ``saved``: files of all versions agree."""
        return saved

    def settle(self, model: nn.Module) -> None:  # noqa: B027 - most families have nothing to do
        """Called after every shrink: put right what the model's config says of it."""

    def layer_list(self, model: nn.Module) -> nn.ModuleList:
        """The module that holds the layers: those that leave are taken out of it.

        Raises:
            UnsupportedModelError: the adapter does not say where it is.
        """
        raise UnsupportedModelError(
            f"{type(self).__name__} does not name the list of layers, so none can be taken out of "
            "it: define layer_list"
        )

    def layer_groups(self, model: nn.Module) -> tuple[tuple[int, ...], ...]:
        """Layers that can leave a model, each with those that have to leave with it.

        A layer in no group stays, as one whose index means something to the layers after it.
        """
        if self.stock is None or self.stock.layers is None:
            return ()
        return tuple((index,) for index in range(len(self.layers(model))))

    def stock_sizes(self, config: Any) -> tuple[int, int]:
        """``(heads, neurons)`` that a config gives to every layer; heads are units of ours."""
        neurons = "intermediate_size" if self.stock is None else self.stock.neurons
        return int(config.num_attention_heads), int(getattr(config, neurons))

    def stock_heads(self, config: Any) -> tuple[int, ...]:
        """Numbers of heads that a config can say besides its own.

        None where the size of a head follows from their number.
        """
        return ()

    def write_stock_sizes(self, config: Any, heads: int, neurons: int) -> None:
        """Make a config give these sizes to every layer. In place.

        Args:
            heads: as now, or one of :meth:`stock_heads`.
        """
        if self.stock is not None:
            setattr(config, self.stock.neurons, neurons)

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
