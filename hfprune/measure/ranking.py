"""How well texts are ordered for their queries: numbers of each query, and their mean.

Rows are pairs of a query and a text, with a score and a relevance in [0, 1]. Of each query the
texts are put in order of their scores; of equal scores the *less* relevant come first, so that a
model that says the same of all gains nothing. A text is relevant from
:data:`~hfprune.data.candidates.RELEVANT` on. Queries without a relevant text are left out: no order
of theirs is right or wrong.

With r_i the relevance of the text at place i (from 1):

* ``ndcg_at_10``: sum over i <= 10 of r_i / log2(i + 1), divided by that of the best order (Jarvelin
  and Kekalainen, Cumulated gain-based evaluation of IR techniques, 2002; linear gains, as in
  trec_eval);
* ``mrr_at_10``: 1 / place of the first relevant text, 0 if that is beyond 10;
* ``recall_at_10``: the fraction of the relevant texts at places up to 10; likewise at 1, 5 and 100.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import DataError
from hfprune.data.candidates import RELEVANT

Array = NDArray[Any]
DEPTH = 10


class Ranking:
    """Texts in order, query by query.

    Args:
        scores: ``(rows,)``, the greater the better.
        labels: ``(rows, 2)``: relevance in [0, 1], and the number of the query.

    Attributes:
        query: int64 ``(rows,)``, the place of each row's query among all, from 0.
        place: int64 ``(rows,)``, the row's place in the order of its query, from 0.
        relevance: float64 ``(rows,)``.
        counts: bool ``(queries,)``, whether the query has a relevant text.

    Raises:
        DataError: shapes that do not fit, or no rows.
    """

    def __init__(self, scores: Array, labels: Array) -> None:
        scores = np.asarray(scores, dtype=np.float64).reshape(-1)
        labels = np.asarray(labels, dtype=np.float64)
        if labels.ndim != 2 or labels.shape != (len(scores), 2):
            raise DataError(
                f"labels have the shape {labels.shape}, scores {scores.shape}; expected "
                "(rows, 2), relevance and query, and (rows,), of the same rows"
            )
        if len(scores) == 0:
            raise DataError("there are no rows to measure")
        self.relevance = labels[:, 0]
        distinct, self.query = np.unique(labels[:, 1], return_inverse=True)
        self._queries = len(distinct)
        self.place = self._places(-scores, self.relevance)
        self._relevant = self.relevance >= RELEVANT
        self.counts = self._sums(self._relevant) > 0

    def _places(self, *keys: Array) -> NDArray[np.int64]:
        """Places by these keys, the first counting most, ascending, within each query."""
        order = np.lexsort((*reversed(keys), self.query))
        first = np.concatenate([[0], np.cumsum(np.bincount(self.query))[:-1]])
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order)) - first[self.query[order]]
        return places

    def _sums(self, values: Array) -> NDArray[np.float64]:
        weights = values.astype(np.float64)
        sums: NDArray[Any] = np.bincount(self.query, weights=weights, minlength=self._queries)
        return sums.astype(np.float64)

    def _gain(self, place: Array) -> NDArray[np.float64]:
        return self._sums(np.where(place < DEPTH, self.relevance / np.log2(place + 2.0), 0.0))

    def ndcg(self) -> NDArray[np.float64]:
        """By query; 0 where nothing has any relevance."""
        best = self._gain(self._places(-self.relevance))
        return np.divide(self._gain(self.place), best, out=np.zeros_like(best), where=best > 0)

    def first_relevant(self) -> NDArray[np.int64]:
        """By query the place, from 0, of the relevant text that comes first; -1 without one."""
        first = np.full(self._queries, np.iinfo(np.int64).max)
        np.minimum.at(first, self.query[self._relevant], self.place[self._relevant])
        return np.where(self.counts, first, -1)

    def mrr(self) -> NDArray[np.float64]:
        """By query; 0 where there is nothing to find."""
        first = self.first_relevant()
        return np.where((first >= 0) & (first < DEPTH), 1.0 / (first + 1.0 + (first < 0)), 0.0)

    def recall(self, depth: int = DEPTH) -> NDArray[np.float64]:
        """By query, up to a place; 0 where there is nothing to find."""
        there = self._sums(self._relevant)
        found = self._sums(self._relevant & (self.place < depth))
        return np.divide(found, there, out=np.zeros_like(there), where=there > 0)


_BY_QUERY: dict[str, Callable[[Ranking], NDArray[np.float64]]] = {
    "ndcg_at_10": Ranking.ndcg,
    "mrr_at_10": Ranking.mrr,
    **{f"recall_at_{depth}": partial(Ranking.recall, depth=depth) for depth in (1, 5, 10, 100)},
}


def by_query(name: str, scores: Array, labels: Array) -> NDArray[np.float64]:
    """A metric of each query that has a relevant text, float64 ``(queries,)``, in [0, 1].

    One query with the relevances 0, 1, 1 in the order of the scores: nDCG is
    (1/log2(3) + 1/log2(4)) / (1 + 1/log2(3)) = 0.693, MRR 1/2, recall 1.

    Args:
        name: one of :data:`hfprune.core.tasks.RANKING_METRICS`.
        scores, labels: as of :class:`Ranking`.
    """
    ranking = Ranking(scores, labels)
    return _BY_QUERY[name](ranking)[ranking.counts]


def scorer(name: str) -> Callable[[Array, Array], float]:
    """The mean over queries of a metric, of scores and labels; 0.0 where no query counts."""

    def mean(scores: Array, labels: Array) -> float:
        values = by_query(name, scores, labels)
        return float(values.mean()) if len(values) else 0.0

    return mean


def rows_by_query(labels: Array) -> list[NDArray[np.int64]]:
    """The row numbers of each query, for resamples of queries."""
    _, query = np.unique(np.asarray(labels)[:, 1], return_inverse=True)
    order = np.argsort(query, kind="stable")
    return np.split(order, np.cumsum(np.bincount(query))[:-1])


def drawn_again(labels: Array, rows: list[NDArray[np.int64]], drawn: Array) -> tuple[Array, Array]:
    """The rows of drawn queries, and their labels; one that is drawn twice is two queries."""
    chosen = np.concatenate([rows[query] for query in drawn])
    numbers = np.repeat(np.arange(len(drawn)), [len(rows[query]) for query in drawn])
    return chosen, np.stack([labels[chosen, 0], numbers], axis=1)


def expected_ranking_loss(
    before: Array, after: Array, queries: Array
) -> tuple[NDArray[np.float64], int]:
    """The loss of nDCG@10 that the first model's own scores expect, query by query.

    A text's gain is its share of the softmax of its query's scores: the chance to be the answer, if
    one is. The order by the first model's scores is then the best; where texts of nearly equal
    scores change places, next to nothing is lost.

    Args:
        before, after: scores ``[rows]``.
        queries: ints ``[rows]``, the number of each row's query.

    Returns:
        float64 ``[queries]`` in [0, 1]; and of how many the first ten are others, or in another
        order.
    """
    found, changed = [], 0
    for rows in np.split(np.argsort(queries, kind="stable"), np.cumsum(np.bincount(queries))[:-1]):
        share = np.exp(before[rows] - before[rows].max())
        best = np.argsort(-before[rows], kind="stable")[:DEPTH]
        taken = np.argsort(-after[rows], kind="stable")[:DEPTH]
        weights = 1.0 / np.log2(np.arange(2, len(best) + 2))
        found.append(1.0 - float(share[taken] @ weights) / float(share[best] @ weights))
        changed += int(not np.array_equal(best, taken))
    return np.maximum(np.asarray(found), 0.0), changed


def ranking_changes(
    before: Array, after: Array, labels: Array, most: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one model ranks otherwise than another; see :func:`hfprune.measure.comparison.changes`.

    Args:
        before, after: scores of the two, ``(rows,)``.
        labels: ``(rows, 2)``.
        most: how many queries are returned.

    Returns:
        ``rows``: queries that count; ``changed``: those whose first text is another; ``fixed`` and
        ``broken``: those whose first text became, or is no longer, a relevant one. And by query,
        the most changed first: ``row`` (from 1) of the relevant text that came first before,
        ``label``, its relevance, and ``before`` and ``after``, its places in words.
    """
    old, new = Ranking(before, labels), Ranking(after, labels)
    rows = rows_by_query(labels)
    summary = {"rows": 0, "changed": 0, "fixed": 0, "broken": 0}
    moved: list[tuple[float, dict[str, Any]]] = []
    for number in np.flatnonzero(old.counts).tolist():
        mine = rows[number]
        tops = [mine[ranking.place[mine] == 0][0] for ranking in (old, new)]
        right = [bool(old.relevance[top] >= RELEVANT) for top in tops]
        summary["rows"] += 1
        summary["changed"] += int(tops[0] != tops[1])
        summary["fixed"] += int(right[1] and not right[0])
        summary["broken"] += int(right[0] and not right[1])
        relevant = mine[old.relevance[mine] >= RELEVANT]
        row = int(relevant[np.argmin(old.place[relevant])])
        places = [int(ranking.place[row]) + 1 for ranking in (old, new)]
        entry = {
            "row": row + 1,
            "label": round(float(old.relevance[row]), 6),
            "before": f"place {places[0]}",
            "after": f"place {places[1]}",
        }
        moved.append((abs(1 / places[0] - 1 / places[1]), entry))
    moved.sort(key=lambda one: -one[0])
    return summary, [entry for by, entry in moved[:most] if by > 0]
