"""Whether probabilities mean what they say, and the one number that mends most of it.

Of 100 answers given with probability 0.9, 90 should be right. Expected calibration error and
temperature: Guo et al. (2017), On calibration of modern neural networks; Brier (1950),
Verification of forecasts expressed in terms of probability. All functions are pure. (In hfprune's
words *calibration* is quantization's alone, so nothing else here is called so.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hfprune.core.errors import DataError
from hfprune.core.tasks import WITHOUT_CLASSES, Task
from hfprune.data.words import IGNORED

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
BINS = 15
# Beyond this a temperature says only that the model knows nothing, or all.
MOST = 20.0


@dataclass(frozen=True)
class Decisions:
    """Decisions that are right or wrong, whatever the task.

    Attributes:
        logits: float64 ``(decisions, choices)``.
        labels: int64 ``(decisions,)``, the right choice.
    """

    logits: Floats
    labels: npt.NDArray[np.int64]


def decisions(logits: Array, labels: Array, task: Task) -> Decisions | None:
    """What a model decided; ``None`` where no probability counts: of numbers, ranks, embeddings.

    Several labels a row are as many decisions between two choices, the second with the logit and
    the first with 0. Of tokens those count that have a label.

    Args:
        logits, labels: as :func:`hfprune.measure.metrics.compute` takes them.
    """
    truth = np.asarray(labels)
    if task in WITHOUT_CLASSES:
        return None
    if task == "token_classification":  # of many, those that count are made float64
        some = np.asarray(logits)
        truth = truth[:, : some.shape[1]]
        counts = truth != IGNORED
        kept = some[:, : truth.shape[1]][counts]
        return Decisions(kept.astype(np.float64), truth[counts].astype(np.int64))
    values = np.asarray(logits, dtype=np.float64)
    if task == "multi_label_classification":
        flat = values.reshape(-1)
        pairs = np.stack([np.zeros_like(flat), flat], axis=1)
        return Decisions(pairs, truth.reshape(-1).astype(np.int64))
    return Decisions(values, truth.reshape(-1).astype(np.int64))


def log_shares(logits: Floats) -> Floats:
    """Logarithms of the probabilities, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def expected_calibration_error(found: Decisions, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over equal-width bins of confidence, in [0, 1].

    Worked value: two answers with probability 0.8, one of them right: 0.3.
    """
    _check(found)
    shares = np.exp(log_shares(found.logits))
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == found.labels
    # Right ends belong to their bin, as in the paper.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    weight = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, bins) - np.bincount(place, right, bins)
    return float(np.abs(sums).sum() / weight.sum())


def brier_score(found: Decisions) -> float:
    """Mean squared distance of the probabilities from 1 and 0, summed over choices; in [0, 2]."""
    _check(found)
    shares = np.exp(log_shares(found.logits))
    shares[np.arange(len(shares)), found.labels] -= 1.0
    return float(np.square(shares).sum(axis=1).mean())


def surprise(found: Decisions, temperature: float = 1.0) -> Floats:
    """Minus the logarithm of the probability of the right choice, ``(decisions,)``."""
    logs = log_shares(found.logits / temperature)
    taken: Floats = -logs[np.arange(len(logs)), found.labels]
    return taken


def quality(logits: Array, labels: Array, task: Task) -> dict[str, float] | None:
    """``ece`` and ``brier`` of a model on rows; ``None`` for regression."""
    found = decisions(logits, labels, task)
    if found is None:
        return None
    return {
        "ece": round(expected_calibration_error(found), 6),
        "brier": round(brier_score(found), 6),
    }


def fit_temperature(found: Decisions) -> float:
    """The number by which to divide logits so that the right choices are least surprising.

    The mean surprise is convex in the inverse of it, so its slope is halved down to zero. Kept in
    [1/20, 20]: decisions that are all right would want no end of it.
    """
    _check(found)
    picked = found.logits[np.arange(len(found.labels)), found.labels]

    def slope(inverse: float) -> float:
        shares = np.exp(log_shares(found.logits * inverse))
        return float(((shares * found.logits).sum(axis=1) - picked).mean())

    low, high = 1.0 / MOST, MOST
    if slope(low) >= 0:
        return MOST
    if slope(high) <= 0:
        return 1.0 / MOST
    while high - low > 1e-9 * high:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1.0 / math.sqrt(low * high)


def temperature_that_helps(found: Decisions, owners: Array | None = None) -> float | None:
    """A temperature fitted on these rows; ``None`` where other rows would not gain by it.

    Fitted on each half and judged on the other: the mean surprise there has to fall by more than
    its standard error, so that the noise of few rows changes nothing. Where no row is wrong, none
    says how often the model is, and logits twenty times as large would be the answer.

    Args:
        found: decisions of validation rows.
        owners: row of each decision, so that those of one row stay together; without, each is a
            row of its own.
    """
    _check(found)
    rows = np.arange(len(found.labels)) if owners is None else np.asarray(owners)
    odd = (rows % 2).astype(bool)
    if odd.all() or not odd.any():
        return None
    gains = np.zeros(len(rows))
    for half in (odd, ~odd):
        fitted = fit_temperature(Decisions(found.logits[half], found.labels[half]))
        rest = Decisions(found.logits[~half], found.labels[~half])
        gains[~half] = surprise(rest) - surprise(rest, fitted)
    _, places = np.unique(rows, return_inverse=True)
    by_row = np.bincount(places, gains) / np.bincount(places)
    error = by_row.std(ddof=1) / math.sqrt(len(by_row)) if len(by_row) > 1 else math.inf
    value = fit_temperature(found)
    return value if by_row.mean() > error and value > 1.0 / MOST else None


def _check(found: Decisions) -> None:
    if len(found.labels) == 0:
        raise DataError("there are no decisions to measure: every label is left out")
    if not np.isfinite(found.logits).all():
        raise DataError("the logits hold values that are no finite numbers")
