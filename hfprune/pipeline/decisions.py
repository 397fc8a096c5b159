"""What a run decides, as pure functions of measured numbers.

Measuring is elsewhere; nothing here reads a file, a clock or a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hfprune.core.tasks import LOWER_IS_BETTER

# Where the search for max_metric_drop begins, and by what it goes up.
FIRST_SPEEDUP: Final = 3.0
SPEEDUP_STEP: Final = 1.3
# A choice of layers that is faster than wanted by this factor although whole is not tried.
ROOMY: Final = 1.2
# What a small model that learns from a teacher has mostly done well with, and what else is tried.
USUAL_RATE: Final = 2e-4
RATES: Final = (1e-4, USUAL_RATE, 5e-4, 1e-3)


class Judged(NamedTuple):
    """A metric that models are judged by, and its polarity."""

    name: str
    greater_is_better: bool


def judged_metric(
    best: str | None, greater_is_better: bool | None, metrics: Sequence[str]
) -> Judged:
    """The metric that limits are about: the one that chooses checkpoints, unless that is a loss.

    The polarity is that of the metric itself. ``greater_is_better`` of the training section is
    about ``best``, so it counts only where that is the metric: with ``best`` the loss, it says
    that less is better, and of an accuracy that would be wrong.

    Args:
        best: ``training.metric_for_best_model``.
        greater_is_better: ``training.greater_is_better``.
        metrics: ``evaluation.metrics``, at least one.

    >>> judged_metric("loss", False, ["accuracy"])
    Judged(name='accuracy', greater_is_better=True)
    """
    if best in (None, "loss", "divergence"):
        return Judged(metrics[0], metrics[0] not in LOWER_IS_BETTER)
    name = str(best)
    if greater_is_better is None:
        return Judged(name, name not in LOWER_IS_BETTER)
    return Judged(name, greater_is_better)


def metric_drop(dense: float, value: float, greater_is_better: bool) -> float:
    """How much worse ``value`` is than the dense model's, in the metric's own unit."""
    return dense - value if greater_is_better else value - dense


class SpeedStep(NamedTuple):
    """One step of the search for the fastest model within a drop.

    Attributes:
        speedup: what was asked for.
        metric, drop: of the model that was made; ``None`` where none could be.
        stopped: why no model could be made.
    """

    speedup: float
    metric: float | None = None
    drop: float | None = None
    stopped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what there is not."""
        return {key: value for key, value in self._asdict().items() if value is not None}


def next_speedup(steps: Sequence[SpeedStep], limit: float) -> float | None:
    """The speed-up to try next; ``None`` when the search is over.

    It is over at the first model that loses more than the limit (a drop that is no number
    counts as more) and at the first speed-up that cannot be reached.
    """
    if not steps:
        return FIRST_SPEEDUP
    last = steps[-1]
    if last.drop is None or not last.drop <= limit:
        return None
    return round(last.speedup * SPEEDUP_STEP, 2)


def fastest_within(steps: Sequence[SpeedStep], limit: float) -> SpeedStep | None:
    """The fastest step whose drop is at most the limit; ``None`` if there is none."""
    within = [step for step in steps if step.drop is not None and step.drop <= limit]
    return max(within, key=lambda step: step.speedup, default=None)


def finalists(divergences: Mapping[float, NDArray[np.float64]]) -> list[float]:
    """The learning rates that are tried longer: the better half, at least one.

    The usual rate is among them unless each of the better half is shown to be better: another is
    taken in its place only where that is shown, and a short trial alone rarely shows it.

    Args:
        divergences: as of :func:`best_rate`.
    """
    means = {rate: float(np.mean(rows)) for rate, rows in divergences.items()}
    ranked = sorted(means, key=lambda rate: (math.isnan(means[rate]), means[rate]))
    half = ranked[: max(1, len(ranked) // 2)]
    usual = divergences.get(USUAL_RATE)
    if usual is None or USUAL_RATE in half or math.isnan(means[USUAL_RATE]):
        return half
    if all(shown_nearer(usual, divergences[rate]) for rate in half):
        return half
    return [*half[:-1], USUAL_RATE]


def best_rate(divergences: Mapping[float, NDArray[np.float64]]) -> float:
    """The learning rate whose model is nearest to the teacher; the usual one unless shown worse.

    Another is shown to be better where the mean of the rows' differences is above 1.96 times its
    standard error. What two trainings with one rate differ by is not in that: it is for the trials
    to be long enough.

    Args:
        divergences: by rate, in nats, one entry a validation row; the same rows for all.
    """
    means = {rate: float(np.mean(rows)) for rate, rows in divergences.items()}
    best = min(means, key=lambda rate: (math.isnan(means[rate]), means[rate]))
    usual = divergences.get(USUAL_RATE)
    if usual is None or math.isnan(means[USUAL_RATE]):
        return best
    return best if shown_nearer(usual, divergences[best]) else USUAL_RATE


def shown_nearer(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    """Whether a model is shown to be nearer to the teacher than it, or another, was.

    The mean of the rows' differences has to be above 1.96 times its standard error. Values that
    are no numbers, and a single row, show nothing.

    Args:
        before, after: divergences from the teacher in nats, one entry a validation row, the same
            rows in both.
    """
    gain = np.asarray(before, dtype=np.float64) - np.asarray(after, dtype=np.float64)
    if len(gain) < 2:
        return False
    error = float(np.std(gain, ddof=1)) / math.sqrt(len(gain))
    return bool(np.mean(gain) > 1.96 * error)


def left_to_try(divergences: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """The candidates that go into a longer trial: the nearest to the teacher and one other, if any.

    The other is the nearest of those that are not shown to be further away (Jamieson and Talwalkar
    2016 halve without asking that). They stand in the order in which they were given.

    Args:
        divergences: as of :func:`most_promising`.
    """
    best, *others = _ranked(divergences)
    near = [name for name in others if not _shown_further(divergences, name, best)]
    return [name for name in divergences if name in (best, *near[:1])]


def most_promising(divergences: Mapping[str, NDArray[np.float64]]) -> tuple[str, bool]:
    """The candidate that goes on, and whether it is shown to be nearer than all others.

    It is the nearest to the teacher, unless others that come before it are not shown to be
    further away: then the first of these.

    Args:
        divergences: from the teacher, in nats, by name, at least one, in the order of preference;
            an entry a validation row, the same rows for all. A trial that ran away has one entry
            that is no number.
    """
    best = _ranked(divergences)[0]
    near = [
        name for name in divergences
        if name == best or not _shown_further(divergences, name, best)
    ]  # fmt: skip
    return near[0], len(near) == 1


def _ranked(divergences: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Names by mean divergence, the nearest first; of equals the first, at last what is none."""
    means = {name: float(np.mean(rows)) for name, rows in divergences.items()}
    return sorted(means, key=lambda name: (math.isnan(means[name]), means[name]))


def _shown_further(divergences: Mapping[str, NDArray[np.float64]], name: str, best: str) -> bool:
    """Whether a candidate is shown to be further from the teacher than the nearest, or ran away."""
    rows = divergences[name]
    if np.isnan(rows).any():
        return not np.isnan(divergences[best]).any()
    return shown_nearer(rows, divergences[best])


def worth_trying(speedup_whole: float | None, wanted: float) -> bool:
    """Whether a choice of layers can be among the best for a speed-up.

    Layers that leave much time unused even if nothing else of them goes are less than others can
    have.

    Args:
        speedup_whole: with these layers whole; ``None`` where the target is no speed.
        wanted: the target.
    """
    return speedup_whole is None or speedup_whole <= ROOMY * wanted
