"""The tasks, and the metrics that each allows, by name. Nothing heavy is imported.

How hfprune's own metrics are computed is told in :mod:`hfprune.measure.scores`. Others add theirs
by :func:`register_metric`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from hfprune.core.errors import ExtensionError
from hfprune.core.registry import Registry

Task: TypeAlias = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token_classification",
    "image_classification",
    "reranking",
    "sentence_embedding",
]
# Those without classes, whose model gives one number a row.
ONE_OUTPUT: Final[tuple[Task, ...]] = ("regression", "reranking")
# Those whose data have no names of labels.
WITHOUT_CLASSES: Final[tuple[Task, ...]] = (*ONE_OUTPUT, "sentence_embedding")
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
RANKING_METRICS = (
    *("ndcg_at_10", "mrr_at_10", "recall_at_10"),
    *("recall_at_1", "recall_at_5", "recall_at_100"),
)
# Of embeddings, against those of the dense model.
EMBEDDING_METRICS = ("similarity_spearman", "neighbours_at_10", "mean_cosine")
_OWN_METRICS: Final[Mapping[Task, tuple[str, ...]]] = {
    "single_label_classification": CLASSIFICATION_METRICS,
    "multi_label_classification": CLASSIFICATION_METRICS,
    "regression": ("pearson", "spearman", "mse"),
    "token_classification": TOKEN_METRICS,
    "image_classification": CLASSIFICATION_METRICS,
    "reranking": RANKING_METRICS,
    "sentence_embedding": EMBEDDING_METRICS,
}
DEFAULT_METRICS: Final[Mapping[Task, tuple[str, ...]]] = {
    "single_label_classification": ("accuracy", "f1_macro", "precision_macro", "recall_macro"),
    "multi_label_classification": ("f1_macro", "precision_macro", "recall_macro", "accuracy"),
    "regression": ("pearson", "spearman", "mse"),
    "token_classification": TOKEN_METRICS,
    "image_classification": ("accuracy", "f1_macro", "precision_macro", "recall_macro"),
    "reranking": RANKING_METRICS[:3],
    "sentence_embedding": EMBEDDING_METRICS,
}
"""Metrics computed where a recipe names none; the first one chooses the best checkpoint."""
_LOWER_IS_BETTER: Final = frozenset({"loss", "mse", "divergence"})


@dataclass(frozen=True)
class Metric:
    """A metric that is added to hfprune's own.

    Attributes:
        tasks: of recipes that may name it. Images and texts with one label each are alike: who
            serves the one serves the other.
        function: takes predictions and labels of the same rows, returns a number. One label a row
            (texts, images): int64 ``(rows,)``, class numbers. Several labels: int64 0/1 ``(rows,
            labels)``. Regression: float64 ``(rows,)``. Tokens: two lists of rows, each a list of
            tags. Reranking: scores, float64 ``(rows,)``, and float64 ``(rows, 2)``, relevance in
            [0, 1] and the number of the query; resamples are of queries. Embeddings: those of the
            model and of the dense one, float64 ``(rows, width)``. It is also called on resamples
            of the rows, a thousand times for an interval.
        greater_is_better: whether more of it is better.
    """

    tasks: tuple[Task, ...]
    function: Callable[[Any, Any], float]
    greater_is_better: bool = True


def _check(name: str, metric: Any) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ExtensionError(
            f"{name!r} cannot be the name of a metric: expected lower-case letters, digits and "
            "underlines, such as top2_accuracy"
        )
    if name in ("loss", "divergence") or any(name in names for names in _OWN_METRICS.values()):
        raise ExtensionError(f"the metric {name!r} is hfprune's own: choose another name")
    if not isinstance(metric, Metric):
        raise ExtensionError(
            f"the metric {name!r} is given {metric!r}; expected a hfprune.core.tasks.Metric"
        )
    unknown = [task for task in metric.tasks if task not in get_args(Task)]
    if unknown or not metric.tasks:
        raise ExtensionError(
            f"the metric {name!r} is for the tasks {metric.tasks!r}; expected some of "
            f"{', '.join(get_args(Task))}"
        )
    if not callable(metric.function):
        raise ExtensionError(f"the metric {name!r} holds {metric.function!r}; expected a function")


ADDED_METRICS: Final = Registry[Metric]("metric", "metrics", check=_check)
"""Metrics that others have added."""


def register_metric(name: str, metric: Metric, *, replace: bool = False) -> None:
    """Add a metric for ``evaluation.metrics`` and ``training.metric_for_best_model``.

    Args:
        name: as recipes spell it: lower-case letters, digits and underlines.
        metric: its tasks, its direction and what computes it.
        replace: whether it may take the place of another that was added.

    Raises:
        ExtensionError: for another kind of value, and for a name that is taken.

    Example:
        >>> def worst_error(predictions, labels):
        ...     return float(abs(predictions - labels).max())
        >>> register_metric(
        ...     "worst_error", Metric(("regression",), worst_error, greater_is_better=False)
        ... )
        >>> METRICS["regression"]
        ('pearson', 'spearman', 'mse', 'worst_error')
    """
    ADDED_METRICS.register(name, metric, replace=replace)


def _serves(name: str, task: Task) -> bool:
    """Whether an added metric is for a task; images have one label each, as texts may have."""
    return problem_of(task) in map(problem_of, ADDED_METRICS.get(name).tasks)


class _Metrics(Mapping[Task, tuple[str, ...]]):
    """Ours and what is added by now; a constant would not know what a plug-in adds later."""

    def __getitem__(self, task: Task) -> tuple[str, ...]:
        return (*_OWN_METRICS[task], *(name for name in ADDED_METRICS if _serves(name, task)))

    def __iter__(self) -> Iterator[Task]:
        return iter(_OWN_METRICS)

    def __len__(self) -> int:
        return len(_OWN_METRICS)


class _LowerIsBetter(Set[str]):
    """Ours and what is added by now."""

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        yield from sorted(_LOWER_IS_BETTER)
        for name in ADDED_METRICS:
            if not ADDED_METRICS.get(name).greater_is_better:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


METRICS: Final[Mapping[Task, tuple[str, ...]]] = _Metrics()
"""Metric names that a task allows."""
LOWER_IS_BETTER: Final[Set[str]] = _LowerIsBetter()
"""Names for ``metric_for_best_model`` whose best value is the lowest."""


def problem_of(task: Task) -> Task:
    """What the output means: a class, several, a number, a class a token, a rank or an embedding.

    Spelled as ``config.problem_type``, but for tokens and embeddings, whose models have none, and
    for reranking.
    """
    return "single_label_classification" if task == "image_classification" else task


def problem_type_of(task: Task) -> str | None:
    """What ``config.problem_type`` says of a model for a task; ``None``: nothing.

    A reranker answers yes or no, whether a text is relevant to a query: of several labels the only
    one. So its loss is the binary cross entropy, of relevance between 0 and 1 too.

    >>> problem_type_of("reranking")
    'multi_label_classification'
    """
    if task in ("token_classification", "sentence_embedding"):
        return None
    return "multi_label_classification" if task == "reranking" else problem_of(task)
