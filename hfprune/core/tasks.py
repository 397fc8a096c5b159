"""The tasks, and the metrics that each allows, by name. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Task: TypeAlias = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token_classification",
    "image_classification",
]
CLASSIFICATION_METRICS = (
    "accuracy",
    "f1_macro",
    "f1_weighted",
    "precision_macro",
    "precision_weighted",
    "recall_macro",
    "recall_weighted",
    "mcc",
)
TOKEN_METRICS = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")
METRICS: Final[Mapping[Task, tuple[str, ...]]] = {
    "single_label_classification": CLASSIFICATION_METRICS,
    "multi_label_classification": CLASSIFICATION_METRICS,
    "regression": ("pearson", "spearman", "mse"),
    "token_classification": TOKEN_METRICS,
    "image_classification": CLASSIFICATION_METRICS,
}
"""Metric names that a task allows."""
DEFAULT_METRICS: Final[Mapping[Task, tuple[str, ...]]] = {
    "single_label_classification": ("accuracy", "f1_macro", "precision_macro", "recall_macro"),
    "multi_label_classification": ("f1_macro", "precision_macro", "recall_macro", "accuracy"),
    "regression": ("pearson", "spearman", "mse"),
    "token_classification": TOKEN_METRICS,
    "image_classification": ("accuracy", "f1_macro", "precision_macro", "recall_macro"),
}
"""Metrics computed where a recipe names none; the first one chooses the best checkpoint."""
LOWER_IS_BETTER: Final = frozenset({"loss", "mse"})
"""Names for ``metric_for_best_model`` whose best value is the lowest."""


def problem_of(task: Task) -> Task:
    """What the output means: one class, several, a number, or a class for each token.

    Spelled as ``config.problem_type``, but for tokens, whose models have none.
    """
    return "single_label_classification" if task == "image_classification" else task
