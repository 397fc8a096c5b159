"""Metrics of rankings against values worked by hand and a slow, obvious version."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from hfprune.core.errors import DataError, RecipeError
from hfprune.core.tasks import ADDED_METRICS, RANKING_METRICS, Metric, register_metric
from hfprune.deploy.choose.judge import gather
from hfprune.measure.comparison import changes, class_scores
from hfprune.measure.intervals import interval, paired_interval
from hfprune.measure.metrics import compute, make_compute_metrics
from hfprune.measure.ranking import by_query
from hfprune.measure.scores import score


def labelled(*queries: list[float]) -> Any:
    """Relevance by query -> ``(rows, 2)``."""
    return np.array([[r, q] for q, some in enumerate(queries) for r in some])


def falling(labels: Any) -> Any:
    """Scores that put each query's rows in the order in which they stand."""
    return -np.arange(len(labels), dtype=np.float64)


@pytest.mark.parametrize(
    ("relevance", "ndcg", "mrr", "recall"),
    [
        ([1, 0, 0], 1.0, 1.0, 1.0),
        ([0, 1, 0], 1 / math.log2(3), 1 / 2, 1.0),
        ([0, 1, 1], (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3)), 1 / 2, 1.0),
        ([0] * 10 + [1], 0.0, 0.0, 0.0),
        ([1] + [0] * 9 + [1, 1], 1 / (1 + 1 / math.log2(3) + 1 / 2), 1.0, 1 / 3),
        # Grades: a third is no relevant text for MRR and recall, but gains all the same.
        ([1 / 3, 1], (1 / 3 + 1 / math.log2(3)) / (1 + 1 / 3 / math.log2(3)), 1 / 2, 1.0),
        ([0.5, 0.4], 1.0, 1.0, 1.0),
    ],
)
def test_worked_values(relevance: list[float], ndcg: float, mrr: float, recall: float) -> None:
    labels = labelled(relevance)
    found = compute(falling(labels), labels, RANKING_METRICS, "reranking", 1)
    named = {"ndcg_at_10": ndcg, "mrr_at_10": mrr, "recall_at_10": recall}
    assert {name: found[name] for name in named} == pytest.approx(named)


def test_recall_at_other_places() -> None:
    labels = labelled([0, 1, 0, 0, 0, 1, 1, 0], [1] + [0] * 7)
    names = ("recall_at_1", "recall_at_5", "recall_at_10", "recall_at_100")
    found = compute(falling(labels), labels, names, "reranking", 1)
    want = [1 / 2, (1 / 3 + 1) / 2, 1.0, 1.0]
    assert [found[name] for name in names] == pytest.approx(want)


def slow(name: str, scores: Any, labels: Any) -> list[float]:
    values = []
    for query in sorted(set(labels[:, 1])):
        rows = [(s, r) for s, (r, q) in zip(scores, labels, strict=True) if q == query]
        ordered = [r for _, r in sorted(rows, key=lambda row: (-row[0], row[1]))]
        relevant = [place for place, r in enumerate(ordered) if r >= 0.5]
        if not relevant:
            continue
        if name == "ndcg_at_10":
            gains = [
                sum(r / math.log2(place + 2) for place, r in enumerate(some[:10]))
                for some in (ordered, sorted(ordered, reverse=True))
            ]
            values.append(gains[0] / gains[1])
        elif name == "mrr_at_10":
            values.append(1 / (relevant[0] + 1) if relevant[0] < 10 else 0.0)
        else:
            depth = int(name.rpartition("_")[2])
            values.append(sum(place < depth for place in relevant) / len(relevant))
    return values


def drawn(seed: int, queries: int = 30) -> tuple[Any, Any, Any]:
    """Two models' scores, with ties, and labels; rows of a query are scattered."""
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(queries), rng.integers(1, 30, queries))
    labels = np.stack([rng.integers(0, 4, len(numbers)) / 3, numbers * 7.0], axis=1)
    labels = labels[rng.permutation(len(labels))]
    scores = [(labels[:, 0] + rng.normal(size=len(labels))).round(1) for _ in range(2)]
    return scores[0], scores[1], labels


@pytest.mark.parametrize("name", RANKING_METRICS)
def test_by_query_and_mean_as_the_slow_version(name: str) -> None:
    for seed in range(5):
        scores, _, labels = drawn(seed)
        want = slow(name, scores, labels)
        assert by_query(name, scores, labels) == pytest.approx(want)
        assert score(name, scores[:, None], labels, "reranking", 1) == pytest.approx(np.mean(want))


def test_equal_scores_gain_nothing() -> None:
    labels = labelled([1, 0, 0, 0])
    assert score("mrr_at_10", np.zeros(4), labels, "reranking", 1) == 1 / 4


