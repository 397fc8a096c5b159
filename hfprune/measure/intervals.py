"""How far to trust a number.

Intervals speak about the test set being a sample. They say nothing of how much another training
seed would change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from hfprune.core.errors import DataError, RecipeError
from hfprune.core.tasks import ADDED_METRICS, METRICS, Task
from hfprune.measure.resampling import counted, table_values, units
from hfprune.measure.scores import Array, Scorer, check_labels, is_correct, not_for, predict

# How many row numbers of resamples are held at once: 16 MB.
_ROWS_AT_ONCE = 2_000_000


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

    The model's output is counted once, and counts are resampled
    (:mod:`hfprune.measure.resampling`): a thousand classes and 20,000 rows take seconds. Of metrics
    that were added the predictions of the rows are resampled. Of reranking, queries are drawn.
    Arguments and errors as :func:`compute` and :func:`bootstrap_interval`.
    """
    if name not in METRICS[task]:
        raise RecipeError(not_for(name, task))
    _quantile(confidence)
    if name == "accuracy":
        right = is_correct(logits, labels, task, num_labels)
        return wilson_interval(int(right.sum()), len(right), confidence)
    _check_resamples(len(np.asarray(logits)), len(np.asarray(labels)), n)
    size = _units(name, labels, task)
    one_label = task in ("single_label_classification", "image_classification")
    if one_label and name not in ADDED_METRICS:
        predictions = predict(logits, task, num_labels)
        truth = check_labels(predictions, labels)
        return _middle(table_values(name, predictions, truth, num_labels, n, seed), confidence)
    values_of = counted(name, logits, labels, task, num_labels, label_names)
    values = [values_of(rows) for rows in _resamples(size, n, seed)]
    return _middle(np.concatenate(values), confidence)


def paired_interval(
    name: str,
    logits_a: Array,
    logits_b: Array,
    labels: Array,
    task: Task,
    num_labels: int,
    label_names: Sequence[str] = (),
    confidence: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return one of our metrics of model a minus that of b, and an interval for it.

    What :func:`paired_difference` (accuracies of whole rows) and :func:`paired_bootstrap` (all
    else) return for the metric, from counts made once. Arguments and errors as :func:`interval`.

    Returns:
        ``(difference, low, high)``.
    """
    if name not in METRICS[task]:
        raise RecipeError(not_for(name, task))
    _check_same_rows(logits_a, logits_b)
    both = (logits_a, logits_b)
    if name == "accuracy":
        first, second = (is_correct(one, labels, task, num_labels) for one in both)
        return paired_difference(first, second, confidence)
    _quantile(confidence)
    _check_resamples(len(np.asarray(logits_a)), len(np.asarray(labels)), n)
    size = _units(name, labels, task)
    first_of, second_of = (
        counted(name, one, labels, task, num_labels, label_names) for one in both
    )
    values = [first_of(rows) - second_of(rows) for rows in _resamples(size, n, seed)]
    every = np.arange(size)[None]
    low, high = _middle(np.concatenate(values), confidence)
    return float((first_of(every) - second_of(every))[0]), low, high


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

    For any function of rows; for our own metrics :func:`paired_interval` gives the same in less
    time. Arguments and errors as :func:`bootstrap_interval`.

    Returns:
        ``(difference, low, high)``.
    """
    logits_a, logits_b, labels = np.asarray(logits_a), np.asarray(logits_b), np.asarray(labels)
    _check_same_rows(logits_a, logits_b)

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
    _check_resamples(rows, labels, n)
    values = [resampled(places) for block in _resamples(rows, n, seed) for places in block]
    return _middle(values, confidence)


def _resamples(rows: int, n: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of the resamples, a few at a time; the same for every function that asks."""
    rng = np.random.default_rng(seed)
    step = max(1, min(64, _ROWS_AT_ONCE // rows))
    for start in range(0, n, step):
        yield np.stack([rng.integers(0, rows, rows) for _ in range(min(step, n - start))])


def _check_resamples(rows: int, labels: int, n: int) -> None:
    if rows != labels or rows == 0 or n < 1:
        raise DataError(
            f"got {rows} rows of logits, {labels} labels and {n} resamples; expected as many "
            "labels as logits, and at least one of each"
        )


def _units(name: str, labels: Array, task: Task) -> int:
    found = units(name, labels, task)
    if found == 0:
        raise DataError("no query has a relevant text, so there is nothing to rank right")
    return found


def _check_same_rows(logits_a: Array, logits_b: Array) -> None:
    if len(logits_a) != len(logits_b):
        raise DataError(
            f"got {len(logits_a)} and {len(logits_b)} rows of logits; expected the same rows"
        )


def _middle(values: Sequence[float] | Array, confidence: float) -> tuple[float, float]:
    """The bounds between which the middle share of resampled values lies."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
