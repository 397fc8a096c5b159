"""What a run decides, as pure functions of measured numbers.

Measuring is elsewhere; nothing here reads a file, a clock or a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from hfprune.core.tasks import LOWER_IS_BETTER

# Where the search for max_metric_drop begins, and by what it goes up.
FIRST_SPEEDUP: Final = 3.0
SPEEDUP_STEP: Final = 1.3
# A choice of layers that is faster than wanted by this factor although whole is not tried.
ROOMY: Final = 1.2


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


def nearest(divergences: Mapping[str, float]) -> str:
    """The candidate nearest to the teacher; of equals the first, and none that is no number.

    Args:
        divergences: from the teacher, in nats, by name; at least one.
    """
    return min(divergences, key=lambda name: (math.isnan(divergences[name]), divergences[name]))


def worth_trying(speedup_whole: float | None, wanted: float) -> bool:
    """Whether a choice of layers can be among the best for a speed-up.

    Layers that leave much time unused even if nothing else of them goes are less than others can
    have.

    Args:
        speedup_whole: with these layers whole; ``None`` where the target is no speed.
        wanted: the target.
    """
    return speedup_whole is None or speedup_whole <= ROOMY * wanted
