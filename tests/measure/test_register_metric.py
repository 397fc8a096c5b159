"""Metrics from outside: in a recipe, computed, with intervals, and for choosing checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hfprune.core import tasks
from hfprune.core.errors import ExtensionError, RecipeError
from hfprune.core.tasks import DEFAULT_METRICS, LOWER_IS_BETTER, METRICS, Metric, register_metric
from hfprune.measure.entities import score_counts
from hfprune.measure.intervals import interval
from hfprune.measure.metrics import compute
from hfprune.measure.scores import score, token_counts
from hfprune.recipe.reading import parse_recipe

SINGLE = "single_label_classification"


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.ADDED_METRICS, "_values", dict(tasks.ADDED_METRICS._values))


def error_rate(predictions: Any, labels: Any) -> float:
    return float(np.mean(predictions != labels))


def recipe_text(task: str, metric: str, best: str = "null") -> str:
    column = "label" if task != "image_classification" else "label, image_column: image"
    return (
        f"model: {{name_or_path: m}}\ntask: {task}\n"
        f"data: {{train_file: a.csv, label_column: {column}}}\npruning: {{sparsity: 0.5}}\n"
        f"output_dir: out\nevaluation: {{metrics: [{metric}]}}\n"
        f"training: {{metric_for_best_model: {best}}}\n"
    )


def test_a_recipe_may_name_it_and_knows_which_way_is_better() -> None:
    with pytest.raises(RecipeError, match="'error_rate' is not a metric of task single_label"):
        parse_recipe(recipe_text(SINGLE, "error_rate"))
    assert "error_rate" not in LOWER_IS_BETTER
    register_metric("error_rate", Metric((SINGLE,), error_rate, greater_is_better=False))
    recipe = parse_recipe(recipe_text(SINGLE, "error_rate", "error_rate"))
    assert recipe.evaluation.metrics == ["error_rate"]
    assert recipe.training.metric_for_best_model == "error_rate"
    assert recipe.training.greater_is_better is False
    assert set(LOWER_IS_BETTER) == {"loss", "divergence", "mse", "error_rate"}
    # Images have one label each too; other tasks do not, and the usual metrics stay the usual.
    parse_recipe(recipe_text("image_classification", "error_rate"))
    with pytest.raises(RecipeError, match=r"is not a metric of task regression\. Choose from pear"):
        parse_recipe(recipe_text("regression", "error_rate"))
    assert METRICS["regression"] == DEFAULT_METRICS["regression"]


def test_one_label_is_computed_and_resampled() -> None:
    register_metric("error_rate", Metric(("image_classification",), error_rate, False))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    logits = rng.normal(size=(200, 3)) + 2 * np.eye(3)[labels]
    wrong = float(np.mean(logits.argmax(1) != labels))
    found = compute(logits, labels, ["error_rate", "accuracy"], SINGLE, 3)
    assert found == pytest.approx({"error_rate": wrong, "accuracy": 1 - wrong})
    assert score("error_rate", logits, labels, SINGLE, 3) == pytest.approx(wrong)
    low, high = interval("error_rate", logits, labels, SINGLE, 3)
    # The normal approximation, as an oracle for a share of 200 rows.
    half = 1.96 * (wrong * (1 - wrong) / 200) ** 0.5
    assert low == pytest.approx(wrong - half, abs=0.01)
    assert high == pytest.approx(wrong + half, abs=0.01)


def test_several_labels_and_numbers() -> None:
    register_metric("worst", Metric(("regression",), lambda p, t: float(abs(p - t).max()), False))
    logits, labels = np.array([[1.0], [2.0], [4.0]]), np.array([1.5, 2.0, 2.0])
    assert compute(logits, labels, ["worst"], "regression", 1) == {"worst": 2.0}
    register_metric("flags", Metric(("multi_label_classification",), lambda p, t: float(p.sum())))
    logits, labels = np.array([[1.0, -1.0], [2.0, 3.0]]), np.array([[1, 0], [0, 1]])
    found = compute(logits, labels, ["flags"], "multi_label_classification", 2)
    assert found == {"flags": 3.0}


def test_tokens_are_given_as_tags() -> None:
    seen = []

    def shares(predictions: Any, labels: Any) -> float:
        seen.append((predictions, labels))
        return float(
            np.mean([mine == theirs for mine, theirs in zip(predictions, labels, strict=True)])
        )

    register_metric("whole_rows", Metric(("token_classification",), shares))
    names = ["O", "B-PER", "I-PER"]
    labels = np.array([[1, 2, -100], [0, -100, 0], [0, 1, 0]])
    said = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 0]])
    logits = np.eye(3)[said]
    about: Any = ("token_classification", 3, names)
    assert compute(logits, labels, ["whole_rows", "entity_f1"], *about)["whole_rows"] == (
        pytest.approx(2 / 3)
    )
    assert seen[-1] == (
        [["B-PER", "I-PER"], ["O", "B-PER"], ["O", "B-PER", "O"]],
        [["B-PER", "I-PER"], ["O", "O"], ["O", "B-PER", "O"]],
    )
    assert score("whole_rows", logits, labels, *about) == pytest.approx(2 / 3)
    counts = token_counts("whole_rows", logits, labels, names)
    assert score_counts("whole_rows", counts[[1, 1]]) == 0.0
    assert interval("whole_rows", logits, labels, *about, n=200) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("accuracy", Metric((SINGLE,), error_rate), "is hfprune's own: choose another name"),
        ("loss", Metric((SINGLE,), error_rate), "is hfprune's own"),
        ("a/b", Metric((SINGLE,), error_rate), "expected lower-case letters, digits and underl"),
        ("rate", error_rate, "expected a hfprune.core.tasks.Metric"),
        ("rate", Metric(("ranking",), error_rate), r"\('ranking',\); expected some of single_l"),
        ("rate", Metric((), error_rate), "expected some of single_label_classification, multi"),
        ("rate", Metric((SINGLE,), 0.5), "holds 0.5; expected a function"),
    ],
)
def test_what_is_no_metric_is_refused(name: str, metric: Any, message: str) -> None:
    with pytest.raises(ExtensionError, match=message):
        register_metric(name, metric)
