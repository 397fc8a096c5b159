"""How far to trust a number.

Intervals speak about the test set being a sample. They say nothing of how much another training
seed would change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from hfprune.core.errors import DataError, RecipeError
from hfprune.core.tasks import ADDED_METRICS, METRICS, Task
from hfprune.measure.entities import score_counts
from hfprune.measure.scores import (
    Array,
    Scorer,
    check_labels,
    is_correct,
    not_for,
    predict,
    score,
    token_counts,
)


def _quantile(confidence: float) -> float:
    """Return the two-sided normal quantile, 1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise DataError(f"confidence is {confidence}; expected a number between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, such as an accuracy.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference.

    Args:
        correct: How many of the rows are right.
        n: How many rows there are.
        confidence: Level in (0, 1).

    Raises:
        DataError: ``n`` is below 1, or ``correct`` is not within ``[0, n]``.
    """
    if n < 1 or not 0 <= correct <= n:
        raise DataError(f"got {correct} correct of {n} rows; expected 0 <= correct <= n, n >= 1")
    z = _quantile(confidence)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def _paired(correct_a: Array, correct_b: Array) -> tuple[npt.NDArray[np.bool_], ...]:
    first, second = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise DataError(
            f"got results of the shapes {first.shape} and {second.shape}; expected one bool a row "
            "from each model, for the same rows"
        )
    return first, second


def paired_difference(
    correct_a: Array, correct_b: Array, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return accuracy of a minus accuracy of b on the same rows, and an interval for it.

    The normal approximation on the differences row by row, much narrower than two separate
    intervals where the models mostly agree. It is of no width where they agree on every row.

    Args:
        correct_a, correct_b: bool ``(rows,)``, as :func:`is_correct` returns.
        confidence: Level in (0, 1).

    Returns:
        ``(difference, low, high)``, fractions in [-1, 1].

    Raises:
        DataError: The shapes differ, or there are no rows.
    """
    first, second = _paired(correct_a, correct_b)
    differences = first.astype(np.float64) - second.astype(np.float64)
    difference = float(differences.mean())
    half = _quantile(confidence) * float(differences.std()) / math.sqrt(len(differences))
    return difference, max(-1.0, difference - half), min(1.0, difference + half)


def bootstrap_interval(
    metric: Scorer,
    logits: Array,
    labels: Array,
    confidence: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of a metric, for those without a formula of their own.

    Efron, B. (1979), Bootstrap methods: another look at the jackknife.

    Args:
        metric: Takes logits and labels, returns a number; see :func:`score`.
        logits, labels: Arrays with one entry a row.
        confidence: Level in (0, 1).
        n: How many resamples.
        seed: Of the resampling.

    Raises:
        DataError: There are no rows, the lengths differ, or ``n`` is below 1.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)

    def resampled(rows: Array) -> float:
        return metric(logits[rows], labels[rows])

    return _percentiles(resampled, len(logits), len(labels), confidence, n, seed)


def interval(
    name: str,
    logits: Array,
    labels: Array,
    task: Task,
    num_labels: int,
    label_names: Sequence[str] = (),
    confidence: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return an interval of one of our metrics: Wilson's for accuracies, else by bootstrap.

    Rows with one label each are resampled as cells of the table of labels against predictions,
    which is the same and takes no time; of metrics that were added the rows are resampled
    themselves. Arguments and errors as :func:`compute` and :func:`bootstrap_interval`.
    """
    if name not in METRICS[task]:
        raise RecipeError(not_for(name, task))
    if task == "token_classification":
        counts = token_counts(name, logits, labels, label_names)
        return bootstrap_interval(
            lambda found, _: score_counts(name, found), counts, labels, confidence, n, seed
        )
    if name == "accuracy":
        right = is_correct(logits, labels, task, num_labels)
        return wilson_interval(int(right.sum()), len(right), confidence)
    if task in ("regression", "multi_label_classification") or name in ADDED_METRICS:
        return bootstrap_interval(
            lambda found, truth: score(name, found, truth, task, num_labels),
            logits,
            labels,
            confidence,
            n,
            seed,
        )
    _quantile(confidence)
    predictions = predict(logits, task, num_labels)
    truth = check_labels(predictions, labels)
    cells = np.bincount(truth * num_labels + predictions, minlength=num_labels**2)
    draws = np.random.default_rng(seed).multinomial(len(truth), cells / len(truth), size=n)
    values = _of_tables(name, draws.reshape(n, num_labels, num_labels))
    return _middle(values, confidence)


def _of_tables(name: str, tables: npt.NDArray[np.int64]) -> Array:
    """Scores from counts of rows, ``(tables, label, prediction)``, as the rules above say."""
    counts = tables.astype(np.float64)
    right = np.diagonal(counts, axis1=1, axis2=2)
    true, said, rows = counts.sum(2), counts.sum(1), counts.sum((1, 2))
    if name == "mcc":
        top = right.sum(1) * rows - (true * said).sum(1)
        below = (rows**2 - (said**2).sum(1)) * (rows**2 - (true**2).sum(1))
        return _divided(top, np.sqrt(below))
    kind, _, average = name.partition("_")
    below = {"precision": said, "recall": true, "f1": (true + said) / 2}[kind]
    by_class = _divided(right, below)
    weights = true if average == "weighted" else ((true + said) > 0).astype(np.float64)
    found: Array = (by_class * weights).sum(1) / weights.sum(1)
    return found


def _divided(top: Array, below: Array) -> Array:
    return np.divide(top, below, out=np.zeros_like(top), where=below > 0)


def paired_bootstrap(
    metric: Scorer,
    logits_a: Array,
    logits_b: Array,
    labels: Array,
    confidence: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return metric of a minus metric of b, and an interval from resampling both alike.

    Arguments and errors as :func:`bootstrap_interval`.

    Returns:
        ``(difference, low, high)``.
    """
    logits_a, logits_b, labels = np.asarray(logits_a), np.asarray(logits_b), np.asarray(labels)
    if len(logits_a) != len(logits_b):
        raise DataError(
            f"got {len(logits_a)} and {len(logits_b)} rows of logits; expected the same rows"
        )

    def resampled(rows: Array) -> float:
        return metric(logits_a[rows], labels[rows]) - metric(logits_b[rows], labels[rows])

    low, high = _percentiles(resampled, len(logits_a), len(labels), confidence, n, seed)
    return metric(logits_a, labels) - metric(logits_b, labels), low, high


def _percentiles(
    resampled: Callable[[Array], float],
    rows: int,
    labels: int,
    confidence: float,
    n: int,
    seed: int,
) -> tuple[float, float]:
    _quantile(confidence)
    if rows != labels or rows == 0 or n < 1:
        raise DataError(
            f"got {rows} rows of logits, {labels} labels and {n} resamples; expected as many "
            "labels as logits, and at least one of each"
        )
    rng = np.random.default_rng(seed)
    values = [resampled(rng.integers(0, rows, rows)) for _ in range(n)]
    return _middle(values, confidence)


def _middle(values: Sequence[float] | Array, confidence: float) -> tuple[float, float]:
    """The bounds between which the middle share of resampled values lies."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