def test_queries_without_a_relevant_text_are_left_out() -> None:
    labels = labelled([0, 1], [0, 0.3], [1])
    assert by_query("mrr_at_10", falling(labels), labels).tolist() == [0.5, 1.0]
    nothing = labelled([0, 0.3])
    assert score("ndcg_at_10", falling(nothing), nothing, "reranking", 1) == 0.0
    with pytest.raises(DataError, match="no query has a relevant text"):
        interval("ndcg_at_10", falling(nothing), nothing, "reranking", 1)


@pytest.mark.parametrize("name", RANKING_METRICS)
def test_intervals_draw_queries(name: str) -> None:
    """The percentiles of resampled means of the queries' values, models paired."""
    first, second, labels = drawn(3)
    values = [np.array(slow(name, scores, labels)) for scores in (first, second)]
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(values[0]), len(values[0])) for _ in range(1000)]
    want = np.quantile([values[0][rows].mean() for rows in draws], [0.025, 0.975])
    assert interval(name, first, labels, "reranking", 1) == pytest.approx(tuple(want))
    gap = values[0] - values[1]
    want = np.quantile([gap[rows].mean() for rows in draws], [0.025, 0.975])
    found = paired_interval(name, first, second, labels, "reranking", 1)
    assert found == pytest.approx((gap.mean(), *want))


def test_an_added_metric_gets_whole_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ADDED_METRICS, "_values", dict(ADDED_METRICS._values))
    seen = []

    def query_count(scores: Any, labels: Any) -> float:
        seen.append(labels)
        return float(len(np.unique(labels[:, 1])))

    register_metric("query_count", Metric(("reranking",), query_count))
    scores, _, labels = drawn(1, queries=5)
    assert interval("query_count", scores, labels, "reranking", 1, n=20) == (5.0, 5.0)
    sizes = {int((labels[:, 1] == query).sum()) for query in np.unique(labels[:, 1])}
    for one in seen:
        assert {int((one[:, 1] == query).sum()) for query in np.unique(one[:, 1])} <= sizes


def test_what_the_trainer_hands_over() -> None:
    from transformers import EvalPrediction

    metric = make_compute_metrics(["mrr_at_10"], "reranking", 1)
    given = EvalPrediction(
        predictions=np.array([[0.1], [0.9], [0.2], [0.1]]),
        label_ids=(np.array([[1.0], [0.0], [1.0], [0.0]]), np.array([0, 0, 1, 1])),  # type: ignore[arg-type]
    )
    assert metric(given) == {"mrr_at_10": 0.75}


def test_labels_without_queries_and_other_metrics_are_refused() -> None:
    with pytest.raises(DataError, match=r"labels have the shape \(3,\), scores \(3,\); expected"):
        compute(np.zeros(3), np.zeros(3), ["ndcg_at_10"], "reranking", 1)
    with pytest.raises(RecipeError, match="'accuracy' is not a metric for reranking; choose from"):
        score("accuracy", np.zeros(3), labelled([1, 0, 0]), "reranking", 1)
    with pytest.raises(DataError, match="reranking has one output a row; got num_labels = 2"):
        compute(np.zeros((3, 2)), labelled([1, 0, 0]), ["ndcg_at_10"], "reranking", 2)


def test_changes_are_told_by_query() -> None:
    labels = labelled([1, 0, 0], [0, 1], [1, 0], [0, 0])
    before = np.array([3.0, 2, 1, 1, 2, 1, 2, 1, 2])
    after = np.array([1.0, 2, 3, 1, 2, 2, 1, 2, 1])
    told = partial(changes, labels=labels, task="reranking", num_labels=1, label_names=[])
    summary, rows = told(before[:, None], after[:, None])
    assert summary == {"rows": 3, "changed": 2, "fixed": 1, "broken": 1}
    assert rows == [
        {"row": 1, "label": 1.0, "before": "place 1", "after": "place 3"},
        {"row": 6, "label": 1.0, "before": "place 2", "after": "place 1"},
    ]
    assert class_scores(before[:, None], labels, "reranking", 1, []) is None


def test_the_judge_leaves_out_whole_queries() -> None:
    """With rows left out one by one, a query would lose its answer now and then."""
    labels = labelled(*([1, 0, 0, 0] for _ in range(40)))
    scores = falling(labels)[:, None]
    sizes = set()

    def metric(logits: Any, truth: Any) -> float:
        sizes.update(np.unique(truth[:, 1], return_counts=True)[1].tolist())
        return score("mrr_at_10", logits, truth, "reranking", 1)

    found = gather(scores, scores, labels, metric, units=labels[:, 1])
    assert sizes == {4}
    assert found.drop == 0.0
    # 20 groups of two queries; as if one query more differed.
    assert found.high == pytest.approx(1.729 / 40, rel=1e-3)
    alone = gather(scores[:4], scores[:4], labels[:4], metric, units=labels[:4, 1])
    assert alone.high == math.inf, "one query tells nothing of others"
