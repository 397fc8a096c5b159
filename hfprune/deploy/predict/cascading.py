"""Chooses and measures a cascade of a finished family, on the rows of its recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import OutputError, RecipeError
from hfprune.core.model_ref import REFERENCE
from hfprune.core.results import RunResults, read_results
from hfprune.core.tasks import LOWER_IS_BETTER
from hfprune.data.collate import data_collator
from hfprune.data.loading import load_task_data
from hfprune.deploy.predict.cascade import (
    MAX_DROP,
    TASKS,
    BesideDense,
    Cascade,
    Measured,
    choose_threshold,
    mixed,
    write_cascade,
)
from hfprune.deploy.predict.expecting import expected_metric
from hfprune.deploy.predict.serving import Predictor
from hfprune.deploy.runtimes.base import Session
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.intervals import interval
from hfprune.measure.scores import score
from hfprune.recipe.reading import load_recipe

MOST_TIMED = 200
WARM_UP = 5


def make_cascade(
    folder: str | Path,
    *,
    fast: str | None = None,
    slow: str | None = None,
    max_drop: float = MAX_DROP,
    at_least: float | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Cascade:
    """Choose a threshold on the validation rows, measure on the test rows, write ``cascade.json``.

    Args:
        folder: of a finished family.
        fast, slow: labels of the two members; without, the fastest and the slowest.
        max_drop: how much of the slow member's first metric on the validation rows the cascade is
            expected to lose, by the slow member's probabilities there (:func:`expected_metric`).
        at_least: what the metric is expected to reach there instead; of a metric of which less is
            better, what it may reach at most.
        threads: of one text.
        progress: called with steps done and steps in all.

    Returns:
        What was written.

    Raises:
        OutputError: the folder holds no family, or the two members make no cascade that keeps the
            metric and saves time.
        RecipeError: the task has no probability that says how sure a model is.
        DataError: the rows of the recipe cannot be read.
    """
    place, tell = Path(folder), progress or (lambda done, total: None)
    results = read_results(place, "a cascade")
    labels = list(results.family or {})
    fast, slow = fast or (labels or [""])[-1], slow or (labels or [""])[0]
    if len(labels) < 2 or fast not in labels or slow not in labels or fast == slow:
        raise OutputError(
            f"{folder} must hold a family with two members to choose from, got "
            f"{' and '.join(labels) or 'one model'} (asked for {fast or 'the fastest'} and "
            f"{slow or 'the slowest'}): give a list as pruning.speedup"
        )
    recipe = load_recipe(place / slow / "recipe.yaml")
    if recipe.task not in TASKS or recipe.data.stride is not None:
        raise RecipeError(
            f"a cascade needs one label a row ({' or '.join(TASKS)}, without data.stride); the "
            f"recipe's task is {recipe.task}"
        )
    opened = {name: Predictor(place / name, batch_size=1, threads=threads) for name in (fast, slow)}
    reader = opened[slow].processor
    data = load_task_data(recipe.data, reader, recipe.task)
    collator = data_collator(reader, recipe.task)
    metric = recipe.evaluation.metrics[0]
    about = (data.task, data.num_labels, data.label_names)
    sessions = [opened[name].session for name in (fast, slow)]
    # Each is asked alone, as it is served: what int8 says may depend on the rest of a batch.
    found: dict[str, list[NDArray[Any]]] = {}
    for number, split in enumerate(("validation", "test")):
        tell(number, 3)
        rows = data.split(split)
        found[split] = [predict_logits(each, rows, collator, batch_size=1) for each in sessions]
    tell(2, 3)
    times = _times(sessions, data.test, collator)
    truth = data.label_array("validation")
    sign = 1.0 if metric not in LOWER_IS_BETTER else -1.0
    base = score(metric, found["validation"][1], truth, *about)
    wanted = base - sign * max_drop if at_least is None else at_least
    quick, sure = found["validation"]
    point = choose_threshold(
        quick,
        sure,
        expected_metric(
            sure, truth, data.task, lambda logits, labels: score(metric, logits, labels, *about)
        ),
        wanted,
        float(times[0].mean()),
        float(times[1].mean()),
        greater_is_better=sign > 0,
    )
    if point is None:
        raise OutputError(
            f"no threshold keeps {metric} at {wanted:.4f} on the validation rows and saves time "
            f"against {slow} alone, which has {base:.4f}: allow more (--max-drop or --at-least), "
            "or take other members"
        )
    quick, sure = found["test"]
    logits, asked = mixed(quick, sure, point.threshold)
    some = asked[: len(times[0])]
    answers = {
        "fast": (quick, times[0], 0.0),
        "slow": (sure, times[1], 1.0),
        "cascade": (logits, times[0] + np.where(some, times[1], 0.0), float(asked.mean())),
    }
    test = data.label_array("test")
    measured = {
        name: Measured(
            metric=score(metric, values, test, *about),
            interval=interval(metric, values, test, *about),
            mean_ms=float(spent.mean()),
            p95_ms=float(np.quantile(spent, 0.95)),
            slow_share=share,
        )
        for name, (values, spent, share) in answers.items()
    }
    record = Cascade(
        fast=fast,
        slow=slow,
        threshold=point.threshold,
        metric=metric,
        wanted=wanted,
        reached=point.metric,
        rows=len(test),
        measured=measured,
        dense=beside_dense(results, slow, metric, measured),
    )
    write_cascade(record, place)
    tell(3, 3)
    return record


def beside_dense(
    results: RunResults, slow: str, metric: str, measured: Mapping[str, Measured]
) -> BesideDense | None:
    """What the run says of the dense model, and the mean speed-ups over it that follow.

    Args:
        results: of the family.
        slow: label of the slow member.
        metric: of the cascade.
        measured: ``fast``, ``slow`` and ``cascade``, timed together.

    Returns:
        ``None`` where the dense model, or the slow member's speed one text at a time, is not told.
    """
    dense = results.evaluation.models.get(str(REFERENCE))
    over = _single_speedup(results, slow)
    if dense is None or dense.interval is None or metric not in dense.metrics or over is None:
        return None
    return BesideDense(
        metric=dense.metrics[metric],
        interval=dense.interval,
        speedup={
            name: over * measured["slow"].mean_ms / row.mean_ms for name, row in measured.items()
        },
    )


def _single_speedup(results: RunResults, label: str) -> float | None:
    """Of the file for one text at a time, on real texts; else at the first shape of one row."""
    uses = (results.deployment or {}).get(label, {}).get("uses", {})
    if speedup := uses.get("single", {}).get("speedup"):
        return float(speedup[0])
    try:
        name = str(results.served(label))
    except OutputError:
        return None
    rows = (row for row in results.benchmark.rows if row.name == name and row.batch_size == 1)
    return next((row.speedup for row in rows), None)


def _times(sessions: Sequence[Session], rows: Any, collator: Any) -> list[NDArray[np.float64]]:
    """Milliseconds of each of the first rows, alone, by model; the models take turns."""
    spent: list[list[float]] = [[] for _ in sessions]
    batches = []
    for index in range(min(len(rows), MOST_TIMED)):
        row = {k: v for k, v in rows[index].items() if k != "labels"}
        batches.append({name: np.asarray(value) for name, value in collator([row]).items()})
    for batch in batches[:WARM_UP]:
        for session in sessions:
            session.logits(batch)
    for batch in batches:
        for session, times in zip(sessions, spent, strict=True):
            begin = time.perf_counter()
            session.logits(batch)
            times.append(1e3 * (time.perf_counter() - begin))
    return [np.asarray(times) for times in spent]
