"""What embeddings are tried on besides: searches in blocks, and how relevance is read."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import ndcg_score
from tiny import tiny_tokenizer

from hfprune.core.errors import DataError
from hfprune.deploy import sentences
from hfprune.deploy.sentences import Sample, by_search, correlation, read_uses
from hfprune.measure.embeddings import directions


def search(queries: int, texts: int, seed: int = 0) -> Any:
    """Unit vectors, three pairs of each query, and their relevance."""
    rng = np.random.default_rng(seed)
    vectors = directions(rng.normal(size=(queries + texts, 8)))
    pairs = np.array([
        (query, queries + text) for query in range(queries)
        for text in rng.choice(texts, size=3, replace=False)
    ])  # fmt: skip
    relevance = np.tile([1.0, 0.5, 0.25], queries)
    order = rng.permutation(len(pairs))
    return vectors, pairs[order], relevance[order]


def by_hand(vectors: Any, pairs: Any, relevance: Any) -> tuple[float, float]:
    """scikit-learn's nDCG, and recall by sorting everything; no two scores are equal."""
    texts = sorted(set(pairs[:, 1].tolist()))
    gains, recalls = [], []
    for query in sorted(set(pairs[:, 0].tolist())):
        labels = {
            text: grade
            for (asked, text), grade in zip(pairs.tolist(), relevance, strict=True)
            if asked == query
        }
        scores = vectors[texts] @ vectors[query]
        truth = np.array([labels.get(text, 0.0) for text in texts])
        gains.append(ndcg_score(truth[None], scores[None], k=10))
        first = {texts[place] for place in np.argsort(-scores)[:10]}
        wanted = {text for text, grade in labels.items() if grade >= 0.5}
        recalls.append(len(first & wanted) / len(wanted))
    return float(np.mean(gains)), float(np.mean(recalls))


@pytest.mark.parametrize("block", [1, 100, 2**20])
@pytest.mark.parametrize(("queries", "texts"), [(1, 3), (7, 9), (40, 60)])
def test_searches_in_blocks_are_searches(
    queries: int, texts: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentences, "_COSINES", block)
    given = search(queries, texts)
    assert by_search(*given).mean(axis=1).tolist() == pytest.approx(list(by_hand(*given)), abs=1e-9)


@pytest.mark.parametrize("block", [1, 2**20])
def test_of_equal_scores_the_less_relevant_come_first(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentences, "_COSINES", block)
    vectors = np.zeros((14, 4))
    vectors[:, 0] = 1.0  # the query and 13 texts: all the same
    pairs = np.array([(0, text) for text in range(1, 14)])
    relevance = np.array([1.0] * 2 + [0.0] * 11)
    assert by_search(vectors, pairs, relevance).tolist() == [[0.0], [0.0]]
    few = by_search(vectors, pairs[:11], relevance[:11])[:, 0]  # 9 others come first
    assert few[0] == pytest.approx((1 / np.log2(11)) / (1 + 1 / np.log2(3)))
    assert few[1] == 0.5


def test_memory_does_not_grow_with_queries_times_texts() -> None:
    """Two thousand queries among six thousand texts: 12 million cosines, 96 MB in one piece."""
    given = search(2000, 6000)
    tracemalloc.start()
    try:
        by_search(*given)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48e6


def test_intervals_draw_queries_and_pairs() -> None:
    """The same ones for both models, so what both get wrong is no difference."""
    rng = np.random.default_rng(0)
    hit = rng.random(400) < 0.8
    found = Sample(hit.astype(float), hit.astype(float), lambda values, _: float(values.mean()))
    low, high = found.interval(0.95)
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / 400)
    assert (low, high) == pytest.approx((found.value - half, found.value + half), abs=0.01)
    assert found.difference(found, 0.95) == (0.0, 0.0, 0.0)
    truth = rng.normal(size=300)
    noisy, exact = (Sample(truth + noise * rng.normal(size=300), truth, correlation)
                    for noise in (1.0, 0.0))  # fmt: skip
    assert exact.interval(0.95) == pytest.approx((1.0, 1.0))
    gap, low, high = noisy.difference(exact, 0.95)
    assert gap == pytest.approx(noisy.value - 1.0)
    assert low < gap < high < 0


def rows(file: Path, labels: list[Any]) -> str:
    file.write_text("".join(
        json.dumps({"query": "good film", "text": f"a plot {n}", "label": label}) + "\n"
        for n, label in enumerate(labels)
    ))  # fmt: skip
    return str(file)


def relevance(file: str) -> list[float]:
    uses = read_uses(None, file, tiny_tokenizer(), 16, "", ("", ""))
    assert uses is not None
    assert uses.search is not None
    found: list[float] = uses.search[1].tolist()
    return found


def test_grades_are_divided_by_the_highest(tmp_path: Path) -> None:
    """As of reranking: of grades 0 to 3 those of 2 and 3 count as relevant."""
    file = tmp_path / "search.jsonl"
    assert relevance(rows(file, [0, 1, 2, 3])) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert relevance(rows(file, [0, 0.3, 1.0])) == [0, 0.3, 1.0]
    with pytest.raises(
        DataError,
        match=r"row 2, column 'label': expected how relevant the text is to its query, from 0 to 1 "
        r"or a whole grade from 0 in all rows \(the highest here is 3\), got 0.5",
    ):
        relevance(rows(file, [3, 0.5]))
    with pytest.raises(DataError, match=r"row 1, column 'label': .* got -1"):
        relevance(rows(file, [-1, 1]))
    with pytest.raises(DataError, match="no text has a label of 0.5 or more.*or grades from 0"):
        relevance(rows(file, [0, 0.4]))
