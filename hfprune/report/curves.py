"""What the charts of a run show: quality against time, and how training went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hfprune.core.details import Details, TrainingLog
from hfprune.core.model_ref import ModelRef
from hfprune.core.results import RunResults
from hfprune.core.tasks import LOWER_IS_BETTER
from hfprune.report.charts import Line, LineChart, Point, ScatterChart, Shape, front_of
from hfprune.report.figures import COLOURS

# By form; others are circles as well.
SHAPES: Mapping[str, Shape] = {"PyTorch": "circle", "ONNX": "square", "int8": "diamond"}
STAGES = {"teacher": "fine-tuning", "prune": "pruning", "recover": "recovery"}


def shape_of(ref: ModelRef) -> Shape:
    """The mark of a form."""
    return SHAPES.get(ref.form, "circle")


def colour_of(results: RunResults, label: str) -> int:
    """Of the dense model 0, of the pruned ones by turns from 1 on: an index of ``COLOURS``."""
    labels = list(results.members)
    return 1 + labels.index(label) % (len(COLOURS) - 1) if label in labels else 0


def pareto(results: RunResults) -> list[ScatterChart]:
    """The first metric against the time of a batch, a chart a shape.

    Raises:
        KeyError: a model lacks the metric or was not timed.
        OutputError: a name is none of a model.
    """
    benchmark, primary = results.benchmark, results.primary
    times = benchmark.times()
    charts = []
    for batch, length in benchmark.shapes():
        points = []
        for ref in results.refs():
            entry, row = results.quality(ref), times[str(ref), (batch, length)]
            low, high = entry.interval
            points.append(
                Point(
                    str(ref), row.median_ms, entry.metrics[primary], low, high,
                    colour_of(results, ref.label), shape_of(ref),
                )
            )  # fmt: skip
        front = front_of(points, lower_is_better=primary in LOWER_IS_BETTER)
        title = f"batch {batch}, {length} {benchmark.length_unit}"
        charts.append(ScatterChart(title, "ms a batch (log)", primary, tuple(points), front))
    return charts


def schedules(results: RunResults, details: Details) -> Iterator[tuple[str, list[LineChart]]]:
    """How training went, model by model: its label, and charts that share their x, in epochs."""
    stages: dict[str, list[TrainingLog]] = {}
    for entry in details.training:
        stages.setdefault(entry.model, []).append(entry)
    for label, trainings in stages.items():
        charts = list(_curves(trainings, colour_of(results, label), results.primary))
        if charts:
            yield label, charts


def _curves(trainings: Sequence[TrainingLog], colour: int, primary: str) -> Iterator[LineChart]:
    marks, begin = [], 0.0
    for training in trainings:
        marks.append((begin, STAGES.get(training.stage, training.stage)))
        begin += max((float(entry.get("epoch", 0.0)) for entry in training.log), default=0.0)
    starts = [start for start, _ in marks]

    def line(name: str, key: str, *, faint: bool = False) -> Line | None:
        points = tuple(
            (start + float(entry["epoch"]), float(entry[key]))
            for start, training in zip(starts, trainings, strict=True)
            for entry in training.log
            if isinstance(entry.get(key), int | float) and "epoch" in entry
        )
        return Line(name, points, colour, faint=faint) if points else None

    sparsity = line("removed", "pruning/sparsity")
    if sparsity is not None:  # nothing before the first step of pruning, all after the last
        points = ((0.0, 0.0), *sparsity.points, (begin, sparsity.points[-1][1]))
        sparsity = replace(sparsity, points=points, steps=True)
    loss = [line("training", "loss", faint=True), line("validation", "eval_loss")]
    for title, lines in (
        ("encoder weights removed", [sparsity]),
        ("loss", loss),
        (f"{primary}, validation", [line(primary, f"eval_{primary}")]),
    ):
        there = tuple(one for one in lines if one is not None)
        if there:
            percent = sparsity in there
            yield LineChart(title, "epoch", there, begin, tuple(marks), percent)
