"""Which values of an activation 8 bits shall hold: histograms, and rules that cut their tails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError

Rule: TypeAlias = Literal["min_max", "percentile", "least_squares"]

RULES: tuple[Rule, ...] = ("least_squares", "percentile", "min_max")

BINS = 4096
LEVELS = 255

# Rule percentile: of the values, so many are between the bounds, the rest is cut on both sides.
PERCENTILE = 0.9999

# Rule least_squares: bounds tried, as fractions of the extreme value.
FRACTIONS = tuple(float(x) for x in np.geomspace(1.0, 0.1, 48))


@dataclass
class Histogram:
    """How often which values were seen.

    Attributes:
        low, high: the smallest and the largest value; zero lies between them or is one of them.
        counts: int64, shape ``[BINS]``, of bins of equal width from ``low`` to ``high``.
    """

    low: float
    high: float
    counts: NDArray[np.int64]

    @classmethod
    def between(cls, low: float, high: float) -> Histogram:
        """An empty one; the bounds are widened to hold zero.

        Raises:
            ExportError: for bounds that are no numbers.
        """
        if not np.isfinite([low, high]).all():
            raise ExportError(
                f"calibration met activations from {low} to {high}, expected finite numbers: look "
                "at the model and at the calibration rows"
            )
        low, high = min(0.0, low), max(0.0, high)
        if low == high:
            high = 1.0  # nothing but zeros was seen
        return cls(low, high, np.zeros(BINS, dtype=np.int64))

    def add(self, values: NDArray[Any]) -> None:
        """Count values; what lies outside of the bounds counts at the nearer end."""
        places = (values.ravel() - self.low) * (BINS / (self.high - self.low))
        bins = np.clip(places, 0, BINS - 1).astype(np.int64)
        self.counts += np.bincount(bins, minlength=BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Of the bins, float64, shape ``[BINS]``."""
        width = (self.high - self.low) / BINS
        return np.asarray(self.low + width * (np.arange(BINS) + 0.5), dtype=np.float64)

    def outside(self, low: float, high: float) -> float:
        """The fraction of the values that 8 bits between two bounds cut.

        That is: by more than they would be rounded anyway. A bin counts by its centre.
        """
        half = (high - low) / LEVELS / 2
        beyond = (self.centres < low - half) | (self.centres > high + half)
        return float(self.counts[beyond].sum() / max(1, self.counts.sum()))


def choose_range(seen: Histogram, rule: Rule) -> tuple[float, float]:
    """The bounds that 8 bits shall hold.

    Args:
        seen: of the activation.
        rule: ``"min_max"``: all that was seen. ``"percentile"``: ``PERCENTILE`` of the values, the
            rest cut on both sides alike. ``"least_squares"``: what makes the squared error of
            rounding and cutting least (after Sung et al., Resiliency of deep neural networks under
            quantization, 2015).

    Returns:
        ``(low, high)`` with ``low <= 0 <= high`` and ``low < high``.

    Raises:
        ExportError: for another rule.
    """
    if rule == "min_max":
        return seen.low, seen.high
    if rule == "percentile":
        return _percentile(seen)
    if rule == "least_squares":
        return _least_squares(seen)
    raise ExportError(
        f"unknown rule {rule!r} for ranges of activations; there are min_max, percentile and "
        "least_squares"
    )


def scale_of(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of unsigned 8-bit numbers: ``value = scale * (number - zero_point)``.

    >>> scale_of(-1.0, 1.55)
    (0.01, 100)
    """
    scale = (high - low) / LEVELS
    return scale, int(np.clip(round(-low / scale), 0, LEVELS))


def _percentile(seen: Histogram) -> tuple[float, float]:
    tail = (1 - PERCENTILE) / 2 * seen.counts.sum()
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    upward = np.cumsum(seen.counts)
    downward = np.cumsum(seen.counts[::-1])
    first = int(np.searchsorted(upward, tail, side="right"))
    last = BINS - int(np.searchsorted(downward, tail, side="right"))
    low, high = min(0.0, float(edges[first])), max(0.0, float(edges[last]))
    return (low, high) if low < high else (seen.low, seen.high)


def _least_squares(seen: Histogram) -> tuple[float, float]:
    used = seen.counts > 0
    values, weights = seen.centres[used], seen.counts[used]

    def error(low: float, high: float) -> float:
        if not low < high:
            return np.inf
        scale, zero = scale_of(low, high)
        numbers = np.clip(np.round(values / scale) + zero, 0, LEVELS)
        return float((weights * (values - scale * (numbers - zero)) ** 2).sum())

    low, high = seen.low, seen.high
    for _ in range(3):  # one bound at a time: they hardly depend on each other
        fixed = high
        low = min((seen.low * part for part in FRACTIONS), key=lambda bound: error(bound, fixed))
        below = low
        high = min((seen.high * part for part in FRACTIONS), key=lambda bound: error(below, bound))
    return low, high
