"""`PruningPlan`: what is kept of every block of a model.

The one value that all other modules exchange. A *block* is one attention or one feed-forward
sub-layer; its *units* are heads (attention) or neurons (feed-forward). A block that keeps no unit
is removed whole, together with its residual normalisation.

    >>> plan = PruningPlan.dense([(2, 3), (2, 3)])
    >>> plan = plan.with_block(BlockKey(0, "attention"), [True, False])
    >>> plan.kept(BlockKey(0, "attention"))
    (0,)
    >>> plan.sizes()
    ((1, 3), (2, 3))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfprune.core.errors import PlanError
from hfprune.families.blocks import KINDS, UNIT_NAMES, BlockKey

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PruningPlan:
    """Which heads and neurons each layer keeps.

    Attributes:
        heads: one tuple a layer, one boolean a head; true = kept. Empty where the model has no
            attention block (any more) in that layer.
        neurons: the same for feed-forward neurons.
        vocabulary: ids of the tokens that are kept, ascending, in the numbering of the model the
            plan is applied to; ``None`` keeps all.
    """

    heads: tuple[tuple[bool, ...], ...]
    neurons: tuple[tuple[bool, ...], ...]
    vocabulary: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.neurons):
            raise PlanError(
                f"a plan needs as many layers of heads as of neurons, got {len(self.heads)} and "
                f"{len(self.neurons)}"
            )
        if self.vocabulary is not None and list(self.vocabulary) != sorted(set(self.vocabulary)):
            raise PlanError("the vocabulary of a plan must be ascending token ids without repeats")

    # -- making plans ---------------------------------------------------------------------------

    @classmethod
    def dense(cls, sizes: Iterable[tuple[int, int]]) -> PruningPlan:
        """The plan that keeps everything of layers with ``(heads, neurons)`` units each."""
        pairs = list(sizes)
        return cls(
            heads=tuple((True,) * heads for heads, _ in pairs),
            neurons=tuple((True,) * neurons for _, neurons in pairs),
        )

    @classmethod
    def first_units(
        cls, sizes: Sequence[tuple[int, int]], kept: Sequence[tuple[int, int]]
    ) -> PruningPlan:
        """The plan that keeps the first ``kept`` units of layers of ``sizes`` units."""
        if len(sizes) != len(kept):
            raise PlanError(f"expected the kept sizes of {len(sizes)} layers, got {len(kept)}")
        plan = cls.dense(sizes)
        for layer, (have, keep) in enumerate(zip(sizes, kept, strict=True)):
            for kind, total, count in zip(KINDS, have, keep, strict=True):
                if not 0 <= count <= total:
                    raise PlanError(
                        f"layer {layer} has {total} {UNIT_NAMES[kind]}, so it cannot keep {count}"
                    )
                mask = [index < count for index in range(total)]
                plan = plan.with_block(BlockKey(layer, kind), mask)
        return plan

    def with_block(self, key: BlockKey, mask: Iterable[bool]) -> PruningPlan:
        """A copy in which one block's mask is replaced (same number of units)."""
        new = tuple(bool(value) for value in mask)
        if len(new) != len(self.mask(key)):
            raise PlanError(f"{key} has {len(self.mask(key))} units, the new mask has {len(new)}")
        rows = list(self.heads if key.kind == "attention" else self.neurons)
        rows[key.layer] = new
        if key.kind == "attention":
            return PruningPlan(tuple(rows), self.neurons, self.vocabulary)
        return PruningPlan(self.heads, tuple(rows), self.vocabulary)

    def then(self, later: PruningPlan) -> PruningPlan:
        """The plan that does at once what this one and then ``later`` do.

        Args:
            later: made from the model that this plan leaves. Its vocabulary, if it has one, counts
                in the ids of that model.

        Raises:
            PlanError: if it was made from a model of other sizes.
        """
        later.require_sizes(self.sizes())
        plan = self
        for key in self.keys():
            kept = self.kept(key)
            chosen = {kept[place] for place in later.kept(key)}
            plan = plan.with_block(key, [unit in chosen for unit in range(len(self.mask(key)))])
        words = later.vocabulary
        if words is not None and self.vocabulary is not None:
            words = tuple(self.vocabulary[place] for place in words)
        return PruningPlan(plan.heads, plan.neurons, self.vocabulary if words is None else words)

    # -- reading plans --------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.heads)

    def keys(self) -> tuple[BlockKey, ...]:
        """All blocks, layer by layer, attention before feed-forward."""
        return tuple(BlockKey(layer, kind) for layer in range(len(self)) for kind in KINDS)

    def mask(self, key: BlockKey) -> tuple[bool, ...]:
        """The booleans of one block; true = kept."""
        rows = self.heads if key.kind == "attention" else self.neurons
        if not 0 <= key.layer < len(rows):
            raise PlanError(f"the plan has layers 0 to {len(rows) - 1}, there is no {key}")
        return rows[key.layer]

    def kept(self, key: BlockKey) -> tuple[int, ...]:
        """Indices of the units that a block keeps, ascending."""
        return tuple(index for index, keep in enumerate(self.mask(key)) if keep)

    def is_removed(self, key: BlockKey) -> bool:
        """Whether the block keeps nothing, and so is removed whole."""
        return not any(self.mask(key))

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """``(heads, neurons)`` kept by each layer."""
        return tuple((sum(h), sum(n)) for h, n in zip(self.heads, self.neurons, strict=True))

    def totals(self) -> tuple[tuple[int, int], ...]:
        """``(heads, neurons)`` of each layer before the plan is applied."""
        return tuple((len(h), len(n)) for h, n in zip(self.heads, self.neurons, strict=True))

    def require_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Raise :class:`PlanError` unless the plan was made for layers of these sizes."""
        if len(sizes) != len(self):
            raise PlanError(f"the plan is for {len(self)} layers, the model has {len(sizes)}")
        for layer, (expected, got) in enumerate(zip(sizes, self.totals(), strict=True)):
            for kind, want, have in zip(KINDS, expected, got, strict=True):
                if want != have:
                    raise PlanError(
                        f"the plan has {have} {UNIT_NAMES[kind]} in layer {layer}, the model has "
                        f"{want}; make the plan from this model"
                    )

    # -- JSON -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary: kept indices and totals of each layer."""
        return {
            "format_version": FORMAT_VERSION,
            "layers": [
                {
                    "heads": list(self.kept(BlockKey(layer, "attention"))),
                    "num_heads": len(self.heads[layer]),
                    "neurons": list(self.kept(BlockKey(layer, "ffn"))),
                    "num_neurons": len(self.neurons[layer]),
                }
                for layer in range(len(self))
            ],
            "vocabulary": None if self.vocabulary is None else list(self.vocabulary),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PruningPlan:
        """The inverse of :meth:`to_dict`; refuses anything it does not know."""
        if not isinstance(value, Mapping) or value.get("format_version") != FORMAT_VERSION:
            raise PlanError(
                f"expected a plan with format_version {FORMAT_VERSION}, got {value!r:.80}"
            )
        layers = value.get("layers")
        if not isinstance(layers, list) or not all(isinstance(layer, Mapping) for layer in layers):
            raise PlanError("a plan needs a list of layers")
        vocabulary = value.get("vocabulary")
        return cls(
            heads=tuple(
                _mask(layer.get("heads"), layer.get("num_heads"), f"layer {i} heads")
                for i, layer in enumerate(layers)
            ),
            neurons=tuple(
                _mask(layer.get("neurons"), layer.get("num_neurons"), f"layer {i} neurons")
                for i, layer in enumerate(layers)
            ),
            vocabulary=None
            if vocabulary is None
            else tuple(_indices(vocabulary, None, "vocabulary")),
        )

    def digest(self) -> str:
        """A sha256 of the decision, equal on all processes that decided the same."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _indices(value: Any, total: int | None, where: str) -> list[int]:
    if not isinstance(value, list) or any(type(index) is not int for index in value):
        raise PlanError(f"{where}: expected a list of indices, got {value!r:.80}")
    if any(index < 0 or (total is not None and index >= total) for index in value):
        limit = "" if total is None else f" below {total}"
        raise PlanError(f"{where}: indices must be from 0{limit}, got {value!r:.80}")
    return value


def _mask(indices: Any, total: Any, where: str) -> tuple[bool, ...]:
    if type(total) is not int or total < 0:
        raise PlanError(f"{where}: expected a total of units, got {total!r:.80}")
    kept = set(_indices(indices, total, where))
    return tuple(index in kept for index in range(total))
