"""The price of each choice: parameters counted, or milliseconds measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from hfprune.errors import PlanError
from hfprune.plan import KINDS, BlockKey, BlockKind
from hfprune.structure import block_views

TABLE_VERSION = 1


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
    """

    batch_size: int
    sequence_length: int
    threads: int
    baseline_ms: float
    fixed_ms: float
    attention: tuple[tuple[int, float], ...]
    ffn: tuple[tuple[int, float], ...]

    def block_ms(self, kind: BlockKind, units: int) -> float:
        """Time of one block that keeps so many units; 0 for none (it is removed whole).

        Raises:
            PlanError: for more units than were measured.
        """
        table = self.attention if kind == "attention" else self.ffn
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

    def total_ms(self, sizes: Sequence[tuple[int, int]]) -> float:
        """Predicted time of a model whose layers keep ``(heads, neurons)``."""
        return self.fixed_ms + sum(
            self.block_ms(kind, units)
            for layer in sizes
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
        return replace(
            self,
            fixed_ms=self.fixed_ms * factor,
            attention=tuple((n, ms * factor) for n, ms in self.attention),
            ffn=tuple((n, ms * factor) for n, ms in self.ffn),
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
                attention=tuple((int(n), float(ms)) for n, ms in value["attention"]),
                ffn=tuple((int(n), float(ms)) for n, ms in value["ffn"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"not a latency table: {error!r}") from error
