"""Metrics against values worked by hand, and against scikit-learn, SciPy and NumPy."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from hfprune.core.errors import DataError, RecipeError, TrainingError
from hfprune.core.tasks import METRICS
from hfprune.measure.intervals import (
    bootstrap_interval,
    interval,
    paired_bootstrap,
    paired_difference,
    wilson_interval,
)
from hfprune.measure.metrics import compute, load_metrics, make_compute_metrics
from hfprune.measure.resampling import counted
from hfprune.measure.scores import is_correct, predict, score

SINGLE = "single_label_classification"
MULTI = "multi_label_classification"
CLASSIFICATION = METRICS[SINGLE]


def one_hot_logits(predictions: list[int], num_labels: int) -> np.ndarray:
    return np.eye(num_labels, dtype=np.float32)[predictions]


# --- predictions ----------------------------------------------------------------------------


def test_predict_takes_the_largest_logit() -> None:
    logits = np.array([[0.1, 0.9], [2.0, -1.0]], dtype=np.float32)
    assert predict(logits, SINGLE, 2).tolist() == [1, 0]


def test_predict_multi_label_cuts_the_sigmoid_at_one_half() -> None:
    logits = np.array([[0.0, 1e-6, -3.0], [5.0, -1e-6, 0.2]])
    expected = (1 / (1 + np.exp(-logits)) > 0.5).astype(int)
    assert predict(logits, MULTI, 3).tolist() == expected.tolist() == [[0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_predict_regression_drops_the_last_axis(shape: tuple[int, ...]) -> None:
    logits = np.array([1.5, -2.0, 0.0], dtype=np.float32).reshape(shape)
    result = predict(logits, "regression", 1)
    assert result.tolist() == [1.5, -2.0, 0.0]
    assert result.dtype == np.float64


def test_predict_refuses_other_shapes_and_tasks() -> None:
    with pytest.raises(DataError, match=r"shape \(4, 3\); expected \(rows, 2\) for single_label"):
        predict(np.zeros((4, 3)), SINGLE, 2)
    with pytest.raises(DataError, match="task is 'ner'; expected one of single_label_class"):
        predict(np.zeros((4, 3)), "ner", 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="regression has one output a row; got num_labels = 2"):
        predict(np.zeros((4, 2)), "regression", 2)


@pytest.mark.parametrize("task", [SINGLE, MULTI, "regression"])
def test_predict_refuses_nan(task: str) -> None:
    width = 1 if task == "regression" else 2
    logits = np.zeros((5, width))
    logits[1, 0] = logits[3, 0] = np.nan
    with pytest.raises(TrainingError, match="the model gives NaN for 2 of 5 rows"):
        predict(logits, task, width)  # type: ignore[arg-type]


def test_is_correct() -> None:
    assert is_correct(one_hot_logits([0, 1, 1], 2), np.array([0, 0, 1]), SINGLE, 2).tolist() == [
        True,
        False,
        True,
    ]
    # Multi-label: the second row has one of its two labels wrong.
    flags = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert is_correct(np.array([[2.0, -2.0], [2.0, -2.0]]), flags, MULTI, 2).tolist() == [
        True,
        False,
    ]
    with pytest.raises(DataError, match="no row of a regression is right or wrong"):
        is_correct(np.zeros(3), np.zeros(3), "regression", 1)


# --- values ---------------------------------------------------------------------------------


def test_single_label_values_by_hand() -> None:
    # Class 0: 3 rows, 2 found, 1 false alarm. Class 1: 2 rows, 1 found, 1 false alarm. Class 2: 1
    # row, found.
    labels = np.array([0, 0, 0, 1, 1, 2])
    predictions = [0, 0, 1, 1, 0, 2]
    result = compute(one_hot_logits(predictions, 3), labels, CLASSIFICATION, SINGLE, 3)
    assert set(result) == set(CLASSIFICATION)
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["precision_macro"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result["recall_macro"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result["f1_macro"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result["f1_weighted"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2 + 1 * 1) / 6)
    # Gorodkin's R_K: (c s - sum p_k t_k) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)), all in counts.
    assert result["mcc"] == pytest.approx((4 * 6 - 14) / math.sqrt((36 - 14) * (36 - 14)))
    assert all(type(value) is float for value in result.values())


def test_multi_label_values_by_hand() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=np.float32)
    logits = np.array([[1.0, -1], [1, -1], [-1, 1], [1, -1]])
    result = compute(logits, labels, ["accuracy", *CLASSIFICATION[1:]], MULTI, 2)
    assert result["accuracy"] == pytest.approx(2 / 4)
    # Label 0: 2 hits, 1 false alarm, 0 missed. Label 1: 1 hit, 0 false alarms, 1 missed.
    assert result["precision_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert result["recall_macro"] == pytest.approx((1 + 1 / 2) / 2)
    assert result["f1_macro"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    # All 8 decisions: 3 hits, 1 false alarm, 1 missed, 3 rightly left out.
    assert result["mcc"] == pytest.approx((3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4))


def test_multi_label_with_one_label_counts_that_label_alone() -> None:
    labels = np.array([[1], [1], [0], [0]])
    logits = np.array([[1.0], [-1], [1], [-1]])
    result = compute(logits, labels, ["f1_macro", "f1_weighted", "accuracy"], MULTI, 1)
    assert result == {"f1_macro": 0.5, "f1_weighted": 0.5, "accuracy": 0.5}


def test_regression_values_by_hand() -> None:
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    logits = np.array([[2.0], [1.0], [4.0], [30.0]], dtype=np.float32)
    result = compute(logits, labels, METRICS["regression"], "regression", 1)
    assert result["mse"] == pytest.approx((1 + 1 + 1 + 26**2) / 4)
    assert result["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    centred = logits[:, 0] - logits.mean()
    spread = labels - 2.5
    expected = (centred * spread).sum() / math.sqrt((centred**2).sum() * (spread**2).sum())
    assert result["pearson"] == pytest.approx(expected)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_single_label_agrees_with_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, predictions = (list(column) for column in zip(*rows, strict=True))
    logits = one_hot_logits(predictions, 4)
    for name, function, options in [
        ("accuracy", sk.accuracy_score, {}),
        ("f1_macro", sk.f1_score, {"average": "macro", "zero_division": 0}),
        ("recall_weighted", sk.recall_score, {"average": "weighted", "zero_division": 0}),
        ("precision_macro", sk.precision_score, {"average": "macro", "zero_division": 0}),
    ]:
        expected = function(labels, predictions, **options)
        assert score(name, logits, np.array(labels), SINGLE, 4) == pytest.approx(expected)


def test_score_and_compute_are_the_same_number() -> None:
    rng = np.random.default_rng(0)
    cases = [
        (SINGLE, rng.normal(size=(60, 3)), rng.integers(0, 3, 60), 3),
        (MULTI, rng.normal(size=(60, 3)), rng.integers(0, 2, (60, 3)), 3),
        ("regression", rng.normal(size=(60, 1)), rng.normal(size=60), 1),
    ]
    for task, logits, labels, width in cases:
        names = METRICS[task]  # type: ignore[index]
        computed = compute(logits, labels, names, task, width)  # type: ignore[arg-type]
        assert list(computed) == list(names)
        for name in names:
            alone = score(name, logits, labels, task, width)  # type: ignore[arg-type]
            assert computed[name] == pytest.approx(alone, abs=1e-12)


def test_undefined_values_are_zero_and_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constant = np.zeros((4, 1))
        labels = np.array([1.0, 2.0, 3.0, 4.0])
        result = compute(constant, labels, ["pearson", "spearman"], "regression", 1)
        assert result == {"pearson": 0.0, "spearman": 0.0}
        one_row = compute(np.ones((1, 1)), labels[:1], ["pearson"], "regression", 1)
        assert one_row == {"pearson": 0.0}
        # Nothing is ever predicted as class 1.
        result = compute(
            one_hot_logits([0, 0], 2), np.array([0, 1]), ["precision_macro", "mcc"], SINGLE, 2
        )
        assert result == {"precision_macro": 0.25, "mcc": 0.0}
        nearly = np.array([1.0, 1.0, 1.0, 1.0 + 1e-15])
        assert -1 <= score("pearson", nearly, labels, "regression", 1) <= 1


def test_labels_that_do_not_fit_are_refused() -> None:
    logits = one_hot_logits([0, 1], 2)
    with pytest.raises(DataError, match=r"labels have the shape \(3,\), predictions \(2,\)"):
        compute(logits, np.zeros(3), ["accuracy"], SINGLE, 2)
    with pytest.raises(DataError, match="there are no rows to measure"):
        compute(np.zeros((0, 2)), np.zeros(0), ["accuracy"], SINGLE, 2)


# --- evaluate -------------------------------------------------------------------------------


def test_load_metrics_gives_evaluate_modules_named_like_the_metric() -> None:
    import evaluate

    metrics = load_metrics(["accuracy", "f1_macro"], SINGLE, 2)
    assert isinstance(metrics, evaluate.CombinedEvaluations)
    modules = metrics.evaluation_modules
    assert [module.name for module in modules] == ["accuracy", "f1_macro"]
    assert all(isinstance(module, evaluate.Metric) for module in modules)
    # Row by row and all at once are the same.
    for prediction, reference in [(0, 0), (1, 0), (1, 1)]:
        metrics.evaluation_modules[0].add(prediction=prediction, reference=reference)
    assert modules[0].compute() == {"accuracy": pytest.approx(2 / 3)}
    assert metrics.compute(predictions=[0, 1, 1], references=[0, 0, 1])["accuracy"] == (
        pytest.approx(2 / 3)
    )


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert compute(np.eye(2), np.array([0, 1]), ["accuracy"], SINGLE, 2) == {"accuracy": 1.0}
    assert list(tmp_path.iterdir()) == []


def test_importing_the_module_stays_light() -> None:
    code = (
        "import sys, hfprune.measure.metrics, hfprune.data\n"
        "heavy = {'evaluate', 'sklearn', 'scipy', 'datasets', 'transformers'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_every_metric_of_the_recipe_is_here() -> None:
    for task, names in METRICS.items():
        modules = load_metrics(names, task, 1 if task == "regression" else 2).evaluation_modules
        assert [module.name for module in modules] == list(names)


def test_names_that_cannot_be_had() -> None:
    with pytest.raises(RecipeError, match="'pearson' is not a metric for single_label_classifi"):
        load_metrics(["pearson"], SINGLE, 2)
    with pytest.raises(RecipeError, match="'mse' is not a metric for multi_label_classification"):
        score("mse", np.eye(2), np.eye(2), MULTI, 2)
    with pytest.raises(RecipeError, match="no metric is named; choose from accuracy, "):
        load_metrics([], SINGLE, 2)


def test_a_metric_of_the_hub_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    def offline(name: str) -> None:
        raise ConnectionError(f"Couldn't reach {name}")

    monkeypatch.setattr(evaluate, "load", offline)
    expected = (
        r"'brier_score' is none of hfprune's metrics for single_label_classification "
        r"\(accuracy, .*\), and evaluate.load\('brier_score'\) failed, which needs the Hub: "
        "ConnectionError: Couldn't reach brier_score"
    )
    with pytest.raises(RecipeError, match=expected):
        load_metrics(["brier_score"], SINGLE, 2)


def test_a_metric_of_the_hub_is_computed_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import evaluate

    class Errors(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            value = datasets.Value("int64")
            return evaluate.MetricInfo(
                description="",
                citation="",
                inputs_description="",
                features=datasets.Features({"predictions": value, "references": value}),
            )

        def _compute(self, predictions: list[int], references: list[int]) -> dict[str, object]:
            wrong = [p != r for p, r in zip(predictions, references, strict=True)]
            return {"errors": sum(wrong)} if sum(wrong) < 2 else {"errors": wrong}

    monkeypatch.setattr(evaluate, "load", lambda name: Errors(keep_in_memory=True))
    names = ["accuracy", "errors"]
    result = compute(one_hot_logits([0, 1], 2), np.array([0, 0]), names, SINGLE, 2)
    assert result == {"accuracy": 0.5, "errors": 1.0}
    with pytest.raises(DataError, match=r"the metric 'errors' gives .*; expected a single number"):
        compute(one_hot_logits([1, 1], 2), np.array([0, 0]), names, SINGLE, 2)


def test_make_compute_metrics_for_a_trainer() -> None:
    from transformers import EvalPrediction

    function = make_compute_metrics(["accuracy"], SINGLE, 2)
    logits, labels = one_hot_logits([0, 1, 1], 2), np.array([0, 1, 0])
    hidden = np.zeros((3, 5, 8))
    for predictions in (logits, (logits, hidden)):
        for _ in range(2):  # the modules inside are used again at each evaluation
            result = function(EvalPrediction(predictions=predictions, label_ids=labels))
            assert result == {"accuracy": pytest.approx(2 / 3)}
    with pytest.raises(RecipeError, match="'pearson' is not a metric"):
        make_compute_metrics(["pearson"], SINGLE, 2)


# --- intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "confidence"), [(8, 10, 0.95), (1795, 2114, 0.95), (3, 7, 0.99), (0, 20, 0.9)]
)
def test_wilson_agrees_with_scipy(right: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(right, n, confidence)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_within_0_and_1(case: tuple[int, int]) -> None:
    right, n = case
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1


def test_wilson_refuses_what_is_no_proportion() -> None:
    with pytest.raises(DataError, match="got 0 correct of 0 rows; expected 0 <= correct <= n"):
        wilson_interval(0, 0)
    with pytest.raises(DataError, match="got 11 correct of 10 rows"):
        wilson_interval(11, 10)
    with pytest.raises(DataError, match="confidence is 95; expected a number between 0 and 1"):
        wilson_interval(5, 10, 95)


def disagreeing(only_a: int, only_b: int, both: int = 3) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    b = np.array([False] * only_a + [True] * only_b + [True] * both)
    return a, b


def test_paired_difference_by_hand() -> None:
    # 10 rows: a alone right on 3, b alone on 1. Variance of the differences: 4/10 - (2/10)^2.
    a, b = disagreeing(3, 1, both=6)
    difference, low, high = paired_difference(a, b)
    half = 1.959963984540054 * math.sqrt((0.4 - 0.04) / 10)
    assert (difference, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert paired_difference(b, a)[0] == pytest.approx(-0.2)
    assert paired_difference(a, a) == (0.0, 0.0, 0.0)


def test_paired_results_must_belong_to_the_same_rows() -> None:
    for function in (paired_difference,):
        with pytest.raises(DataError, match=r"shapes \(2,\) and \(3,\); expected one bool a row"):
            function(np.ones(2, bool), np.ones(3, bool))
        with pytest.raises(DataError, match=r"shapes \(0,\) and \(0,\)"):
            function(np.ones(0, bool), np.ones(0, bool))


def test_bootstrap_is_near_the_normal_interval_of_a_mean() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 400)
    logits = one_hot_logits(
        [int(v) for v in np.where(rng.random(400) < 0.8, labels, 1 - labels)], 2
    )
    accuracy = functools.partial(score, "accuracy", task=SINGLE, num_labels=2)
    low, high = bootstrap_interval(accuracy, logits, labels, n=500, seed=1)
    expected = wilson_interval(int(accuracy(logits, labels) * 400 + 0.5), 400)
    assert (low, high) == pytest.approx(expected, abs=0.012)
    assert bootstrap_interval(accuracy, logits, labels, n=500, seed=1) == (low, high)
    assert bootstrap_interval(accuracy, logits, labels, n=500, seed=2) != (low, high)
    widths = [
        np.subtract(*bootstrap_interval(accuracy, logits, labels, confidence, n=200)[::-1])
        for confidence in (0.5, 0.9, 0.99)
    ]
    assert all(narrow < wide for narrow, wide in pairwise(widths))


def test_paired_bootstrap() -> None:
    rng = np.random.default_rng(5)
    labels = rng.normal(size=300)
    better = labels + rng.normal(scale=0.1, size=300)
    worse = better + rng.normal(scale=0.5, size=300)
    mse = functools.partial(score, "mse", task="regression", num_labels=1)
    difference, low, high = paired_bootstrap(mse, worse, better, labels, n=200)
    assert difference == pytest.approx(((worse - labels) ** 2 - (better - labels) ** 2).mean())
    assert 0 < low < difference < high
    assert paired_bootstrap(mse, better, better, labels, n=20) == (0.0, 0.0, 0.0)


def test_bootstrap_refuses_what_cannot_be_resampled() -> None:
    def metric(logits: np.ndarray, labels: np.ndarray) -> float:
        return 0.0

    with pytest.raises(DataError, match="got 3 rows of logits, 2 labels and 1000 resamples"):
        bootstrap_interval(metric, np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(DataError, match="got 2 rows of logits, 2 labels and 0 resamples"):
        bootstrap_interval(metric, np.zeros((2, 2)), np.zeros(2), n=0)
    with pytest.raises(DataError, match="got 3 and 2 rows of logits; expected the same rows"):
        paired_bootstrap(metric, np.zeros((3, 2)), np.zeros((2, 2)), np.zeros(3))


@pytest.mark.parametrize("name", METRICS["single_label_classification"])
def test_intervals_from_tables_are_those_of_rows(name: str) -> None:
    draw = np.random.default_rng(3)
    labels = draw.choice(4, 150, p=[0.5, 0.3, 0.2, 0.0])  # the last class never occurs
    predictions = np.where(draw.random(150) < 0.7, labels, draw.integers(0, 3, 150))
    logits = np.eye(4)[predictions]
    found = interval(name, logits, labels, SINGLE, 4, n=4000)
    if name == "accuracy":
        right = int((labels == predictions).sum())
        assert found == wilson_interval(right, 150)
        return
    value = counted(name, logits, labels, SINGLE, 4)(np.arange(150)[None])
    assert value[0] == pytest.approx(score(name, logits, labels, SINGLE, 4))
    rows = bootstrap_interval(
        lambda some, truth: score(name, some, truth, SINGLE, 4), logits, labels, n=400
    )
    assert found == pytest.approx(rows, abs=0.02)


def test_intervals_of_other_tasks() -> None:
    draw = np.random.default_rng(5)
    labels = draw.random(40)
    low, high = interval("pearson", (labels + 0.1 * draw.random(40))[:, None], labels,
                         "regression", 1, n=50)  # fmt: skip
    assert 0.8 < low < high <= 1
    with pytest.raises(RecipeError, match="'pearson' is not a metric for single_label"):
        interval("pearson", np.eye(2), [0, 1], SINGLE, 2)
