"""The price of each choice: parameters counted, or milliseconds measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from hfprune.core.errors import PlanError
from hfprune.families import block_views
from hfprune.families.blocks import KINDS, BlockKey, BlockKind

TABLE_VERSION = 2


def parameter_costs(model: nn.Module) -> dict[BlockKey, float]:
    """Parameters that leave with one unit of each block: encoder weights, counted."""
    return {key: float(view.unit_parameters()) for key, view in block_views(model).items()}


@dataclass(frozen=True)
class LatencyTable:
    """Measured time of blocks by size, in the exported and quantized graph. Milliseconds a batch.

    Attributes:
        batch_size, sequence_length, threads: what was measured.
        baseline_ms: the dense float32 ONNX model, what speed-ups are relative to.
        fixed_ms: the quantized model without any block: embeddings, pooler, head, the call itself.
        attention, ffn: ``(units, ms)`` of one block, ascending, from ``(0, 0.0)``; between two
            entries time is interpolated.
        last_attention, last_ffn: the same for the blocks of the last layer, if the graph saves work
            there (where only the first token is read); ``None``: as all others.
        error: how well the times of blocks were known: half the widest 95 % interval, as a share of
            the largest block's time, before smoothing; 0 where nobody noted it.
    """

    batch_size: int
    sequence_length: int
    threads: int
    baseline_ms: float
    fixed_ms: float
    attention: tuple[tuple[int, float], ...]
    ffn: tuple[tuple[int, float], ...]
    last_attention: tuple[tuple[int, float], ...] | None = None
    last_ffn: tuple[tuple[int, float], ...] | None = None
    error: float = 0.0

    def block_ms(self, kind: BlockKind, units: int, *, last: bool = False) -> float:
        """Time of one block that keeps so many units; 0 for none (it is removed whole).

        Args:
            last: whether it is in the last layer that has blocks.

        Raises:
            PlanError: for more units than were measured.
        """
        table = self.attention if kind == "attention" else self.ffn
        if last:
            own = self.last_attention if kind == "attention" else self.last_ffn
            table = table if own is None else own
        if units > table[-1][0]:
            raise PlanError(
                f"the latency table knows {kind} blocks of up to {table[-1][0]} units, not "
                f"{units}; measure it anew for this model"
            )
        if units == 0:
            return 0.0
        # Entry 0 is the removed block. The smallest measured size bounds what lies below it:
        # a crumb of a block costs nearly as much as a small one.
        sizes, times = zip(*table[1:], strict=True)
        return float(np.interp(units, sizes, times))

    def price(self, sizes: Sequence[tuple[int, int]]) -> Callable[[BlockKey, int], float]:
        """Time of each block by units, for plans of a model with these sizes.

        Its last layer counts as the last one; should a plan empty it, the model is faster than
        this says.
        """
        last = _last(sizes)
        return lambda key, units: self.block_ms(key.kind, units, last=key.layer == last)

    def total_ms(self, sizes: Sequence[tuple[int, int]]) -> float:
        """Predicted time of a model whose layers keep ``(heads, neurons)``."""
        last = _last(sizes)
        return self.fixed_ms + sum(
            self.block_ms(kind, units, last=number == last)
            for number, layer in enumerate(sizes)
            for kind, units in zip(KINDS, layer, strict=True)
        )

    def speedup(self, sizes: Sequence[tuple[int, int]]) -> float:
        """Predicted speed-up over the dense float32 model."""
        return self.baseline_ms / self.total_ms(sizes)

    def budget_ms(self, speedup: float) -> float:
        """What all blocks together may take for a speed-up.

        Raises:
            PlanError: if not even a model without blocks is that fast.
        """
        budget = self.baseline_ms / speedup - self.fixed_ms
        if budget <= 0:
            raise PlanError(
                f"a speed-up of {speedup:g} allows {self.baseline_ms / speedup:.3f} ms, but "
                f"{self.fixed_ms:.3f} ms are needed outside the blocks: at most "
                f"{self.baseline_ms / self.fixed_ms:.1f} times is possible; lower pruning.speedup"
            )
        return budget

    def scaled(self, factor: float) -> LatencyTable:
        """All times but the baseline's multiplied by a factor."""

        def times(table: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
            return tuple((units, ms * factor) for units, ms in table)

        return replace(
            self,
            fixed_ms=self.fixed_ms * factor,
            attention=times(self.attention),
            ffn=times(self.ffn),
            last_attention=self.last_attention and times(self.last_attention),
            last_ffn=self.last_ffn and times(self.last_ffn),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"format_version": TABLE_VERSION, **self.__dict__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LatencyTable:
        """The inverse of :meth:`to_dict`.

        Raises:
            PlanError: for anything else.
        """
        try:
            if value["format_version"] != TABLE_VERSION:
                raise PlanError(f"unknown format_version {value['format_version']!r}")
            return cls(
                **{name: int(value[name]) for name in ("batch_size", "sequence_length", "threads")},
                baseline_ms=float(value["baseline_ms"]),
                fixed_ms=float(value["fixed_ms"]),
                attention=_times(value["attention"]),
                ffn=_times(value["ffn"]),
                last_attention=value["last_attention"] and _times(value["last_attention"]),
                last_ffn=value["last_ffn"] and _times(value["last_ffn"]),
                error=float(value.get("error", 0.0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"not a latency table: {error!r}") from error


def _times(value: Any) -> tuple[tuple[int, float], ...]:
    return tuple((int(units), float(ms)) for units, ms in value)


def _last(sizes: Sequence[tuple[int, int]]) -> int:
    """Number of the last layer that has a block; -1 if none has."""
    return max((number for number, layer in enumerate(sizes) if any(layer)), default=-1)
