"""Two models on the same rows, class by class and row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.tasks import WITHOUT_CLASSES, Task
from hfprune.data.words import IGNORED
from hfprune.measure.embeddings import embedding_changes
from hfprune.measure.ranking import ranking_changes
from hfprune.measure.scores import predict

# More classes than these make a confusion matrix that nobody reads.
MOST_CONFUSED = 20

# How many rows are kept, one model.
MOST_ROWS = 50


def class_scores(
    logits: NDArray[Any],
    labels: NDArray[Any],
    task: Task,
    num_labels: int,
    label_names: Sequence[str],
) -> dict[str, Any] | None:
    """Precision, recall and F1 of every class; what has nothing to divide by is 0.

    Args:
        logits, labels: as ``metrics.compute`` takes them. Of tokens the words count, each as one
            row.
        task: the recipe's.
        num_labels: the size of the model's output.
        label_names: one a class.

    Returns:
        JSON-ready: ``classes``, one entry a class with ``label``, ``support`` (rows that are of
        it), ``predicted`` (rows that are said to be), ``precision``, ``recall`` and ``f1``; and
        ``confusion``, counts by true class (rows) and predicted one (columns), ``None`` for
        several labels a row and for more than ``MOST_CONFUSED`` classes. ``None`` for regression,
        reranking and embeddings.

    Raises:
        DataError, TrainingError: as :func:`hfprune.measure.scores.predict`.
    """
    if task in WITHOUT_CLASSES:
        return None
    predicted, true = predict(logits, task, num_labels), np.asarray(labels).astype(np.int64)
    confusion = None
    if task == "multi_label_classification":
        hits, said, is_so = (predicted & true).sum(0), predicted.sum(0), true.sum(0)
    else:
        counts = true != IGNORED
        true, predicted = true[counts], predicted[counts]
        hits, said, is_so = (
            np.bincount(some, minlength=num_labels)
            for some in (true[true == predicted], predicted, true)
        )
        if num_labels <= MOST_CONFUSED:  # a table grows with the square of the classes
            table = np.zeros((num_labels, num_labels), dtype=np.int64)
            np.add.at(table, (true, predicted), 1)
            confusion = table.tolist()

    def share(part: int, whole: int) -> float:
        return round(part / whole, 6) if whole else 0.0

    return {
        "classes": [
            {
                "label": name,
                "support": int(there),
                "predicted": int(found),
                "precision": share(right, found),
                "recall": share(right, there),
                "f1": share(2 * right, found + there),
            }
            for name, right, found, there in zip(label_names, hits, said, is_so, strict=True)
        ],
        "confusion": confusion,
    }


def changes(
    before: NDArray[Any],
    after: NDArray[Any],
    labels: NDArray[Any],
    task: Task,
    num_labels: int,
    label_names: Sequence[str],
    most: int = MOST_ROWS,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one model says otherwise than another on the same rows.

    Args:
        before, after: logits of the two, as :func:`hfprune.measure.metrics.compute` takes them.
        labels: of the rows.
        task, num_labels, label_names: as for :func:`class_scores`.
        most: how many rows are returned.

    Returns:
        Two JSON-ready values. The first: ``rows``; for regression ``mean_change`` (absolute),
        else ``changed``, ``fixed`` (wrong before, right after) and ``broken`` (the reverse). The
        second: the rows that changed most, each with ``row`` (from 1) and ``label``, ``before``
        and ``after``: a name, a list of names (several labels), a number (regression). One label
        also has ``confidence``, the probabilities of the two predictions. Of tokens a row has
        ``words``: each changed word's position with these three. Of reranking see
        :func:`~hfprune.measure.ranking.ranking_changes`, of embeddings
        :func:`~hfprune.measure.embeddings.embedding_changes`.

    Raises:
        DataError, TrainingError: as :func:`hfprune.measure.scores.predict`.
    """
    old, new = (predict(logits, task, num_labels) for logits in (before, after))
    true = np.asarray(labels)
    if task == "reranking":
        return ranking_changes(old, new, true, most)
    if task == "sentence_embedding":
        return embedding_changes(old, new, most)
    if task == "regression":
        true = true.reshape(len(old)).astype(np.float64)
        moved = np.abs(new - old)
        summary: dict[str, Any] = {"rows": len(old), "mean_change": float(moved.mean())}
    else:
        true = true.astype(np.int64)
        counts = true != IGNORED
        within = tuple(range(1, true.ndim))
        differs = ((old != new) & counts).any(axis=within)
        was, is_now = (((said == true) | ~counts).all(axis=within) for said in (old, new))
        summary = {
            "rows": len(old),
            "changed": int(differs.sum()),
            "fixed": int((~was & is_now).sum()),
            "broken": int((was & ~is_now).sum()),
        }
        if task == "multi_label_classification":
            moved = np.where(differs, np.abs(_sigmoid(after) - _sigmoid(before)).max(-1), 0.0)
        elif task == "token_classification":
            moved = ((old != new) & counts).sum(-1).astype(np.float64)
        else:
            old_share, new_share = _softmax(before), _softmax(after)
            place = np.arange(len(old))
            # How far the probability of what was said before has fallen.
            moved = np.where(differs, 1 + old_share[place, old] - new_share[place, old], 0.0)

    def named(value: Any) -> Any:
        if task == "regression":
            return round(float(value), 6)
        if task == "multi_label_classification":
            return [name for name, flag in zip(label_names, value, strict=True) if flag]
        return label_names[int(value)]

    def said_of(*place: int) -> dict[str, Any]:
        return {
            "label": named(true[place]),
            "before": named(old[place]),
            "after": named(new[place]),
        }

    found = []
    for row in np.argsort(-moved, kind="stable")[:most].tolist():
        if moved[row] <= 0:
            break
        if task == "token_classification":
            # One position a word: the first token of each is what counts.
            spots = np.flatnonzero(counts[row]).tolist()
            words = [
                {"word": number, **said_of(row, spot)}
                for number, spot in enumerate(spots)
                if old[row, spot] != new[row, spot]
            ]
            found.append({"row": row + 1, "words": words})
            continue
        entry = {"row": row + 1, **said_of(row)}
        if task == "single_label_classification":
            pair = (old_share[row, old[row]], new_share[row, new[row]])
            entry["confidence"] = [round(float(value), 4) for value in pair]
        found.append(entry)
    return summary, found


def _sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = 0.5 * (1 + np.tanh(np.asarray(logits, dtype=np.float64) / 2))
    return values


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    values = np.asarray(logits, dtype=np.float64)
    shares: NDArray[np.float64] = np.exp(values - values.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return shares
