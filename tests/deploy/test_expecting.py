"""What a cascade is expected to lose: by hand, and against labels that are drawn anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hfprune.deploy.predict.cascade import choose_threshold, mixed
from hfprune.deploy.predict.expecting import expected_metric

TASK = "single_label_classification"


def accuracy(logits: Any, labels: Any) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def test_worked_by_hand() -> None:
    """Of four rows two answers change: of 0.8 to 0.2, of 0.5 to 0.3; lost are 0.8 / 4."""
    slow = np.log([[0.8, 0.1, 0.1], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])
    labels = np.array([0, 1, 2, 0])  # by which the slow model is right in three
    expected = expected_metric(slow, labels, TASK, accuracy)
    assert expected(slow) == pytest.approx(0.75)
    fast = np.log([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])
    # 0.7 and 0.2 of a row, each to within a draw.
    assert expected(fast) == pytest.approx(0.75 - 0.9 / 4, abs=2 * 0.05 * 2 / 4)


def family(rng: np.random.Generator, rows: int) -> tuple[Any, Any, Any]:
    """Logits of a fast and a slow model whose probabilities are right, and labels."""
    at = rng.normal(0.0, 2.0, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-at))).astype(np.int64)
    slow = np.stack([np.zeros(rows), at], axis=1)
    seen = 0.55 * at + rng.normal(0.0, 1.2, rows)
    return np.stack([np.zeros(rows), seen], axis=1), slow, labels


def test_chosen_by_expectation_fewer_cascades_lose_more_than_allowed() -> None:
    """A hundred families of 400 validation rows, judged on 20,000 others; 0.01 is allowed."""
    allowed, too_much = 0.01, {"labels": 0, "expected": 0}
    lost: dict[str, list[float]] = {"labels": [], "expected": []}
    for number in range(100):
        rng = np.random.default_rng(number)
        fast, slow, labels = family(rng, 400)
        by_labels = lambda logits, truth=labels: accuracy(logits, truth)  # noqa: E731
        ways = {"labels": by_labels, "expected": expected_metric(slow, labels, TASK, accuracy)}
        others = family(rng, 20_000)
        for name, metric in ways.items():
            wanted = accuracy(slow, labels) - allowed
            point = choose_threshold(fast, slow, metric, wanted, 1.0, 10.0)
            assert point is not None
            logits, _ = mixed(others[0], others[1], point.threshold)
            gone = accuracy(others[1], others[2]) - accuracy(logits, others[2])
            lost[name].append(gone)
            too_much[name] += gone > 2 * allowed
    assert too_much["expected"] <= 5
    assert too_much["labels"] >= 20
    assert np.mean(lost["expected"]) == pytest.approx(allowed, abs=0.3 * allowed)
