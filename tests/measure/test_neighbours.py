"""What embeddings keep of the dense model's, against SciPy and slow loops."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from hfprune.core.errors import DataError
from hfprune.core.tasks import EMBEDDING_METRICS
from hfprune.deploy.choose.differences import depends_on_batch
from hfprune.deploy.choose.judge import gather
from hfprune.deploy.sentences import by_search, correlation
from hfprune.measure import embeddings
from hfprune.measure.comparison import changes, class_scores
from hfprune.measure.intervals import interval, paired_interval
from hfprune.measure.metrics import compute
from hfprune.measure.scores import is_correct, score

TASK: Any = "sentence_embedding"


def both(rows: int = 40, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    dense = draw.normal(size=(rows, 8))
    return 3 * (dense + noise * draw.normal(size=dense.shape)), dense


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def test_metrics_by_slow_loops() -> None:
    found, dense = both()
    told = compute(found, dense, list(EMBEDDING_METRICS), TASK, 8)
    pairs = [(i, j) for i in range(40) for j in range(i)]
    mine, theirs = ([cosine(some[i], some[j]) for i, j in pairs] for some in (found, dense))
    assert told["similarity_spearman"] == pytest.approx(spearmanr(mine, theirs)[0], abs=1e-9)
    kept = 0
    for row in range(40):
        near = [
            set(sorted((j for j in range(40) if j != row),
                       key=lambda j: -cosine(some[row], some[j]))[:10])
            for some in (found, dense)
        ]  # fmt: skip
        kept += len(near[0] & near[1])
    assert told["neighbours_at_10"] == pytest.approx(kept / 400)
    want = np.mean([cosine(a, b) for a, b in zip(found, dense, strict=True)])
    assert told["mean_cosine"] == pytest.approx(want)
    assert compute(dense, dense, list(EMBEDDING_METRICS), TASK, 8) == pytest.approx(
        dict.fromkeys(EMBEDDING_METRICS, 1.0)
    )


def test_many_texts_are_compared_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, dense = both()
    whole = (
        embeddings.by_text("neighbours_at_10", found, dense),
        changes(dense, found, dense, TASK, 8, []),
    )
    monkeypatch.setattr(embeddings, "_AT_ONCE", 130)  # three rows
    np.testing.assert_array_equal(embeddings.by_text("neighbours_at_10", found, dense), whole[0])
    assert changes(dense, found, dense, TASK, 8, []) == whole[1]


def test_memory_does_not_grow_with_the_texts() -> None:
    """A thousand of 30,000 texts took 1.2 GB; both matrices whole would be 480 MB."""
    found, dense = both(30_000)
    tracemalloc.start()
    try:
        assert 0 < embeddings.scorer("neighbours_at_10")(found, dense) < 1
        embeddings.embedding_changes(dense, found, 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 250e6


def test_copies_of_a_text_are_neighbours_in_any_order() -> None:
    _, dense = both(4)
    copies = np.repeat(dense, 6, axis=0)
    shaken = copies + 1e-9 * np.random.default_rng(1).normal(size=copies.shape)
    assert score("neighbours_at_10", shaken, copies, TASK, 8) == 1.0


def test_intervals_draw_texts() -> None:
    found, dense = both(60)
    for name in EMBEDDING_METRICS:
        value = score(name, found, dense, TASK, 8)
        low, high = interval(name, found, dense, TASK, 8)
        assert low < value < high
        difference, below, above = paired_interval(name, found, dense, dense, TASK, 8)
        assert difference == pytest.approx(value - 1)
        assert below < difference < above <= 0
    # A resample of rows that each stand once has the value of these rows, ranks being of all.
    resampled = embeddings.resampled("similarity_spearman", found, dense)
    assert resampled(np.arange(60)[None])[0] == pytest.approx(
        score("similarity_spearman", found, dense, TASK, 8)
    )
    drawn = np.random.default_rng(2).integers(0, 60, 60)
    ranks = [embeddings.ranks(some) for some in embeddings.similarities(found, dense)]
    kept = [(i, j) for i in drawn for j in drawn if i != j]
    want = np.corrcoef([ranks[0][p] for p in kept], [ranks[1][p] for p in kept])[0, 1]
    assert resampled(drawn[None])[0] == pytest.approx(want)


def test_many_texts_are_asked_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MOST", 10)
    found, dense = both(41)
    assert embeddings.asked(41).tolist() == [0, 4, 9, 13, 18, 22, 27, 31, 36, 40]
    assert len(embeddings.by_text("neighbours_at_10", found, dense)) == 10
    assert embeddings.units("neighbours_at_10", 41) == 10
    assert embeddings.units("mean_cosine", 41) == 41


def test_what_changed_is_told_by_text() -> None:
    found, dense = both()
    summary, rows = changes(dense, found, dense, TASK, 8, [])
    assert summary["rows"] == 40
    assert summary["kept"] == pytest.approx(score("neighbours_at_10", found, dense, TASK, 8))
    nearest = [max((j for j in range(40) if j != rows[0]["row"] - 1),
                   key=lambda j: cosine(some[rows[0]["row"] - 1], some[j]))
               for some in (dense, found)]  # fmt: skip
    assert [rows[0]["before"] - 1, rows[0]["after"] - 1] == nearest
    assert rows[0]["label"].endswith("of 10 neighbours kept")
    assert class_scores(found, dense, TASK, 8, []) is None
    with pytest.raises(DataError, match="no row of a sentence_embedding is right or wrong"):
        is_correct(found, dense, TASK, 8)
    with pytest.raises(DataError, match="labels have the shape"):
        compute(found, dense[:, :4], ["mean_cosine"], TASK, 8)


def test_files_are_judged_by_directions() -> None:
    found, dense = both(60, noise=0.01)

    def metric(vectors: Any, labels: Any) -> float:
        return score("similarity_spearman", vectors, labels, TASK, 8)

    same = gather(dense, 2 * dense, dense, metric, vectors=True)
    assert same.drop == pytest.approx(0.0, abs=1e-12)
    assert same.high == pytest.approx(0.0, abs=1e-9)
    assert same.divergence == pytest.approx(0.0, abs=1e-12)
    moved = gather(dense, found, dense, metric, vectors=True)
    assert moved.drop > 0
    cosines = [cosine(a, b) for a, b in zip(found, dense, strict=True)]
    assert moved.divergence == pytest.approx(1 - np.mean(cosines))
    assert np.isnan(moved.expected)
    assert depends_on_batch(dense, 2 * dense, vectors=True) == 0
    assert depends_on_batch(dense, -dense, vectors=True) == 60


def test_pairs_and_searches_by_hand() -> None:
    vectors = embeddings.directions(np.array([[1.0, 0], [1, 0.1], [0, 1], [-1, 0.2]]))
    pairs = np.array([[0, 1], [0, 2], [0, 3], [2, 3]])
    scores = np.array([5.0, 2.0, 0.0, 3.0])
    cosines = [float(vectors[a] @ vectors[b]) for a, b in pairs]
    found = correlation(np.array(cosines), scores)
    assert found == pytest.approx(spearmanr(cosines, scores)[0])
    assert correlation(np.array(cosines), np.ones(4)) == 0.0
    # Query 0 finds its text first; query 2 ranks the texts 3, 1: its text is second of two.
    asked = np.array([[0, 1], [2, 1], [2, 3]])
    ndcg, recall = by_search(vectors, asked, np.array([1.0, 1.0, 0.0])).mean(axis=1)
    assert float(vectors[2] @ vectors[3]) > float(vectors[2] @ vectors[1])
    assert ndcg == pytest.approx((1.0 + 1 / np.log2(3)) / 2)
    assert recall == 1.0
