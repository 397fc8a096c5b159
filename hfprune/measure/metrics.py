"""Metrics as ``evaluate`` modules that work without the Hub, on scikit-learn and SciPy.

Names that are not ours (:data:`hfprune.core.tasks.METRICS`) go to ``evaluate.load``, which does
need it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hfprune.core.errors import DataError, RecipeError
from hfprune.core.tasks import METRICS, ONE_OUTPUT, Task
from hfprune.data.task_data import as_ranked
from hfprune.data.windows import mean_by_text
from hfprune.measure.entities import ENTITY_METRICS, as_tags, check_seqeval, check_tags, score_tags
from hfprune.measure.scores import (
    Array,
    check_labels,
    check_task,
    not_for,
    predict,
    quietly,
    scorer_of,
)

if TYPE_CHECKING:
    from evaluate import CombinedEvaluations, EvaluationModule
    from transformers import EvalPrediction


def load_metrics(
    names: Sequence[str], task: Task, num_labels: int, label_names: Sequence[str] = ()
) -> CombinedEvaluations:
    """Return one ``evaluate`` object that computes all named metrics.

    ``result.compute(predictions=..., references=...)`` takes predictions in the form that
    :func:`predict` returns, and gives a value for each name. Our own metrics touch neither the
    network nor the disk; they hold their rows in memory, one process each.

    For tokens, predictions and references are lists of tags, and ``label_names`` are looked at
    (where they are given) for whether they mark entities at all.

    Raises:
        RecipeError: A name is ours but for another task, or not ours and not to be had from the
            Hub.
        DataError: Entities are asked for, and the tags mark none.
        MissingExtraError: Tokens are scored without seqeval.
    """
    import evaluate

    check_task(task)
    if task == "token_classification":
        check_seqeval()
        if set(names) & set(ENTITY_METRICS):
            check_tags(label_names)
    if not names:
        raise RecipeError(f"no metric is named; choose from {', '.join(METRICS[task])}")
    modules: dict[str, EvaluationModule] = {}
    for name in names:
        if name in METRICS[task]:
            modules[name] = _offline_module(name, task, num_labels)
        elif any(name in known for known in METRICS.values()):
            raise RecipeError(not_for(name, task))
        else:
            try:
                modules[name] = evaluate.load(name)
            except Exception as error:  # the library and the network raise many unrelated classes
                raise RecipeError(
                    f"{name!r} is none of hfprune's metrics for {task} "
                    f"({', '.join(METRICS[task])}), and evaluate.load({name!r}) failed, which "
                    f"needs the Hub: {type(error).__name__}: {error}"
                ) from error
    return evaluate.combine(modules)


def _offline_module(name: str, task: Task, num_labels: int) -> EvaluationModule:
    """Build the ``evaluate.Metric`` for one of our names."""
    import datasets
    import evaluate

    value: Any
    if task in ONE_OUTPUT:
        value = datasets.Value("float64")
    elif task == "sentence_embedding":
        value = datasets.Sequence(datasets.Value("float64"))
    elif task == "multi_label_classification":
        value = datasets.Sequence(datasets.Value("int64"), length=num_labels)
    elif task == "token_classification":
        value = datasets.Sequence(datasets.Value("string"))
    else:
        value = datasets.Value("int64")

    truth = value
    if task == "reranking":  # relevance and query
        truth = datasets.Sequence(datasets.Value("float64"), length=2)

    def info(self: Any) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{name} for {task}; see hfprune.measure.scores for the definition.",
            citation="",
            inputs_description="predictions and references: one value (or row of 0/1) a text.",
            features=datasets.Features({"predictions": value, "references": truth}),
        )

    def compute_one(self: Any, predictions: Any, references: Any) -> dict[str, float]:
        if task == "token_classification":
            return {name: _of_tags(name, predictions, references)}
        return {name: quietly(scorer_of(name), np.asarray(predictions), np.asarray(references))}

    # evaluate names a module after its class: F1Macro becomes f1_macro, NdcgAt_10 ndcg_at_10.
    parts = name.split("_")
    class_name = "".join(f"_{part}" if part.isdigit() else part.capitalize() for part in parts)
    metric_class = type(class_name, (evaluate.Metric,), {"_info": info, "_compute": compute_one})
    # The constructor makes a folder even for a module that keeps all in memory.
    with tempfile.TemporaryDirectory() as unused:
        module: EvaluationModule = metric_class(keep_in_memory=True, cache_dir=unused)
    return module


def _of_tags(name: str, predictions: Any, references: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return score_tags(name, predictions, references)


def compute(
    logits: Array,
    labels: Array,
    names: Sequence[str],
    task: Task,
    num_labels: int,
    label_names: Sequence[str] = (),
) -> dict[str, float]:
    """Compute metrics from a model's output.

    Args:
        logits: Floats, ``(rows, num_labels)``; for regression also ``(rows,)``, for tokens
            ``(rows, length, num_labels)``.
        labels: Class numbers ``(rows,)``, 0/1 flags ``(rows, num_labels)``, floats ``(rows,)``, or
            class numbers ``(rows, length)`` with -100 for tokens that do not count. Of reranking
            floats ``(rows, 2)``: relevance in [0, 1], and the number of the query. Of embeddings
            those of the dense model, as the logits are.
        names: Metrics, as in a recipe's ``evaluation.metrics``.
        task: The recipe's task; images are of ``single_label_classification``.
        num_labels: The size of the model's output.
        label_names: The names of the labels; only tokens need them.

    Raises:
        DataError: A shape does not fit, or there are no rows.
        RecipeError: As :func:`load_metrics`.
        TrainingError: The logits hold NaN.
    """
    metrics = load_metrics(names, task, num_labels, label_names)
    return _computed(metrics, logits, labels, task, num_labels, label_names)


def _computed(
    metrics: CombinedEvaluations,
    logits: Array,
    labels: Array,
    task: Task,
    num_labels: int,
    label_names: Sequence[str],
) -> dict[str, float]:
    predictions: Any = predict(logits, task, num_labels)
    references: Any = check_labels(predictions, labels, task)
    names = [module.name for module in metrics.evaluation_modules]
    if task == "sentence_embedding":  # of which `evaluate` would keep every number as an object
        return {name: quietly(scorer_of(name), predictions, references) for name in names}
    if task == "token_classification":
        predictions, references = as_tags(predictions, references, label_names)
        if all(name in METRICS[task] for name in names):  # and of which it would copy every tag
            return {name: _of_tags(name, predictions, references) for name in names}
    values = metrics.compute(predictions=predictions, references=references)
    results = {}
    for key, value in values.items():
        if np.ndim(value) != 0:
            raise DataError(f"the metric {key!r} gives {value!r}; expected a single number")
        results[key] = float(value)
    return results


def make_compute_metrics(
    names: Sequence[str], task: Task, num_labels: int, label_names: Sequence[str] = ()
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the function that ``Trainer(compute_metrics=...)`` wants; errors as :func:`compute`.

    Where the model also returns hidden states, the logits are the first of its outputs. Where the
    Trainer gives two columns of labels, the second holds the number of each row's text: rows are
    then windows, and their logits are averaged text by text. Of reranking it holds the number of
    each row's query.
    """
    metrics = load_metrics(names, task, num_labels, label_names)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        labels = prediction.label_ids
        if isinstance(logits, tuple | list):
            logits = logits[0]
        if isinstance(labels, tuple | list):
            texts = np.asarray(labels[1]) if len(labels) > 1 else None
            labels = labels[0]
            if task == "reranking" and texts is not None:
                labels = as_ranked(labels, texts)
            elif texts is not None:
                _, first = np.unique(texts, return_index=True)
                logits = mean_by_text(np.asarray(logits), texts)
                labels = np.asarray(labels)[first]
        return _computed(
            metrics, np.asarray(logits), np.asarray(labels), task, num_labels, label_names
        )

    return compute_metrics
