"""Tagged words: predictions as tags, and scores of whole entities by seqeval.

An entity is right if its first word, its last word and its type all are. Tags are read as conlleval
reads them (``B-X`` begins an entity, ``I-X`` goes on with it, and begins one after another type or
``O``), which is seqeval's default; IOB1, IOE and IOBES tags are understood too. Precision, recall
and F1 are micro averages over entities, 0 where there is nothing to divide by.

Ramshaw and Marcus (1995), Text chunking using transformation-based learning; Tjong Kim Sang and
De Meulder (2003), Introduction to the CoNLL-2003 shared task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import DataError, MissingExtraError
from hfprune.core.tasks import ADDED_METRICS, TOKEN_METRICS
from hfprune.data.words import IGNORED

ENTITY_METRICS: Final = ("entity_f1", "entity_precision", "entity_recall")
INSTALL_HINT: Final = 'pip install "hfprune[ner]"'
_PREFIXES: Final = frozenset("BIOESUL")


def check_seqeval() -> Any:
    """The seqeval package.

    Raises:
        MissingExtraError: without it.
    """
    try:
        import seqeval.metrics
    except ImportError as error:
        raise MissingExtraError(
            f"scores of entities need seqeval: {INSTALL_HINT} ({error})"
        ) from error
    return seqeval


def check_tags(names: Sequence[str]) -> None:
    """Refuse tags that mark no entities.

    Raises:
        DataError: if a tag is neither ``O`` nor a prefix and a type.
    """
    for name in names:
        prefix, dash, kind = name.partition("-")
        if name != "O" and not (prefix in _PREFIXES and dash and kind):
            raise DataError(
                f"the tag {name!r} marks no entity: expected O or a prefix and a type, such as "
                "B-PER and I-PER. If tags stand for numbers, give data.label_names; if they mark "
                "no entities (parts of speech), set evaluation.metrics: [token_accuracy]"
            )


def as_tags(
    predictions: NDArray[Any], labels: NDArray[Any], names: Sequence[str]
) -> tuple[list[list[str]], list[list[str]]]:
    """Predicted and true tags of the words that count.

    Args:
        predictions, labels: class numbers ``(rows, length)``; -100 in ``labels`` is passed over.
        names: of the classes.
    """
    guessed, true = [], []
    for mine, theirs in zip(predictions, labels, strict=True):
        counts = theirs != IGNORED
        guessed.append([names[number] for number in mine[counts]])
        true.append([names[number] for number in theirs[counts]])
    return guessed, true


def score_tags(
    name: str, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> float:
    """A metric for tokens: ours by seqeval, or one that was added. Arguments are tags by row."""
    mine, theirs = [list(row) for row in predictions], [list(row) for row in references]
    if name not in TOKEN_METRICS:
        return float(ADDED_METRICS.get(name).function(mine, theirs))
    metrics = check_seqeval().metrics
    if name == "token_accuracy":
        return float(metrics.accuracy_score(theirs, mine))
    function = {
        "entity_f1": metrics.f1_score,
        "entity_precision": metrics.precision_score,
        "entity_recall": metrics.recall_score,
    }[name]
    return float(function(theirs, mine, average="micro", zero_division=0))


def row_counts(
    name: str, predictions: NDArray[Any], labels: NDArray[Any], names: Sequence[str]
) -> NDArray[Any]:
    """What each row adds to a metric, so that resamples of rows cost a sum.

    Returns:
        int64 ``(rows, 3)``: right, predicted, true. Entities, or words for ``token_accuracy``. Of a
        metric that was added, of which no more is known: objects ``(rows, 2)``, the tags
        themselves.
    """
    guessed, true = as_tags(predictions, labels, names)
    if name not in TOKEN_METRICS:
        tags = np.empty((len(true), 2), dtype=object)
        for row, pair in enumerate(zip(guessed, true, strict=True)):
            tags[row, 0], tags[row, 1] = pair
        return tags
    found = np.zeros((len(true), 3), dtype=np.int64)
    if name == "token_accuracy":
        for row, (mine, theirs) in enumerate(zip(guessed, true, strict=True)):
            right = sum(a == b for a, b in zip(mine, theirs, strict=True))
            found[row] = right, len(theirs), len(theirs)
        return found
    check_seqeval()
    from seqeval.metrics.sequence_labeling import get_entities

    for row, (mine, theirs) in enumerate(zip(guessed, true, strict=True)):
        mine_found, theirs_found = set(get_entities(mine)), set(get_entities(theirs))
        found[row] = len(mine_found & theirs_found), len(mine_found), len(theirs_found)
    return found


def score_counts(name: str, counts: NDArray[Any]) -> float:
    """A metric from the counts of :func:`row_counts`; equal to :func:`score_tags` of the rows."""
    if name not in TOKEN_METRICS:
        return score_tags(name, counts[:, 0].tolist(), counts[:, 1].tolist())
    right, guessed, true = (float(value) for value in counts.sum(axis=0))
    precision = right / guessed if guessed else 0.0
    recall = right / true if true else 0.0
    if name == "entity_f1":
        return 2 * precision * recall / (precision + recall) if right else 0.0
    return recall if name == "entity_recall" else precision
