"""Intervals from counts against what they replace: scikit-learn on every resample, whole tables."""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hfprune.core.errors import DataError, RecipeError
from hfprune.core.tasks import METRICS, Task
from hfprune.measure.comparison import class_scores
from hfprune.measure.intervals import (
    bootstrap_interval,
    interval,
    paired_bootstrap,
    paired_difference,
    paired_interval,
)
from hfprune.measure.resampling import counted, table_values
from hfprune.measure.scores import is_correct, score

SINGLE: Task = "single_label_classification"
MULTI: Task = "multi_label_classification"
AVERAGED = [name for name in METRICS[SINGLE] if name != "accuracy"]
TAGS = ["O", "B-X", "I-X", "B-Y"]


def flags(density: float, seed: int, rows: int = 60, classes: int = 5) -> tuple[Any, Any, Any]:
    """Logits of two models, and true flags; the last class never occurs."""
    draw = np.random.default_rng(seed)
    labels = (draw.random((rows, classes)) < density).astype(np.float64)
    labels[:, -1] = 0
    first, second = (
        np.where(draw.random(labels.shape) < 0.8, 2 * labels - 1, 1 - 2 * labels) for _ in range(2)
    )
    return first, second, labels


def classes_of(seed: int, rows: int = 80, classes: int = 6) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(seed)
    labels = draw.choice(classes, rows, p=[0.4, 0.3, 0.15, 0.1, 0.05, 0.0])
    first, second = (
        np.eye(classes)[np.where(draw.random(rows) < 0.7, labels, draw.integers(0, classes, rows))]
        for _ in range(2)
    )
    return first, second, labels


# --- the same numbers as before -----------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METRICS[MULTI] if name != "accuracy"])
@pytest.mark.parametrize("density", [0.02, 0.6])
def test_several_labels_as_scikit_learn_on_every_resample(name: str, density: float) -> None:
    logits, other, labels = flags(density, seed=1)
    metric = functools.partial(score, name, task=MULTI, num_labels=5)
    found = interval(name, logits, labels, MULTI, 5, n=60, seed=3)
    assert found == pytest.approx(bootstrap_interval(metric, logits, labels, n=60, seed=3))
    pair = paired_interval(name, logits, other, labels, MULTI, 5, n=60, seed=3)
    assert pair == pytest.approx(paired_bootstrap(metric, logits, other, labels, n=60, seed=3))


@pytest.mark.parametrize("name", AVERAGED)
def test_pairs_of_one_label_as_scikit_learn_on_every_resample(name: str) -> None:
    logits, other, labels = classes_of(seed=2)
    metric = functools.partial(score, name, task=SINGLE, num_labels=6)
    found = paired_interval(name, logits, other, labels, SINGLE, 6, n=50, seed=4)
    assert found == pytest.approx(paired_bootstrap(metric, logits, other, labels, n=50, seed=4))


@pytest.mark.parametrize("task", [SINGLE, MULTI])
def test_pairs_of_accuracies_are_differences_of_rows(task: Task) -> None:
    logits, other, labels = classes_of(5) if task == SINGLE else flags(0.3, 5, classes=6)
    right, against = (is_correct(one, labels, task, 6) for one in (logits, other))
    found = paired_interval("accuracy", logits, other, labels, task, 6)
    assert found == paired_difference(right, against)


@pytest.mark.parametrize("name", METRICS["regression"])
@pytest.mark.parametrize("digits", [1, 9])  # with ties, and without
def test_numbers_as_scipy_on_every_resample(name: str, digits: int) -> None:
    draw = np.random.default_rng(6)
    labels = draw.normal(size=70).round(digits)
    logits, other = ((labels + draw.normal(size=70)).round(digits)[:, None] for _ in range(2))
    metric = functools.partial(score, name, task="regression", num_labels=1)
    found = interval(name, logits, labels, "regression", 1, n=50)
    assert found == pytest.approx(bootstrap_interval(metric, logits, labels, n=50))
    pair = paired_interval(name, logits, other, labels, "regression", 1, n=50)
    assert pair == pytest.approx(paired_bootstrap(metric, logits, other, labels, n=50))


@pytest.mark.parametrize("name", METRICS["token_classification"])
def test_tokens_as_seqeval_on_every_resample(name: str) -> None:
    draw = np.random.default_rng(7)
    labels = draw.integers(0, 4, (12, 5))
    labels[:, -1] = -100
    logits, other = (np.eye(4)[draw.integers(0, 4, (12, 5))] for _ in range(2))
    about: Any = ("token_classification", 4, TAGS)

    def metric(some: Any, truth: Any) -> float:
        return score(name, some, truth, *about)

    found = interval(name, logits, labels, *about, n=25)
    assert found == pytest.approx(bootstrap_interval(metric, logits, labels, n=25))
    pair = paired_interval(name, logits, other, labels, *about, n=25)
    assert pair == pytest.approx(paired_bootstrap(metric, logits, other, labels, n=25))


