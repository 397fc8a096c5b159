"""What answers are expected to cost, by the probabilities of the model that gave others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hfprune.core.tasks import Task
from hfprune.deploy.predict.answers import softmax
from hfprune.measure.probabilities import decisions, temperature_that_helps

DRAWS: Final = 20


def expected_metric(
    slow: NDArray[Any],
    labels: NDArray[Any],
    task: Task,
    metric: Callable[[NDArray[Any], NDArray[Any]], float],
    *,
    seed: int = 0,
) -> Callable[[NDArray[Any]], float]:
    """A function of logits of the same rows: the metric that they are expected to have.

    What a cascade loses is decided by the few rows on which its members differ, and on a few
    hundred rows their labels tell that by chance. The slow model's probabilities tell it with less
    noise: labels are drawn from them, and what answers lose against the slow model's own is the
    mean over the draws. It is taken from the metric that the slow model has by the true labels.

    Args:
        slow: logits of the slow model, ``(rows, labels)``. They are divided by a temperature first
            where that makes these rows' labels less surprising.
        labels: the true ones, int ``(rows,)``.
        task: of one label a row.
        metric: of logits and labels.
        seed: of the draws. They are systematic: of each row every label is drawn as often as its
            probability says, to within one of the draws.
    """
    found = decisions(slow, labels, task)
    fitted = None if found is None else temperature_that_helps(found)
    shares = softmax(slow / (fitted or 1.0)).cumsum(axis=1)
    first = np.random.default_rng(seed).random(len(slow))
    drawn = []
    for number in range(DRAWS):
        place = (first + number / DRAWS) % 1.0
        beyond = place[:, None] >= shares[:, :-1]
        drawn.append(beyond.sum(axis=1).astype(np.asarray(labels).dtype))
    own = float(np.mean([metric(slow, each) for each in drawn]))
    base = metric(slow, labels)

    def expected(logits: NDArray[Any]) -> float:
        return base - (own - float(np.mean([metric(logits, each) for each in drawn])))

    return expected
