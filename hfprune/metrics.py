"""Metrics: from logits to numbers, and how far to trust them.

Metrics are ``evaluate.Metric`` modules that live here, on scikit-learn and SciPy, so that they
work without the Hub. Names that are not ours (:data:`hfprune.recipe.METRICS`) go to
``evaluate.load``, which does need it.

Averages: ``macro`` is the plain mean over classes, ``weighted`` the mean weighted by how often a
class occurs in the labels. For a single label, the classes are those that occur in the labels or in
the predictions; for multi-label, they are all the labels. A precision or recall with nothing to
divide by is 0. Multi-label accuracy counts a row as right if every label of it is; multi-label
``mcc`` is taken over all decisions, row by label, as one binary problem. What counts as an entity
is told in :mod:`hfprune.entities`.

Intervals speak about the test set being a sample. They say nothing of how much another training
seed would change.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfprune.entities import (
    ENTITY_METRICS,
    as_tags,
    check_seqeval,
    check_tags,
    row_counts,
    score_counts,
    score_tags,
)
from hfprune.errors import DataError, RecipeError, TrainingError
from hfprune.recipe import METRICS, Task
from hfprune.tokens import mean_by_text

if TYPE_CHECKING:
    from evaluate import CombinedEvaluations, EvaluationModule
    from transformers import EvalPrediction

__all__ = [
    "bootstrap_interval",
    "compute",
    "interval",
    "is_correct",
    "load_metrics",
    "make_compute_metrics",
    "mcnemar",
    "paired_bootstrap",
    "paired_difference",
    "predict",
    "score",
    "token_counts",
    "wilson_interval",
]

Array = npt.NDArray[Any]
Scorer = Callable[[Array, Array], float]

# Up to here the exact binomial sum is taken; above it the chi-squared form differs by nothing that
# a reader could see.
_EXACT_MCNEMAR = 1000


# --- from logits to predictions -------------------------------------------------------------


def predict(logits: Array, task: Task, num_labels: int) -> Array:
    """Turn a model's output into predictions.

    Args:
        logits: Floats of shape ``(rows, num_labels)``; for regression also ``(rows,)``, for tokens
            ``(rows, length, num_labels)``.
        task: The recipe's task.
        num_labels: The size of the model's output.

    Returns:
        int64 ``(rows,)``, the largest logit's class (``(rows, length)`` for tokens); int64 0/1
        ``(rows, num_labels)``, 1 where the sigmoid is above 0.5; or float64 ``(rows,)``.

    Raises:
        DataError: The shape is another one, or the task unknown.
        TrainingError: The logits hold NaN.
    """
    logits = np.asarray(logits)
    _check_task(task)
    if task == "regression" and logits.ndim == 1:
        logits = logits[:, None]
    tokens = task == "token_classification"
    if logits.ndim != 2 + tokens or logits.shape[-1] != num_labels:
        shape = f"(rows, {'length, ' if tokens else ''}{num_labels})"
        raise DataError(
            f"logits have the shape {logits.shape}; expected {shape} for {task}: the "
            "model's num_labels must be that of the data"
        )
    if task == "regression" and num_labels != 1:
        raise DataError(f"regression has one output a row; got num_labels = {num_labels}")
    broken = int(np.isnan(logits).any(axis=tuple(range(1, logits.ndim))).sum())
    if broken:
        raise TrainingError(
            f"the model gives NaN for {broken} of {len(logits)} rows: its training has diverged; "
            "try a lower learning rate, or bf16 in place of fp16"
        )
    if task not in ("multi_label_classification", "regression"):
        return np.asarray(logits.argmax(axis=-1))
    if task == "multi_label_classification":
        # sigmoid(x) > 0.5 exactly where x > 0.
        return (logits > 0).astype(np.int64)
    return logits[:, 0].astype(np.float64)


def is_correct(logits: Array, labels: Array, task: Task, num_labels: int) -> npt.NDArray[np.bool_]:
    """Tell which rows are right, bool ``(rows,)``; multi-label: every label of the row is.

    Raises:
        DataError: As :func:`predict`; also for regression, where no row is right or wrong.
    """
    if task in ("regression", "token_classification"):
        raise DataError(f"no row of a {task} is right or wrong: use a classification task")
    predictions = predict(logits, task, num_labels)
    right = predictions == _check_labels(predictions, labels)
    whole: npt.NDArray[np.bool_] = right if right.ndim == 1 else right.all(axis=1)
    return whole


def _check_task(task: str) -> None:
    if task not in METRICS:
        raise DataError(f"task is {task!r}; expected one of {', '.join(METRICS)}")


def _check_labels(predictions: Array, labels: Array) -> Array:
    labels = np.asarray(labels)
    if predictions.ndim == 1 and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != predictions.shape:
        raise DataError(
            f"labels have the shape {labels.shape}, predictions {predictions.shape}: they must "
            "belong to the same rows"
        )
    if len(labels) == 0:
        raise DataError("there are no rows to measure")
    # Trainer hands multi-label flags back as floats.
    return labels if predictions.dtype.kind == "f" else labels.astype(np.int64)


# --- the metrics ----------------------------------------------------------------------------


def _accuracy(predictions: Array, labels: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _averaged(kind: str, average: str) -> Scorer:
    def scorer(predictions: Array, labels: Array) -> float:
        from sklearn.metrics import f1_score, precision_score, recall_score

        function = {"f1": f1_score, "precision": precision_score, "recall": recall_score}[kind]
        options: dict[str, Any] = {"average": average, "zero_division": 0.0}
        if labels.ndim == 2 and labels.shape[1] == 1:
            # scikit-learn takes one column of flags for two classes, and would average over both.
            labels, predictions = labels[:, 0], predictions[:, 0]
            options["labels"] = [1]
        return float(function(labels, predictions, **options))

    return scorer


def _mcc(predictions: Array, labels: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels.ravel(), predictions.ravel()))


def _correlation(kind: str) -> Scorer:
    def scorer(predictions: Array, labels: Array) -> float:
        from scipy import stats

        # Undefined without spread. 0.0 says "explains nothing", and training can go on.
        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0
        function = stats.pearsonr if kind == "pearson" else stats.spearmanr
        value = float(function(predictions, labels)[0])
        return 0.0 if math.isnan(value) else value

    return scorer


def _mse(predictions: Array, labels: Array) -> float:
    return float(np.mean(np.square(predictions - labels)))


# Every scorer takes predictions as `predict` returns them, and labels of the same shape.
_SCORERS: Mapping[str, Scorer] = {
    "accuracy": _accuracy,
    **{
        f"{kind}_{average}": _averaged(kind, average)
        for kind in ("f1", "precision", "recall")
        for average in ("macro", "weighted")
    },
    "mcc": _mcc,
    "pearson": _correlation("pearson"),
    "spearman": _correlation("spearman"),
    "mse": _mse,
}


def _quietly(scorer: Scorer, predictions: Array, labels: Array) -> float:
    # What the libraries would warn of (a class that never occurs, nearly constant input) is
    # settled by the rules at the top of this file.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scorer(predictions, labels)


def score(
    name: str,
    logits: Array,
    labels: Array,
    task: Task,
    num_labels: int,
    label_names: Sequence[str] = (),
) -> float:
    """Compute one of our metrics directly, without the ``evaluate`` module around it.

    For :func:`bootstrap_interval`, with ``functools.partial`` or a lambda. Arguments and errors are
    those of :func:`compute`.
    """
    _check_task(task)
    if name not in METRICS[task]:
        raise RecipeError(_not_for(name, task))
    predictions = predict(logits, task, num_labels)
    references = _check_labels(predictions, labels)
    if task == "token_classification":
        return score_counts(name, row_counts(name, predictions, references, label_names))
    return _quietly(_SCORERS[name], predictions, references)


def token_counts(
    name: str, logits: Array, labels: Array, label_names: Sequence[str]
) -> npt.NDArray[np.int64]:
    """What each row adds to a metric for tokens; :func:`hfprune.entities.score_counts` sums it up.

    Args:
        name: One of the metrics for tokens.
        logits: ``(rows, length, labels)``.
        labels: ``(rows, length)``.
        label_names: Tags.

    Returns:
        int64 ``(rows, 3)``.
    """
    predictions = predict(logits, "token_classification", len(label_names))
    return row_counts(name, predictions, _check_labels(predictions, labels), label_names)


def _not_for(name: str, task: Task) -> str:
    return f"{name!r} is not a metric for {task}; choose from {', '.join(METRICS[task])}"


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

    _check_task(task)
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
            raise RecipeError(_not_for(name, task))
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
    if task == "regression":
        value = datasets.Value("float64")
    elif task == "multi_label_classification":
        value = datasets.Sequence(datasets.Value("int64"), length=num_labels)
    elif task == "token_classification":
        value = datasets.Sequence(datasets.Value("string"))
    else:
        value = datasets.Value("int64")

    def info(self: Any) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{name} for {task}; see hfprune.metrics for the definition.",
            citation="",
            inputs_description="predictions and references: one value (or row of 0/1) a text.",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def compute_one(self: Any, predictions: Any, references: Any) -> dict[str, float]:
        if task == "token_classification":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return {name: score_tags(name, predictions, references)}
        return {name: _quietly(_SCORERS[name], np.asarray(predictions), np.asarray(references))}

    # evaluate names a module after its class: F1Macro becomes f1_macro.
    class_name = "".join(part.capitalize() for part in name.split("_"))
    metric_class = type(class_name, (evaluate.Metric,), {"_info": info, "_compute": compute_one})
    # The constructor makes a folder even for a module that keeps all in memory.
    with tempfile.TemporaryDirectory() as unused:
        module: EvaluationModule = metric_class(keep_in_memory=True, cache_dir=unused)
    return module


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
            class numbers ``(rows, length)`` with -100 for tokens that do not count.
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
    references: Any = _check_labels(predictions, labels)
    if task == "token_classification":
        predictions, references = as_tags(predictions, references, label_names)
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
    then windows, and their logits are averaged text by text.
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
            if texts is not None:
                _, first = np.unique(texts, return_index=True)
                logits = mean_by_text(np.asarray(logits), texts)
                labels = np.asarray(labels)[first]
        return _computed(
            metrics, np.asarray(logits), np.asarray(labels), task, num_labels, label_names
        )

    return compute_metrics


# --- intervals and tests --------------------------------------------------------------------


def _quantile(confidence: float) -> float:
    """Return the two-sided normal quantile, 1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise DataError(f"confidence is {confidence}; expected a number between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, such as an accuracy.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference.

    Args:
        correct: How many of the rows are right.
        n: How many rows there are.
        confidence: Level in (0, 1).

    Raises:
        DataError: ``n`` is below 1, or ``correct`` is not within ``[0, n]``.
    """
    if n < 1 or not 0 <= correct <= n:
        raise DataError(f"got {correct} correct of {n} rows; expected 0 <= correct <= n, n >= 1")
    z = _quantile(confidence)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def _paired(correct_a: Array, correct_b: Array) -> tuple[npt.NDArray[np.bool_], ...]:
    first, second = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise DataError(
            f"got results of the shapes {first.shape} and {second.shape}; expected one bool a row "
            "from each model, for the same rows"
        )
    return first, second


def mcnemar(correct_a: Array, correct_b: Array) -> float:
    """Return the two-sided p-value that two models are equally often right on the same rows.

    Only rows that exactly one model gets right count. Up to 1,000 of them the exact binomial test
    is used, above that the chi-squared form with continuity correction.

    McNemar, Q. (1947), Note on the sampling error of the difference between correlated proportions.

    Args:
        correct_a, correct_b: bool ``(rows,)``, as :func:`is_correct` returns.

    Raises:
        DataError: The shapes differ, or there are no rows.
    """
    first, second = _paired(correct_a, correct_b)
    only_first = int((first & ~second).sum())
    only_second = int((~first & second).sum())
    total = only_first + only_second
    if total == 0:
        return 1.0
    if total <= _EXACT_MCNEMAR:
        tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
        p_value: float = min(1.0, 2 * tail / 2**total)
        return p_value
    statistic = max(0, abs(only_first - only_second) - 1) ** 2 / total
    # The upper tail of chi-squared with one degree of freedom.
    return math.erfc(math.sqrt(statistic / 2))


def paired_difference(
    correct_a: Array, correct_b: Array, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return accuracy of a minus accuracy of b on the same rows, and an interval for it.

    The normal approximation on the differences row by row, much narrower than two separate
    intervals where the models mostly agree. It is of no width where they agree on every row.

    Args:
        correct_a, correct_b: bool ``(rows,)``, as :func:`is_correct` returns.
        confidence: Level in (0, 1).

    Returns:
        ``(difference, low, high)``, fractions in [-1, 1].

    Raises:
        DataError: The shapes differ, or there are no rows.
    """
    first, second = _paired(correct_a, correct_b)
    differences = first.astype(np.float64) - second.astype(np.float64)
    difference = float(differences.mean())
    half = _quantile(confidence) * float(differences.std()) / math.sqrt(len(differences))
    return difference, max(-1.0, difference - half), min(1.0, difference + half)


def bootstrap_interval(
    metric: Scorer,
    logits: Array,
    labels: Array,
    confidence: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of a metric, for those without a formula of their own.

    Efron, B. (1979), Bootstrap methods: another look at the jackknife.

    Args:
        metric: Takes logits and labels, returns a number; see :func:`score`.
        logits, labels: Arrays with one entry a row.
        confidence: Level in (0, 1).
        n: How many resamples.
        seed: Of the resampling.

    Raises:
        DataError: There are no rows, the lengths differ, or ``n`` is below 1.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)

    def resampled(rows: Array) -> float:
        return metric(logits[rows], labels[rows])

    return _percentiles(resampled, len(logits), len(labels), confidence, n, seed)


def interval(
    name: str,
    logits: Array,
    labels: Array,
    task: Task,
    num_labels: int,
    label_names: Sequence[str] = (),
    confidence: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return an interval of one of our metrics: Wilson's for accuracies, else by bootstrap.

    Rows with one label each are resampled as cells of the table of labels against predictions,
    which is the same and takes no time. Arguments and errors as :func:`compute` and
    :func:`bootstrap_interval`.
    """
    if name not in METRICS[task]:
        raise RecipeError(_not_for(name, task))
    if task == "token_classification":
        counts = token_counts(name, logits, labels, label_names)
        return bootstrap_interval(
            lambda found, _: score_counts(name, found), counts, labels, confidence, n, seed
        )
    if name == "accuracy":
        right = is_correct(logits, labels, task, num_labels)
        return wilson_interval(int(right.sum()), len(right), confidence)
    if task in ("regression", "multi_label_classification"):
        return bootstrap_interval(
            lambda found, truth: score(name, found, truth, task, num_labels),
            logits,
            labels,
            confidence,
            n,
            seed,
        )
    _quantile(confidence)
    predictions = predict(logits, task, num_labels)
    truth = _check_labels(predictions, labels)
    cells = np.bincount(truth * num_labels + predictions, minlength=num_labels**2)
    draws = np.random.default_rng(seed).multinomial(len(truth), cells / len(truth), size=n)
    values = _of_tables(name, draws.reshape(n, num_labels, num_labels))
    return _middle(values, confidence)


def _of_tables(name: str, tables: npt.NDArray[np.int64]) -> Array:
    """Scores from counts of rows, ``(tables, label, prediction)``, as the rules above say."""
    counts = tables.astype(np.float64)
    right = np.diagonal(counts, axis1=1, axis2=2)
    true, said, rows = counts.sum(2), counts.sum(1), counts.sum((1, 2))
    if name == "mcc":
        top = right.sum(1) * rows - (true * said).sum(1)
        below = (rows**2 - (said**2).sum(1)) * (rows**2 - (true**2).sum(1))
        return _divided(top, np.sqrt(below))
    kind, _, average = name.partition("_")
    below = {"precision": said, "recall": true, "f1": (true + said) / 2}[kind]
    by_class = _divided(right, below)
    weights = true if average == "weighted" else ((true + said) > 0).astype(np.float64)
    found: Array = (by_class * weights).sum(1) / weights.sum(1)
    return found


def _divided(top: Array, below: Array) -> Array:
    return np.divide(top, below, out=np.zeros_like(top), where=below > 0)


def paired_bootstrap(
    metric: Scorer,
    logits_a: Array,
    logits_b: Array,
    labels: Array,
    confidence: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return metric of a minus metric of b, and an interval from resampling both alike.

    Arguments and errors as :func:`bootstrap_interval`.

    Returns:
        ``(difference, low, high)``.
    """
    logits_a, logits_b, labels = np.asarray(logits_a), np.asarray(logits_b), np.asarray(labels)
    if len(logits_a) != len(logits_b):
        raise DataError(
            f"got {len(logits_a)} and {len(logits_b)} rows of logits; expected the same rows"
        )

    def resampled(rows: Array) -> float:
        return metric(logits_a[rows], labels[rows]) - metric(logits_b[rows], labels[rows])

    low, high = _percentiles(resampled, len(logits_a), len(labels), confidence, n, seed)
    return metric(logits_a, labels) - metric(logits_b, labels), low, high


def _percentiles(
    resampled: Callable[[Array], float],
    rows: int,
    labels: int,
    confidence: float,
    n: int,
    seed: int,
) -> tuple[float, float]:
    _quantile(confidence)
    if rows != labels or rows == 0 or n < 1:
        raise DataError(
            f"got {rows} rows of logits, {labels} labels and {n} resamples; expected as many "
            "labels as logits, and at least one of each"
        )
    rng = np.random.default_rng(seed)
    values = [resampled(rng.integers(0, rows, rows)) for _ in range(n)]
    return _middle(values, confidence)


def _middle(values: Sequence[float] | Array, confidence: float) -> tuple[float, float]:
    """The bounds between which the middle share of resampled values lies."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
