"""Whether a machine was quiet while something was timed, and what to tell of it if not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hfprune.core.errors import HFPruneError
from hfprune.measure.latency import LatencyRow

# The part of the time in which the processor was with others; from here on a machine is busy.
BUSY = 0.15
# Of the baseline's times, the distance of the quartiles over the median: 1 to 5% when it is quiet.
SPREAD = 0.2


@dataclass(frozen=True)
class Quiet:
    """How quiet a machine was while something was timed.

    Attributes:
        busy: the part of the time in which one thread waited for a processor, in [0, 1]; 0 where
            there were several threads, whose waiting may be for one another.
        spread: of the baseline's times, the distance of the quartiles over the median.
    """

    busy: float
    spread: float

    @property
    def disturbed(self) -> bool:
        """Whether times by the clock are not to be believed."""
        return self.busy > BUSY or self.spread > SPREAD

    def note(self) -> str | None:
        """What to tell of it, if anything."""
        if not self.disturbed:
            return None
        return (
            f"the machine was busy: the processor was elsewhere {self.busy:.0%} of the time, and "
            f"times of the dense model spread by {self.spread:.0%}; speed-ups are ratios of "
            "processor time within a round, where one thread is used, and milliseconds are not "
            "those of a quiet machine"
        )


def quiet(rows: Sequence[LatencyRow], baseline: str) -> Quiet:
    """How quiet the machine was: by all rows, and by how the baseline's times spread.

    Raises:
        HFPruneError: without a row of the baseline.
    """
    base = [row for row in rows if row.name == baseline]
    if not base:
        raise HFPruneError(
            f"no row of the baseline {baseline!r}; the rows are of {sorted({r.name for r in rows})}"
        )
    shares = [
        max(0.0, 1.0 - row.process_ms / row.median_ms)
        for row in rows
        if row.threads == 1 and math.isfinite(row.process_ms)
    ]
    spreads = []
    for row in base:
        low, middle, high = np.percentile(row.times_ms, (25, 50, 75))
        spreads.append(float((high - low) / middle))
    return Quiet(float(np.median(shares)) if shares else 0.0, max(spreads))
