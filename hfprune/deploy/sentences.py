"""Embeddings put to use: scored pairs of texts, and a search among the texts of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.data import uses
from hfprune.data.encode import tokenize
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.embeddings import directions
from hfprune.measure.intervals import bootstrap_interval, paired_bootstrap
from hfprune.measure.ranking import DEPTH, by_query

SCORED = ("scored_spearman",)
RETRIEVAL = ("retrieval_ndcg_at_10", "retrieval_recall_at_10")
# Cosines of queries and texts that are held at once: some tens of MB with what is made of them.
_COSINES = 2**20


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

    def measure(self, model: Any, collator: Any, batch_size: int) -> dict[str, Sample]:
        """:data:`SCORED` and :data:`RETRIEVAL`, as far as there are rows for them."""
        found = directions(predict_logits(model, self.rows, collator, batch_size=batch_size))
        measured: dict[str, Sample] = {}
        if self.pairs is not None:
            pairs, scores = self.pairs
            measured[SCORED[0]] = Sample(_cosines(found, pairs), scores, correlation)
        if self.search is not None:
            for name, values in zip(RETRIEVAL, by_search(found, *self.search), strict=True):
                measured[name] = Sample(values, values, _mean)
        return measured


@dataclass(frozen=True)
class Sample:
    """A metric and what it is of: independent witnesses, from which its interval is drawn.

    Attributes:
        values: float64 ``(n,)``: what the model made of each pair, or of each query.
        truth: float64 ``(n,)``: of pairs, how alike they are.
        metric: of both.
    """

    values: NDArray[Any]
    truth: NDArray[Any]
    metric: Callable[[NDArray[Any], NDArray[Any]], float]

    @property
    def value(self) -> float:
        return self.metric(self.values, self.truth)

    def interval(self, confidence: float) -> tuple[float, float]:
        """By bootstrap over pairs or queries."""
        return bootstrap_interval(self.metric, self.values, self.truth, confidence)

    def difference(self, dense: Sample, confidence: float) -> tuple[float, float, float]:
        """From another model's, with its interval: the same pairs or queries drawn for both."""
        return paired_bootstrap(self.metric, self.values, dense.values, self.truth, confidence)


def _mean(values: NDArray[Any], _: NDArray[Any]) -> float:
    return float(values.mean())


def correlation(cosines: NDArray[Any], scores: NDArray[Any]) -> float:
    """Spearman's correlation; 0.0 without spread."""
    from scipy.stats import spearmanr

    if np.ptp(cosines) == 0 or np.ptp(scores) == 0:
        return 0.0
    return float(spearmanr(cosines, scores)[0])


def _cosines(vectors: NDArray[Any], pairs: NDArray[Any]) -> NDArray[np.float64]:
    """Of texts by their rows, ``(pairs, 2)``; vectors of length 1, ``(texts, width)``."""
    first, second = vectors[pairs[:, 0]], vectors[pairs[:, 1]]
    found: NDArray[np.float64] = (first * second).sum(axis=1).astype(np.float64)
    return found


def by_search(
    vectors: NDArray[Any], pairs: NDArray[Any], relevance: NDArray[Any]
) -> NDArray[np.float64]:
    """nDCG@10 and recall@10 of each query's search among all texts, ``(2, queries)``.

    Args:
        vectors: of length 1, ``(texts, width)``.
        pairs: rows of query and text, ``(rows, 2)``.
        relevance: in [0, 1], ``(rows,)``; texts that are not named with a query have none.
    """
    order = np.argsort(pairs[:, 0], kind="stable")
    pairs, relevance = pairs[order], relevance[order]
    queries, asked = np.unique(pairs[:, 0], return_inverse=True)
    texts, place = np.unique(pairs[:, 1], return_inverse=True)
    found = vectors[texts]
    step = max(1, _COSINES // len(texts))
    values = []
    for start in range(0, len(queries), step):
        of_block = slice(*np.searchsorted(asked, [start, start + step]))
        scores = vectors[queries[start : start + step]] @ found.T
        labels = np.zeros(scores.shape)
        np.maximum.at(labels, (asked[of_block] - start, place[of_block]), relevance[of_block])
        values.append(_first_ten(scores, labels))
    return np.concatenate(values, axis=1)


def _first_ten(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """nDCG@10 and recall@10 of some queries that count, ``(2, queries)``.

    Only texts that come first, and those with a relevance, have a say: the rest is not put in
    order. Texts that score as the tenth does all stay, so that equal scores are ranked as ever.

    Args:
        scores, labels: ``(queries, texts)``.
    """
    depth = min(DEPTH, scores.shape[1])
    least = np.partition(scores, -depth, axis=1)[:, [-depth]]
    numbers, texts = np.nonzero(~(scores < least) | (labels > 0))  # NaN is kept, and seen
    told = np.stack([labels[numbers, texts], numbers], axis=1)
    chosen = scores[numbers, texts]
    return np.stack([by_query(f"{name}_at_{DEPTH}", chosen, told) for name in ("ndcg", "recall")])


def read_uses(
    pairs: str | None,
    search: str | None,
    processor: Any,
    max_length: int,
    prompt: str,
    search_prompts: tuple[str, str],
) -> Uses | None:
    """The rows of the files that a recipe's ``evaluation`` names; ``None`` without any.

    Args:
        pairs: file of ``sentence1``, ``sentence2``, ``score``.
        search: file of ``query``, ``text``, ``label``; grades above 1 are divided by the highest,
            as of reranking.
        processor: the tokenizer.
        max_length: most tokens of a text.
        prompt: what stands before each text of the pairs.
        search_prompts: before each query, and before each text to find.

    Raises:
        DataError: they cannot be read, hold a score that is no number, or nothing to find.
    """
    places: dict[str, int] = {}

    def rows_of(texts: Sequence[str], before: str) -> list[int]:
        return [places.setdefault(before + text, len(places)) for text in texts]

    both: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    for name, file, use, prompts in (
        ("pairs", pairs, uses.SCORED_PAIRS, (prompt, prompt)),
        ("search", search, uses.RETRIEVAL, search_prompts),
    ):
        if file is None:
            continue
        rows, numbers = uses.read_use(use, file)
        sides = (rows.texts, rows.text_pairs or [])
        chosen = np.array(list(map(rows_of, sides, prompts))).T
        both[name] = chosen, np.array(numbers)
    if not both:
        return None
    encoded, _ = tokenize(list(places), None, None, processor, max_length, "sentence_embedding")
    return Uses(encoded, both.get("pairs"), both.get("search"))
