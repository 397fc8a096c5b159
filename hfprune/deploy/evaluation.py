"""How right a saved model is, in PyTorch and in the deployed files beside it, on named rows.

:func:`evaluate` reads a directory and changes nothing. What it is not told it takes from the recipe
that a run left there, or else from the model's config. Its result is an :class:`EvaluationReport`,
and :func:`table` shows it to a person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from hfprune.core.errors import CheckpointError, DataError, RecipeError
from hfprune.core.kinds import outputs_of
from hfprune.core.machine import usable_cpus
from hfprune.core.records import Part
from hfprune.core.results import METRICS_FILE, read_results
from hfprune.core.tasks import DEFAULT_METRICS, METRICS, WITHOUT_CLASSES, Task
from hfprune.core.text import cell, markup
from hfprune.data.collate import data_collator
from hfprune.data.loading import load_rows, load_task_data
from hfprune.data.task_data import TaskData
from hfprune.data.words import IGNORED
from hfprune.deploy.evaluated_as import evaluated_as
from hfprune.deploy.predict.places import where_cut
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.deploy.runtimes.registry import usable_runtimes
from hfprune.deploy.sentences import Uses, read_uses
from hfprune.families import position_limit
from hfprune.measure.intervals import interval
from hfprune.measure.metrics import compute
from hfprune.measure.scores import predict
from hfprune.models.cross_encoder import longest_pair
from hfprune.models.layout import prompt_of, search_prompts
from hfprune.models.loading import check_fits, load_processor
from hfprune.models.saved import load_saved_classifier
from hfprune.models.sentences import load_embedder
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.whole import Recipe

RECIPE_FILE = "recipe.yaml"


class FormQuality(Part):
    """One form of the model on the rows.

    Attributes:
        metrics: by name. Of an encoder's own test rows also what it is used for, as far as the
            recipe names rows for that (``scored_spearman``, ``retrieval_*``).
        intervals: lower and upper end of each metric.
        agreement: fraction of predictions that are those of PyTorch; ``None`` for regression,
            reranking and embeddings.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    agreement: float | None


class EvaluationReport(Part):
    """How right a saved model is; as JSON what ``hfprune evaluate --json`` prints.

    Attributes:
        labels: names of the classes in the model's order; empty for regression and reranking.
        rows: what they are: names of files, or that they are the recipe's.
        samples: how many; ``truncated``: how many of their texts were cut at ``max_length`` tokens
            (``None`` for images).
        highest_relevance: what labels of reranking were divided by; ``None`` for other tasks.
        confidence: level of the intervals.
        primary: the first metric.
        models: ``PyTorch`` and, where there are such files, ``ONNX`` and ``int8``.
    """

    format_version: Literal[1]
    task: Task
    labels: list[str]
    rows: list[str]
    samples: int
    truncated: int
    max_length: int | None
    highest_relevance: float | None = None
    confidence: float
    primary: str
    models: dict[str, FormQuality]


