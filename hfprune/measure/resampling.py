"""Metrics of resampled rows, from counts that are made once.

A bootstrap asks for a metric a thousand times. What a row adds to it does not change: a prediction
and a label, a few flags, a place in a ranking. So predictions are read off the logits once, and
each resample costs a few sums over its rows, at any number of classes. The rules (what is averaged,
what is divided by nothing) are those of :mod:`hfprune.measure.scores`, and so are the values, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hfprune.core.tasks import ADDED_METRICS, Task
from hfprune.measure import embeddings
from hfprune.measure.entities import score_counts
from hfprune.measure.ranking import by_query, drawn_again, rows_by_query
from hfprune.measure.scores import (
    Array,
    check_labels,
    flags,
    predict,
    quietly,
    scorer_of,
    token_counts,
)

Rows: TypeAlias = npt.NDArray[np.int64]
Resampled: TypeAlias = Callable[[Rows], Array]
"""From row numbers ``(resamples, size)``, which may repeat, to a metric of each resample."""

# How many counts of resampled tables are held at once: 64 MB.
_COUNTS_AT_ONCE = 8_000_000
# Fewer flags than this share are cheaper to list than to multiply by, zeros and all.
_FEW = 0.1
_CLASSES_AT_ONCE = 64


def counted(
    name: str,
    logits: Array,
    labels: Array,
    task: Task,
    num_labels: int,
    label_names: Sequence[str] = (),
) -> Resampled:
    """Count a model's output once, and return the metric as a function of row numbers.

    Args:
        name: One of our metrics for the task.
        logits, labels, task, num_labels, label_names: As for
            :func:`hfprune.measure.metrics.compute`.

    Returns:
        Takes row numbers, int64 ``(resamples, size)`` (of reranking numbers of queries, see
        :func:`units`), and returns for each resample what
        :func:`hfprune.measure.scores.score` does for these rows, float64 ``(resamples,)``.

    Raises:
        DataError, TrainingError: As :func:`hfprune.measure.scores.predict`.
    """
    if task == "token_classification":
        counts = token_counts(name, logits, labels, label_names)
        return _one_by_one(lambda rows: score_counts(name, counts[rows]))
    if task == "multi_label_classification" and name not in ADDED_METRICS:
        return _of_flags(name, *flags(logits, labels, num_labels))
    predictions = predict(logits, task, num_labels)
    if task == "reranking":
        return _of_queries(name, predictions, check_labels(predictions, labels, task))
    if task == "sentence_embedding" and name not in ADDED_METRICS:
        return embeddings.resampled(name, predictions, check_labels(predictions, labels))
    if name in ADDED_METRICS:  # of which no more is known than that it takes rows
        scorer, references = scorer_of(name), check_labels(predictions, labels)
        return _one_by_one(lambda rows: quietly(scorer, predictions[rows], references[rows]))
    truth = check_labels(predictions, labels)
    if task == "regression":
        return _of_numbers(name, predictions, truth)
    return _of_classes(name, predictions, truth, num_labels)


def units(name: str, labels: Array, task: Task) -> int:
    """How many things a resample draws: rows, of reranking queries.

    Texts of one query are no independent witnesses. Of our own metrics the queries that count are
    drawn, of those that were added all.
    """
    labels = np.asarray(labels)
    if task == "sentence_embedding" and name not in ADDED_METRICS:
        return embeddings.units(name, len(labels))
    if task != "reranking" or labels.ndim != 2 or len(labels) == 0:
        return len(labels)
    if name in ADDED_METRICS:
        return len(rows_by_query(labels))
    return len(by_query(name, labels[:, 0], labels))


def _of_queries(name: str, scores: Array, labels: Array) -> Resampled:
    if name not in ADDED_METRICS:
        values = by_query(name, scores, labels)
        return lambda resamples: values[resamples].mean(axis=1)
    function, rows = scorer_of(name), rows_by_query(labels)

    def value(drawn: Rows) -> float:
        chosen, truth = drawn_again(labels, rows, drawn)
        return quietly(function, scores[chosen], truth)

    return _one_by_one(value)


def _one_by_one(value: Callable[[Rows], float]) -> Resampled:
    return lambda resamples: np.array([value(rows) for rows in resamples])


# --- one class a row --------------------------------------------------------------------------


def table_values(
    name: str, predictions: Array, truth: Array, num_labels: int, n: int, seed: int
) -> Array:
    """A metric of ``n`` resampled tables of labels against predictions.

    Drawing rows and counting them is drawing the table's cells, which are at most as many as rows.
    Only those that occur are drawn, so memory grows with the rows and not with the square of the
    classes; the draws are those of the whole table.

    Args:
        name: ``mcc``, or a precision, recall or F1.
        predictions, truth: Class numbers, ``(rows,)``.
        num_labels: How many classes there are.

    Returns:
        ``(n,)``.
    """
    codes, cells = np.unique(
        truth.astype(np.int64) * num_labels + predictions.astype(np.int64), return_counts=True
    )
    last = num_labels**2 - 1
    if codes[-1] != last:
        # The draw gives the last cell what the others leave, so it has to be there, though empty.
        codes, cells = np.append(codes, last), np.append(cells, 0)
    true_of, said_of = codes // num_labels, codes % num_labels
    by_said = np.argsort(said_of, kind="stable")
    diagonal = np.flatnonzero(true_of == said_of)
    classes, places = np.unique(np.concatenate([true_of, said_of]), return_inverse=True)
    true_of, said_of = places[: len(codes)], places[len(codes) :]

    rng = np.random.default_rng(seed)
    shares = cells / len(truth)
    values = []
    step = max(1, _COUNTS_AT_ONCE // max(len(codes), 3 * len(classes)))
    for start in range(0, n, step):
        draws = rng.multinomial(len(truth), shares, size=min(step, n - start))
        right, true, said = (np.zeros((len(draws), len(classes))) for _ in range(3))
        right[:, true_of[diagonal]] = draws[:, diagonal]
        _sum_into(true, draws, true_of)  # codes are sorted by the true class
        _sum_into(said, draws[:, by_said], said_of[by_said])
        values.append(_of_counts(name, right, true, said))
    return np.concatenate(values)


def _sum_into(sums: Array, draws: Array, sorted_classes: Array) -> None:
    """Sum neighbouring columns of one class; ``sums`` is zero where a class has none."""
    classes, begins = np.unique(sorted_classes, return_index=True)
    sums[:, classes] = np.add.reduceat(draws, begins, axis=1)


def _of_classes(name: str, predictions: Array, truth: Array, num_labels: int) -> Resampled:
    right = truth == predictions

    def value(rows: Rows) -> float:
        if name == "accuracy":
            return float(right[rows].mean())
        true, said = truth[rows], predictions[rows]
        hits = true[right[rows]]
        counts = (np.bincount(some, minlength=num_labels)[None] for some in (hits, true, said))
        return float(_of_counts(name, *(some.astype(np.float64) for some in counts))[0])

    return _one_by_one(value)


def _of_counts(name: str, right: Array, true: Array, said: Array) -> Array:
    """Scores from counts of rows: right, of the class, said to be; each ``(tables, classes)``."""
    rows = true.sum(1)
    if name == "mcc":
        top = right.sum(1) * rows - (true * said).sum(1)
        below = (rows**2 - (said**2).sum(1)) * (rows**2 - (true**2).sum(1))
        return _divided(top, np.sqrt(below))
    by_class = _by_class(name, right, true, said)
    weighted = name.endswith("_weighted")
    weights = true if weighted else ((true + said) > 0).astype(np.float64)
    return _divided((by_class * weights).sum(1), weights.sum(1))


def _by_class(name: str, right: Array, true: Array, said: Array) -> Array:
    below = {"precision": said, "recall": true, "f1": (true + said) / 2}[name.partition("_")[0]]
    return _divided(right, below)


def _divided(top: Array, below: Array) -> Array:
    return np.divide(top, below, out=np.zeros_like(top), where=below > 0)


# --- several classes a row --------------------------------------------------------------------


def _of_flags(name: str, said: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]) -> Resampled:
    """Of flags ``(rows, classes)``."""
    size, classes = there.shape
    if name == "accuracy":
        whole = (said == there).all(axis=1)
        return lambda resamples: whole[resamples].mean(axis=1)
    if name == "mcc":  # all decisions, row by class, as one binary problem
        both, some, true = (
            some_flags.sum(axis=1, dtype=np.float64) for some_flags in (said & there, said, there)
        )
        return _one_by_one(
            lambda rows: _binary_mcc(
                both[rows].sum(), some[rows].sum(), true[rows].sum(), len(rows) * classes
            )
        )
    sums_of = _FlagSums(said & there), _FlagSums(there), _FlagSums(said)

    def values(resamples: Rows) -> Array:
        times = np.stack([np.bincount(rows, minlength=size) for rows in resamples], axis=1)
        right, true, some = (sums(times.astype(np.float32)) for sums in sums_of)
        by_class = _by_class(name, right, true, some)
        if not name.endswith("_weighted"):
            mean: Array = by_class.mean(axis=1)
            return mean
        return _divided((by_class * true).sum(1), true.sum(1))

    return values


class _FlagSums:
    """Sums of flags over weighted rows, class by class, ``flags`` being ``(rows, classes)``."""

    def __init__(self, flags: npt.NDArray[np.bool_]) -> None:
        from scipy import sparse

        self._by_class: Any = np.ascontiguousarray(flags.T)
        self._few = np.count_nonzero(flags) < _FEW * flags.size
        if self._few:
            # Whole numbers below 2**24 are exact in single precision.
            self._by_class = sparse.csr_matrix(self._by_class, dtype=np.float32)

    def __call__(self, times: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Of weights ``(rows, resamples)`` the sums ``(resamples, classes)``."""
        step = self._by_class.shape[0] if self._few else _CLASSES_AT_ONCE
        sums = [
            (self._by_class[start : start + step].astype(np.float32) @ times).T
            for start in range(0, self._by_class.shape[0], step)
        ]
        return np.concatenate(sums, axis=1).astype(np.float64)


