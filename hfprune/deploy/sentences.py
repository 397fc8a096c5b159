"""Embeddings put to use: scored pairs of texts, and a search among the texts of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import DataError
from hfprune.data.encode import tokenize
from hfprune.data.readers.reading import read_files
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.embeddings import directions
from hfprune.measure.ranking import by_query
from hfprune.recipe.sections.data import DataConfig

SCORED = ("scored_spearman",)
RETRIEVAL = ("retrieval_ndcg_at_10", "retrieval_recall_at_10")


@dataclass(frozen=True)
class Uses:
    """Rows that embeddings are tried on, tokenized; each text once.

    Attributes:
        rows: of all texts.
        pairs: int64 ``(pairs, 2)``, rows of the two texts, and float64 ``(pairs,)``, how alike.
        search: int64 ``(rows, 2)``, rows of query and text, and float64 ``(rows,)``, relevance.
    """

    rows: Any
    pairs: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None
    search: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None

    def measure(self, model: Any, collator: Any, batch_size: int) -> dict[str, float]:
        """:data:`SCORED` and :data:`RETRIEVAL`, as far as there are rows for them."""
        found = directions(predict_logits(model, self.rows, collator, batch_size=batch_size))
        measured: dict[str, float] = {}
        if self.pairs is not None:
            measured |= dict(zip(SCORED, [scored(found, *self.pairs)], strict=True))
        if self.search is not None:
            measured |= dict(zip(RETRIEVAL, searched(found, *self.search), strict=True))
        return measured


def scored(vectors: NDArray[Any], pairs: NDArray[Any], scores: NDArray[Any]) -> float:
    """Spearman's correlation of cosines with scores; 0.0 without spread.

    Args:
        vectors: of length 1, ``(texts, width)``.
        pairs: rows of the two texts, ``(pairs, 2)``.
        scores: ``(pairs,)``.
    """
    from scipy.stats import spearmanr

    cosines = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1)
    if np.ptp(cosines) == 0 or np.ptp(scores) == 0:
        return 0.0
    return float(spearmanr(cosines, scores)[0])


def searched(
    vectors: NDArray[Any], pairs: NDArray[Any], relevance: NDArray[Any]
) -> tuple[float, float]:
    """nDCG@10 and recall@10 of each query's search among all texts, the mean over queries.

    Args:
        vectors: of length 1, ``(texts, width)``.
        pairs: rows of query and text, ``(rows, 2)``.
        relevance: in [0, 1], ``(rows,)``; texts that are not named with a query have none.
    """
    queries = np.unique(pairs[:, 0])
    texts, place = np.unique(pairs[:, 1], return_inverse=True)
    labels = np.zeros((len(queries), len(texts)))
    np.maximum.at(labels, (np.searchsorted(queries, pairs[:, 0]), place), relevance)
    scores = vectors[queries] @ vectors[texts].T
    numbers = np.repeat(np.arange(len(queries)), len(texts))
    told = np.stack([labels.reshape(-1), numbers], axis=1)
    means = [by_query(f"{name}_at_10", scores.reshape(-1), told) for name in ("ndcg", "recall")]
    return float(means[0].mean()), float(means[1].mean())


def read_uses(
    pairs: str | None, search: str | None, processor: Any, max_length: int, prompt: str
) -> Uses | None:
    """The rows of the files that a recipe's ``evaluation`` names; ``None`` without any.

    Args:
        pairs: file of ``sentence1``, ``sentence2``, ``score``.
        search: file of ``query``, ``text``, ``label``.
        processor: the tokenizer.
        max_length: most tokens of a text.
        prompt: what stands before each text.

    Raises:
        DataError: they cannot be read, hold a score that is no number, or nothing to find.
    """
    places: dict[str, int] = {}

    def rows_of(texts: Sequence[str]) -> list[int]:
        return [places.setdefault(text, len(places)) for text in texts]

    both: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    for name, file, columns in (
        ("pairs", pairs, ("sentence1", "sentence2", "score")),
        ("search", search, ("query", "text", "label")),
    ):
        if file is None:
            continue
        first, second, label = columns
        config = DataConfig(
            train_file=file, text_column=first, text_pair_column=second, label_column=label
        )
        rows = read_files("test", [file], config, "regression")
        numbers = [_number(rows, row, label) for row in range(len(rows.texts))]
        chosen = np.array([rows_of(rows.texts), rows_of(rows.text_pairs or [])]).T
        both[name] = chosen, np.array(numbers)
    if not both:
        return None
    if "search" in both and not (both["search"][1] >= 0.5).any():
        raise DataError(
            f"{search}: no text has a label of 0.5 or more, so there is nothing to find; give "
            "relevance from 0 to 1"
        )
    texts = [prompt + text for text in places]
    rows, _ = tokenize(texts, None, None, processor, max_length, "sentence_embedding")
    return Uses(rows, both.get("pairs"), both.get("search"))


def _number(rows: Any, row: int, column: str) -> float:
    value = rows.labels[column][row]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise DataError(f"{rows.where(row, column)}: expected a number, got {value!r:.80}")
    return number