def evaluate(
    folder: str | Path,
    files: Sequence[str | Path] = (),
    *,
    task: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | list[str] | None = None,
    label_names: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    confidence: float | None = None,
    max_length: int | None = None,
    highest_relevance: float | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Measure a saved classifier, pruned or dense, and the files beside it, on the same rows.

    Args:
        folder: what a run or ``save_pretrained`` wrote, with its tokenizer; files of all
            runtimes that are installed are looked for in it, in its ``onnx`` and ``openvino``.
        files: rows to measure on; without, the test rows of the recipe in the folder.
        task: as recipes spell it; without, the recipe's. Where there is none, a CrossEncoder, and
            a model of one output whose rows name queries and texts, is evaluated as reranking, and
            others as their config says.
        text_column, text_pair_column, label_column: columns of ``files``; without, those of the
            recipe, or ``text`` and ``label``; of reranking what is known by its name.
        label_names: names of the labels as ``files`` spell them, in the order of the model's
            classes; without, the model's own.
        metrics: without, those of the recipe (and what it tries embeddings on besides), or the
            usual ones of the task. The first is called primary.
        confidence: level of the intervals; without, the recipe's, or 0.95.
        max_length: most tokens of a row; without, the recipe's, or what the model takes.
        highest_relevance: of reranking the label of a text that is wholly relevant; without, the
            run's, or the highest of these rows, which the report then tells.
        batch_size: rows a forward pass.
        progress: called with models done and models in all.

    Returns:
        The measurements; PyTorch's come first, then those of ``ONNX``, ``int8``, and ``OpenVINO``
        or ``OpenVINO-bf16`` (as this machine computes it), where there are such files.

    Raises:
        CheckpointError: there is no classifier, or none that fits the recipe beside it.
        DataError: no rows are named, they cannot be read or do not fit the model, or hold queries
            that would not be read.
        RecipeError: the task is none of the model's, a metric none of the task, or a setting out
            of bounds.
    """
    folder = Path(folder)
    _check_single(folder)
    recipe = _recipe_of(folder)
    model = load_saved_classifier(str(folder))
    columns: dict[str, Any] = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        "max_length": max_length,
        "highest_relevance": highest_relevance,
    }
    given = {name: value for name, value in columns.items() if value is not None}
    settled, given = evaluated_as(folder, model, recipe, list(map(str, files)), given, task)
    processor = load_processor(
        str(folder), settled, revision=None, trust_remote_code=False, key="the folder"
    )
    # Of a recipe's metrics those of the Hub, which are code from elsewhere, are left out.
    recorded = [n for n in recipe.evaluation.metrics if n in METRICS[settled]] if recipe else []
    names = list(metrics or recorded or DEFAULT_METRICS[settled])
    for name in names:
        if name not in METRICS[settled]:
            raise RecipeError(
                f"{name!r} is not a metric of task {settled}; choose from "
                f"{', '.join(METRICS[settled])}"
            )
    if confidence is None:
        confidence = recipe.evaluation.confidence if recipe else 0.95
    if not 0 < confidence < 1:
        raise RecipeError(f"the confidence is {confidence}; expected a number between 0 and 1")
    data, rows = _rows(folder, recipe, files, model, processor, settled, given, label_names)
    if settled == "sentence_embedding":
        data = _embedded(folder, recipe, data, processor, batch_size)
    if data.num_labels != outputs_of(model):
        raise DataError(
            f"the model in {folder} has {outputs_of(model)} labels, the rows have "
            f"{data.num_labels} ({', '.join(data.label_names) or 'a number'}): evaluate it on rows "
            "of its own task"
        )
    check_fits(model, data, processor, ())
    if not data.of_images and model.config.pad_token_id is None:
        model.config.pad_token_id = processor.pad_token_id
    candidates: dict[str, Any] = {"PyTorch": model}
    for each in usable_runtimes():
        if each.name != "torch":  # which is the model itself, and compiled takes minutes
            for precision, file in each.files(folder).items():
                candidates[each.forms[precision]] = (each, file, precision)
    found: dict[str, FormQuality] = {}
    base: Any = None
    collate = data_collator(processor, settled)
    uses = None if files or metrics else _uses(folder, recipe, processor, data)
    labels = data.label_array("test")
    told = (data.task, data.num_labels, data.label_names)
    for number, (name, candidate) in enumerate(candidates.items()):
        if progress is not None:
            progress(number, len(candidates))
        runner = candidate
        if isinstance(candidate, tuple):
            each, file, precision = candidate
            runner = each.open(file, usable_cpus(), precision)
        logits = predict_logits(runner, data.test, collate, batch_size=batch_size)
        logits = data.by_text("test", logits)
        predictions = predict(logits, data.task, data.num_labels)
        base = predictions if base is None else base
        more = {} if uses is None else uses.measure(runner, collate, batch_size)
        found[name] = FormQuality(
            metrics=compute(logits, labels, names, *told)
            | {metric: sample.value for metric, sample in more.items()},
            intervals={
                metric: interval(metric, logits, labels, *told, confidence) for metric in names
            }
            | {metric: sample.interval(confidence) for metric, sample in more.items()},
            agreement=_agreement(predictions, base, labels, data.task),
        )
    if progress is not None:
        progress(len(candidates), len(candidates))
    return EvaluationReport(
        format_version=1,
        task=settled,
        labels=data.label_names,
        rows=rows,
        samples=data.size("test"),
        truncated=data.truncated["test"],
        max_length=None if data.of_images else data.max_length,
        highest_relevance=data.highest_relevance,
        confidence=confidence,
        primary=names[0],
        models=found,
    )


def table(report: EvaluationReport) -> Table:
    """A row a model: each metric with its interval, and how often it agrees with PyTorch."""
    cut, highest = report.truncated, report.highest_relevance or 1
    shown = Table(
        caption=markup(
            f"{report.task.replace('_', ' ')}: {report.samples} rows of {', '.join(report.rows)}, "
            f"{report.confidence:.0%} intervals"
            + (f"; {cut} rows cut at {report.max_length} tokens" if cut else "")
            + (f"; labels divided by {highest:g}" if highest > 1 else "")
        )
    )
    shown.add_column("model")
    for name in (*next(iter(report.models.values())).metrics, "as PyTorch"):
        shown.add_column(markup(name), justify="right")
    for name, entry in report.models.items():
        shown.add_row(
            cell(name),
            *(
                _with_interval(value, entry.intervals.get(metric))
                for metric, value in entry.metrics.items()
            ),
            "-" if entry.agreement is None else f"{entry.agreement:.2%}",
        )
    return shown


def _with_interval(value: float, ends: tuple[float, float] | None) -> str:
    return f"{value:.4f}" if ends is None else f"{value:.4f} ({ends[0]:.3f}-{ends[1]:.3f})"


def _check_single(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    members = sorted(path.parent for path in folder.glob(f"*/{METRICS_FILE}"))
    if members:
        raise CheckpointError(
            f"{folder} holds a family of models: give {' or '.join(map(str, members))}"
        )


def _recipe_of(folder: Path) -> Recipe | None:
    file = folder / RECIPE_FILE
    return load_recipe(file) if file.is_file() else None


def _rows(
    folder: Path,
    recipe: Recipe | None,
    files: Sequence[str | Path],
    model: Any,
    processor: Any,
    task: Task,
    given: dict[str, Any],
    label_names: Sequence[str] | None,
) -> tuple[TaskData, list[str]]:
    """The data, whose test split is what to measure on, and what these rows are, in words."""
    prompt = ""
    if task == "sentence_embedding":
        prompt = prompt_of(model.sentence_layout, recipe.data.prompt if recipe else None)
    if not files:
        if recipe is None:
            raise DataError(
                f"{folder} holds no {RECIPE_FILE} that would name its test rows; name files of "
                "rows (--data)"
            )
        named = recipe.data.model_copy(update=given)
        try:
            data = load_task_data(named, processor, task, prompt=prompt)
        except DataError as error:
            raise _moved(folder, error) from error
        return data, ["the test split of its recipe"]
    names = list(map(str, files))
    if recipe is None:
        limits = (getattr(processor, "model_max_length", None), position_limit(model))
        given.setdefault("max_length", where_cut(*limits, longest_pair(folder)))
        config = DataConfig(train_file=names[0], **given)
    else:
        if task == "reranking" and recipe.data.highest_relevance is None:
            given.setdefault("highest_relevance", _highest_of_run(folder))
        config = recipe.data.model_copy(update=given)
    if task not in WITHOUT_CLASSES:
        own = [str(model.config.id2label[number]) for number in sorted(model.config.id2label)]
        config = config.model_copy(update={"label_names": list(label_names or own)})
    return load_rows(config, names, processor, task, prompt=prompt), [
        Path(name).name for name in names
    ]


def _highest_of_run(folder: Path) -> float | None:
    """What a run divided labels by: rows of another file are relevant from the same grade on."""
    if not (folder / METRICS_FILE).is_file():
        return None
    return read_results(folder).data.get("highest_relevance")


def _moved(folder: Path, error: DataError) -> DataError:
    return DataError(
        f"the data of {folder / RECIPE_FILE} cannot be read: {error}. Start where the run was "
        "started, or name files of rows (--data)"
    )


def _uses(folder: Path, recipe: Recipe | None, processor: Any, data: TaskData) -> Uses | None:
    """What embeddings are tried on besides, as in the run, if the recipe names such rows."""
    if recipe is None:
        return None
    named = recipe.evaluation
    try:
        return read_uses(
            named.scored_pairs, named.retrieval, processor, data.max_length, data.prompt,
            search_prompts(folder, recipe.data.prompt),
        )  # fmt: skip
    except DataError as error:
        raise _moved(folder, error) from error


def _embedded(
    folder: Path, recipe: Recipe | None, data: TaskData, processor: Any, batch_size: int
) -> TaskData:
    """The rows with the dense model's embeddings, which those of the folder are held against.

    Raises:
        CheckpointError: nothing says which model that was, or it is not there.
    """
    if recipe is None:
        raise CheckpointError(
            f"{folder} holds no {RECIPE_FILE} that names the dense model, and embeddings are held "
            "against its own: evaluate the output of a run, or compare the two by hand with "
            "hfprune.load_encoder"
        )
    section = recipe.model if recipe.teacher.name_or_path is None else recipe.teacher
    name = str(section.name_or_path)
    dense = load_embedder(
        name,
        revision=section.revision,
        key="the dense model of the recipe,",
        pooling=recipe.model.pooling,
        normalize=recipe.model.normalize,
    )
    collate = data_collator(processor, recipe.task)
    vectors = predict_logits(dense, data.test, collate, batch_size=batch_size)
    return data.with_embeddings({"test": vectors})


def _agreement(predictions: Any, base: Any, labels: Any, task: Task) -> float | None:
    """The fraction of equal predictions, of tokens those that are labelled."""
    if task in WITHOUT_CLASSES:
        return None
    same = np.asarray(predictions == base)
    if task == "token_classification":
        return float(same[np.asarray(labels) != IGNORED].mean())
    return float(same.mean() if same.ndim == 1 else same.all(axis=1).mean())
