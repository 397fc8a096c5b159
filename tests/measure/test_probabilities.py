"""Calibration error, Brier score and temperature, by hand and by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hfprune.core.errors import DataError
from hfprune.measure.probabilities import (
    Decisions,
    brier_score,
    decisions,
    expected_calibration_error,
    fit_temperature,
    quality,
    surprise,
    temperature_that_helps,
)


def of_shares(shares: Any, labels: Any) -> Decisions:
    return Decisions(np.log(np.asarray(shares, dtype=np.float64)), np.asarray(labels))


@pytest.mark.parametrize(
    ("shares", "labels", "ece", "brier"),
    [
        ([[0.8, 0.2], [0.8, 0.2]], [0, 1], 0.3, (0.08 + 1.28) / 2),
        ([[0.5, 0.5]], [0], 0.5, 0.5),  # half sure, and right
        ([[0.9, 0.1]] * 9 + [[0.9, 0.1]], [0] * 9 + [1], 0.0, (9 * 0.02 + 1.62) / 10),
        # Two bins: |0.6 - 1| of one, |0.9 - 0| of the other.
        ([[0.6, 0.4], [0.1, 0.9]], [0, 0], (0.4 + 0.9) / 2, (0.32 + 1.62) / 2),
    ],
)
def test_worked_values(shares: Any, labels: Any, ece: float, brier: float) -> None:
    found = of_shares(shares, labels)
    assert expected_calibration_error(found) == pytest.approx(ece)
    assert brier_score(found) == pytest.approx(brier)


def simulated(rows: int, sharpness: float, seed: int = 0) -> Decisions:
    """Labels drawn by the softmax of logits that are then made ``sharpness`` times as large."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((rows, 3))
    odds = np.exp(logits)
    shares = odds / odds.sum(1, keepdims=True)
    labels = np.array([rng.choice(3, p=share) for share in shares])
    return Decisions(sharpness * logits, labels)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(sharpness: float) -> None:
    found = simulated(4000, sharpness)
    fitted = fit_temperature(found)
    assert fitted == pytest.approx(sharpness, rel=0.08)
    grid = [surprise(found, t).mean() for t in fitted * np.array([0.97, 1.0, 1.03])]
    assert grid[1] == min(grid)
    mended = Decisions(found.logits / fitted, found.labels)
    assert expected_calibration_error(mended) < 0.03


def test_it_helps_where_it_does_on_other_rows() -> None:
    assert temperature_that_helps(simulated(500, 3.0)) == pytest.approx(3.0, rel=0.25)
    kept = [temperature_that_helps(simulated(200, 1.0, seed)) for seed in range(20)]
    assert sum(value is None for value in kept) >= 15  # noise alone seldom passes
    assert temperature_that_helps(of_shares([[0.9, 0.1]], [0])) is None  # one row
    both = of_shares([[0.9, 0.1]] * 4, [0, 0, 1, 1])
    assert temperature_that_helps(both, np.zeros(4)) is None  # all of one row


def test_of_a_model_that_is_never_wrong_nothing_is_known() -> None:
    """Every smaller temperature would look better, and logits would be twenty times as large."""
    sure = simulated(400, 1.0).logits
    right = Decisions(sure, sure.argmax(1))
    assert fit_temperature(right) == pytest.approx(1 / 20)
    assert temperature_that_helps(right) is None
    wrong = right.labels.copy()
    wrong[:8] = (wrong[:8] + 1) % 3  # eight errors of 400: now there is something to learn
    assert temperature_that_helps(Decisions(sure, wrong)) is not None


def test_no_temperature_without_end() -> None:
    assert fit_temperature(of_shares([[0.9, 0.1]] * 3, [0] * 3)) == pytest.approx(1 / 20)
    assert fit_temperature(of_shares([[0.9, 0.1]] * 3, [1] * 3)) == pytest.approx(20)


def test_decisions_of_every_task() -> None:
    assert decisions(np.zeros((2, 1)), np.zeros(2), "regression") is None
    assert quality(np.zeros((2, 1)), np.zeros(2), "regression") is None
    flags = np.array([[1.0, 0.0]])
    several = decisions(np.array([[1.0, -2.0]]), flags, "multi_label_classification")
    assert several is not None
    np.testing.assert_array_equal(several.logits, [[0, 1], [0, -2]])
    np.testing.assert_array_equal(several.labels, [1, 0])
    logits = np.arange(12.0).reshape(1, 4, 3)
    tokens = decisions(logits, np.array([[-100, 2, -100, 0, -100]]), "token_classification")
    assert tokens is not None
    np.testing.assert_array_equal(tokens.logits, [[3, 4, 5], [9, 10, 11]])
    np.testing.assert_array_equal(tokens.labels, [2, 0])


def test_what_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="there are no decisions to measure"):
        brier_score(Decisions(np.zeros((0, 2)), np.zeros(0, dtype=np.int64)))
    with pytest.raises(DataError, match="no finite numbers"):
        fit_temperature(Decisions(np.array([[np.nan, 0.0]]), np.array([0])))