def _binary_mcc(right: float, said: float, true: float, all_of_them: float) -> float:
    below = said * (all_of_them - said) * true * (all_of_them - true)
    return float((right * all_of_them - said * true) / np.sqrt(below)) if below > 0 else 0.0


# --- numbers ----------------------------------------------------------------------------------


def _of_numbers(name: str, predictions: Array, truth: Array) -> Resampled:
    truth = truth.astype(np.float64)
    if name == "mse":
        squares = np.square(predictions - truth)
        return _one_by_one(lambda rows: float(squares[rows].mean()))
    if name == "pearson":
        return _one_by_one(lambda rows: _correlation(predictions[rows], truth[rows]))
    first, second = _Ranks(predictions), _Ranks(truth)
    return _one_by_one(lambda rows: _correlation(first(rows), second(rows)))


class _Ranks:
    """Ranks among resampled values, equal ones sharing their mean rank; sorted only once."""

    def __init__(self, values: Array) -> None:
        distinct, self._places = np.unique(values, return_inverse=True)
        self._size = len(distinct)

    def __call__(self, rows: Rows) -> npt.NDArray[np.float64]:
        places = self._places[rows]
        times = np.bincount(places, minlength=self._size)
        ranks: npt.NDArray[np.float64] = (np.cumsum(times) - (times - 1) / 2)[places]
        return ranks


def _correlation(first: Array, second: Array) -> float:
    """Pearson's; without spread there is none, and it counts as 0."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    one, two = first - first.mean(), second - second.mean()
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    value = float(one @ two)
    return 0.0 if np.isnan(value) else min(1.0, max(-1.0, value))