@pytest.mark.parametrize("name", AVERAGED)
@pytest.mark.parametrize("last", [False, True])
def test_only_cells_that_occur_are_drawn_and_the_draws_are_those_of_the_table(
    name: str, last: bool
) -> None:
    logits, _, truth = classes_of(seed=8)
    predictions = logits.argmax(1)
    if last:  # the table's last cell takes what the others leave
        truth[0] = predictions[0] = 5
    cells = np.bincount(truth * 6 + predictions, minlength=36)
    draws = np.random.default_rng(9).multinomial(80, cells / 80, size=30)
    expected = []
    for table in draws.reshape(30, 6, 6):
        pairs = np.repeat(np.arange(36), table.ravel())
        some = np.eye(6)[pairs % 6]
        expected.append(score(name, some, pairs // 6, SINGLE, 6))
    found = table_values(name, predictions, truth, 6, n=30, seed=9)
    assert found.tolist() == pytest.approx(expected)


def test_tables_are_drawn_in_pieces_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, _, truth = classes_of(seed=10)
    whole = table_values("f1_macro", logits.argmax(1), truth, 6, n=20, seed=1)
    monkeypatch.setattr("hfprune.measure.resampling._COUNTS_AT_ONCE", 50)
    pieces = table_values("f1_macro", logits.argmax(1), truth, 6, n=20, seed=1)
    assert pieces.tolist() == whole.tolist()


def test_ranks_with_ties_are_those_of_scipy() -> None:
    draw = np.random.default_rng(11)
    truth, predictions = draw.integers(0, 4, 40), draw.integers(0, 4, 40)
    value_of = counted("spearman", predictions[:, None].astype(float), truth, "regression", 1)
    rows = draw.integers(0, 40, (3, 40))
    expected = [stats.spearmanr(predictions[some], truth[some])[0] for some in rows]
    assert value_of(rows).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_resample_without_spread_counts_as_nothing_explained(name: str) -> None:
    value_of = counted(name, np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 5.0, 1.0]),
                       "regression", 1)  # fmt: skip
    assert value_of(np.array([[1, 1, 1]])).tolist() == [0.0]


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [SINGLE, MULTI])
@pytest.mark.parametrize("name", ["f1_macro", "mcc"])
def test_memory_does_not_grow_with_the_square_of_the_classes(task: Task, name: str) -> None:
    rows, classes = 4000, 1000
    draw = np.random.default_rng(0)
    labels = draw.integers(0, classes, rows)
    logits = draw.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), labels] += 4
    given = np.eye(classes, dtype=np.float32)[labels] if task == MULTI else labels
    logits -= 3 * (task == MULTI)
    tracemalloc.start()
    try:
        low, high = interval(name, logits, given, task, classes, n=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < low < high < 1
    # A hundred tables of a million cells would be 800 MB; the logits are 16 MB.
    assert peak < 150e6


def test_scores_of_many_classes_need_no_table_of_their_square() -> None:
    truth = np.arange(3000) % 1500
    logits = np.zeros((3000, 1500), dtype=np.float32)
    logits[np.arange(3000), truth] = 1
    names = [str(number) for number in range(1500)]
    tracemalloc.start()
    try:
        found = class_scores(logits, truth, SINGLE, 1500, names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found is not None
    assert found["classes"][7] == {
        "label": "7", "support": 2, "predicted": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0,
    }  # fmt: skip
    assert found["confusion"] is None
    assert peak < 15e6  # the table alone would take 18 MB


# --- refusals -----------------------------------------------------------------------------------


def test_pairs_that_do_not_fit_are_refused() -> None:
    two, three = np.eye(2), np.eye(3)[:, :2]
    with pytest.raises(DataError, match="got 3 and 2 rows of logits; expected the same rows"):
        paired_interval("f1_macro", three, two, [0, 1], SINGLE, 2)
    with pytest.raises(DataError, match="got 2 rows of logits, 2 labels and 0 resamples; expected"):
        paired_interval("f1_macro", two, two, [0, 1], SINGLE, 2, n=0)
    with pytest.raises(RecipeError, match="'mse' is not a metric for single_label"):
        paired_interval("mse", two, two, [0, 1], SINGLE, 2)
    with pytest.raises(DataError, match="confidence is 95; expected a number between 0 and 1"):
        paired_interval("mcc", two, two, [0, 1], SINGLE, 2, confidence=95)
