"""From logits to one number.

Averages: ``macro`` is the plain mean over classes, ``weighted`` the mean weighted by how often a
class occurs in the labels. For a single label, the classes are those that occur in the labels or in
the predictions; for multi-label, they are all the labels. A precision or recall with nothing to
divide by is 0. Multi-label accuracy counts a row as right if every label of it is; multi-label
``mcc`` is taken over all decisions, row by label, as one binary problem. What counts as an entity
is told in :mod:`hfprune.measure.entities`, how texts are ranked in
:mod:`hfprune.measure.ranking`, what embeddings keep in :mod:`hfprune.measure.embeddings`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hfprune.core.arrays import row_parts
from hfprune.core.errors import DataError, RecipeError, TrainingError
from hfprune.core.tasks import (
    ADDED_METRICS,
    EMBEDDING_METRICS,
    METRICS,
    ONE_OUTPUT,
    RANKING_METRICS,
    WITHOUT_CLASSES,
    Task,
)
from hfprune.measure.embeddings import scorer as embedding_scorer
from hfprune.measure.entities import row_counts, score_counts
from hfprune.measure.ranking import scorer as ranking_scorer

Array = npt.NDArray[Any]
Scorer = Callable[[Array, Array], float]


def predict(logits: Array, task: Task, num_labels: int) -> Array:
    """Turn a model's output into predictions.

    Args:
        logits: Floats of shape ``(rows, num_labels)``; for regression and reranking also
            ``(rows,)``, for tokens ``(rows, length, num_labels)``.
        task: The recipe's task.
        num_labels: The size of the model's output.

    Returns:
        int64 ``(rows,)``, the largest logit's class (``(rows, length)`` for tokens); int64 0/1
        ``(rows, num_labels)``, 1 where the sigmoid is above 0.5; or float64 ``(rows,)``, of
        embeddings ``(rows, num_labels)``, as they are.

    Raises:
        DataError: The shape is another one, or the task unknown.
        TrainingError: The logits hold NaN.
    """
    logits = _checked(logits, task, num_labels)
    if task == "multi_label_classification":
        # sigmoid(x) > 0.5 exactly where x > 0.
        return (logits > 0).astype(np.int64)
    if task in ONE_OUTPUT:
        return logits[:, 0].astype(np.float64)
    if task == "sentence_embedding":
        return logits.astype(np.float64)
    found = np.empty(logits.shape[:-1], dtype=np.int64)
    for part in row_parts(logits):
        found[part] = logits[part].argmax(axis=-1)
    return found


def flags(logits: Array, labels: Array, num_labels: int) -> tuple[npt.NDArray[np.bool_], ...]:
    """Multi-label predictions and truth as bool ``(rows, num_labels)``, an eighth of numbers.

    Raises:
        DataError, TrainingError: As :func:`predict`, or labels of another shape.
    """
    predictions = _checked(logits, "multi_label_classification", num_labels) > 0
    return predictions, _same_rows(predictions, labels) >= 1


def _checked(logits: Array, task: Task, num_labels: int) -> Array:
    logits = np.asarray(logits)
    check_task(task)
    if task in ONE_OUTPUT and logits.ndim == 1:
        logits = logits[:, None]
    tokens = task == "token_classification"
    if logits.ndim != 2 + tokens or logits.shape[-1] != num_labels:
        shape = f"(rows, {'length, ' if tokens else ''}{num_labels})"
        raise DataError(
            f"logits have the shape {logits.shape}; expected {shape} for {task}: the "
            "model's num_labels must be that of the data"
        )
    if task in ONE_OUTPUT and num_labels != 1:
        raise DataError(f"{task} has one output a row; got num_labels = {num_labels}")
    within = tuple(range(1, logits.ndim))
    parts = row_parts(logits)
    broken = sum(int(np.isnan(logits[part]).any(axis=within).sum()) for part in parts)
    if broken:
        raise TrainingError(
            f"the model gives NaN for {broken} of {len(logits)} rows: its training has diverged; "
            "try a lower learning rate, or bf16 in place of fp16"
        )
    return logits


def is_correct(logits: Array, labels: Array, task: Task, num_labels: int) -> npt.NDArray[np.bool_]:
    """Tell which rows are right, bool ``(rows,)``; multi-label: every label of the row is.

    Raises:
        DataError: As :func:`predict`; also for regression, where no row is right or wrong.
    """
    if task in (*WITHOUT_CLASSES, "token_classification"):
        raise DataError(f"no row of a {task} is right or wrong: use a classification task")
    if task == "multi_label_classification":
        said, truth = flags(logits, labels, num_labels)
        return np.asarray((said == truth).all(axis=1))
    predictions = predict(logits, task, num_labels)
    return np.asarray(predictions == check_labels(predictions, labels))


def check_task(task: str) -> None:
    if task not in METRICS:
        raise DataError(f"task is {task!r}; expected one of {', '.join(METRICS)}")


def check_labels(predictions: Array, labels: Array, task: Task | None = None) -> Array:
    if task == "reranking":
        return _check_ranked(predictions, labels)
    labels = _same_rows(predictions, labels)
    # Trainer hands multi-label flags back as floats.
    return labels if predictions.dtype.kind == "f" else labels.astype(np.int64)


def _check_ranked(scores: Array, labels: Array) -> Array:
    """Relevance and query of each row."""
    labels = np.asarray(labels, dtype=np.float64)
    if labels.shape != (len(scores), 2) or len(scores) == 0:
        raise DataError(
            f"labels have the shape {labels.shape}, scores {scores.shape}; expected (rows, 2), "
            "relevance and query, of the same rows"
        )
    return labels


def _same_rows(predictions: Array, labels: Array) -> Array:
    labels = np.asarray(labels)
    if predictions.ndim == 1 and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != predictions.shape:
        raise DataError(
            f"labels have the shape {labels.shape}, predictions {predictions.shape}: they must "
            "belong to the same rows"
        )
    if len(labels) == 0:
        raise DataError("there are no rows to measure")
    return labels


def _accuracy(predictions: Array, labels: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _averaged(kind: str, average: str) -> Scorer:
    def scorer(predictions: Array, labels: Array) -> float:
        from sklearn.metrics import f1_score, precision_score, recall_score

        function = {"f1": f1_score, "precision": precision_score, "recall": recall_score}[kind]
        options: dict[str, Any] = {"average": average, "zero_division": 0.0}
        if labels.ndim == 2 and labels.shape[1] == 1:
            # scikit-learn takes one column of flags for two classes, and would average over both.
            labels, predictions = labels[:, 0], predictions[:, 0]
            options["labels"] = [1]
        return float(function(labels, predictions, **options))

    return scorer


def _mcc(predictions: Array, labels: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels.ravel(), predictions.ravel()))


def _correlation(kind: str) -> Scorer:
    def scorer(predictions: Array, labels: Array) -> float:
        from scipy import stats

        # Undefined without spread. 0.0 says "explains nothing", and training can go on.
        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0
        function = stats.pearsonr if kind == "pearson" else stats.spearmanr
        value = float(function(predictions, labels)[0])
        return 0.0 if math.isnan(value) else value

    return scorer


def _mse(predictions: Array, labels: Array) -> float:
    return float(np.mean(np.square(predictions - labels)))


# Every scorer takes predictions as `predict` returns them, and labels of the same shape.
SCORERS: Mapping[str, Scorer] = {
    "accuracy": _accuracy,
    **{
        f"{kind}_{average}": _averaged(kind, average)
        for kind in ("f1", "precision", "recall")
        for average in ("macro", "weighted")
    },
    "mcc": _mcc,
    "pearson": _correlation("pearson"),
    "spearman": _correlation("spearman"),
    "mse": _mse,
    **{name: ranking_scorer(name) for name in RANKING_METRICS},
    **{name: embedding_scorer(name) for name in EMBEDDING_METRICS},
}


def scorer_of(name: str) -> Scorer:
    """What computes a metric of whole rows: one of ours, or one that was added."""
    return SCORERS[name] if name in SCORERS else ADDED_METRICS.get(name).function


def quietly(scorer: Scorer, predictions: Array, labels: Array) -> float:
    # What the libraries would warn of (a class that never occurs, nearly constant input) is
    # settled by the rules at the top of this file.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scorer(predictions, labels)


def score(
    name: str,
    logits: Array,
    labels: Array,
    task: Task,
    num_labels: int,
    label_names: Sequence[str] = (),
) -> float:
    """Compute one of our metrics directly, without the ``evaluate`` module around it.

    For :func:`bootstrap_interval`, with ``functools.partial`` or a lambda. Arguments and errors are
    those of :func:`compute`.
    """
    check_task(task)
    if name not in METRICS[task]:
        raise RecipeError(not_for(name, task))
    predictions = predict(logits, task, num_labels)
    references = check_labels(predictions, labels, task)
    if task == "token_classification":
        return score_counts(name, row_counts(name, predictions, references, label_names))
    return quietly(scorer_of(name), predictions, references)


def token_counts(name: str, logits: Array, labels: Array, label_names: Sequence[str]) -> Array:
    """What each row adds to a metric for tokens; ``entities.score_counts`` sums it up.

    Args:
        name: One of the metrics for tokens.
        logits: ``(rows, length, labels)``.
        labels: ``(rows, length)``.
        label_names: Tags.

    Returns:
        int64 ``(rows, 3)``; of a metric that was added, what :func:`entities.row_counts` says.
    """
    predictions = predict(logits, "token_classification", len(label_names))
    return row_counts(name, predictions, check_labels(predictions, labels), label_names)


def not_for(name: str, task: Task) -> str:
    return f"{name!r} is not a metric for {task}; choose from {', '.join(METRICS[task])}"
