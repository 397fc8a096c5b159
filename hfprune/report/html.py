"""The report of a finished run: one HTML file that loads nothing, and its charts as PNG.

Every number in it comes from ``metrics.json`` and ``details.json``; what they lack (an earlier
version wrote them, or the task has no such thing) is left out. Local paths in the recipe are called
local, as in the model card. The sentences in it are rows of the test split: think of that before
you pass it on. :func:`hfprune.publish.push.push` publishes neither the report nor ``details.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hfprune.core.errors import MissingExtraError, OutputError, RecipeError
from hfprune.core.files import atomic_write_bytes, atomic_write_text
from hfprune.core.tasks import LOWER_IS_BETTER
from hfprune.recipe.public import public_recipe
from hfprune.recipe.reading import dump_recipe, load_recipe
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.charts import (
    Line,
    LineChart,
    Point,
    ScatterChart,
    Shape,
    draw_lines,
    draw_marker,
    draw_scatter,
    front_of,
)
from hfprune.report.figures import (
    COLOURS,
    check_matplotlib,
    confusion_png,
    layers_png,
    lines_png,
    scatter_png,
)

REPORT_FILE = "report.html"
FIGURES_FOLDER = "figures"
TEMPLATE = "report.html.jinja"
RESULTS_VERSION = 1
DENSE = "dense"
SHAPES: Mapping[str, Shape] = {"PyTorch": "circle", "ONNX": "square", "int8": "diamond"}
STAGES = {"teacher": "fine-tuning", "prune": "pruning", "recover": "recovery"}


def write_report(
    folder: str | Path, output: str | Path | None = None
) -> tuple[list[Path], str | None]:
    """Write the report of a finished run, and its figures into ``figures/`` beside it.

    Args:
        folder: with the ``metrics.json`` of a run, of one model or of a family.
        output: the HTML file; without: ``report.html`` in the folder.

    Returns:
        The files that were written, the report first; and what to say where figures are missing.

    Raises:
        OutputError: the folder holds no results of this version, or a file cannot be written.
    """
    place = Path(folder)
    report = _Report(place)
    target = Path(output) if output is not None else place / REPORT_FILE
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name the HTML file to write")
    text = report.explained(report.html)
    written, figures = [target], {}
    note: str | None = None
    try:
        check_matplotlib()
    except MissingExtraError as error:
        note = f"the report has no PNG figures: {error}"
    else:
        figures = report.explained(report.figures)
    for name, data in figures.items():
        written.append(target.parent / FIGURES_FOLDER / f"{name}.png")
        atomic_write_bytes(written[-1], data)
    atomic_write_text(target, text)
    return written, note


def render(folder: str | Path) -> str:
    """The report of a finished run as HTML; errors as :func:`write_report`."""
    report = _Report(Path(folder))
    return str(report.explained(report.html))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error


class _Report:
    """What the page shows, part by part."""

    def __init__(self, folder: Path) -> None:
        file = folder / "metrics.json"
        if not file.is_file():
            raise OutputError(
                f"{folder} holds no metrics.json: give the output_dir of a finished run"
            )
        self.results = _read_json(file)
        found = self.results.get("format_version") if isinstance(self.results, dict) else None
        if found != RESULTS_VERSION:
            raise OutputError(
                f"{file}: format_version must be {RESULTS_VERSION}, got {found!r:.40}; give the "
                "output_dir of a finished run of this version of hfprune"
            )
        self.file = file
        details = folder / "details.json"
        self.details = _read_json(details) if details.is_file() else {}
        recipe = self._recipe(folder / "recipe.yaml")
        self.recipe = None if recipe is None else dump_recipe(recipe)
        # By its recipe, as the folder may still be a temporary one.
        run = folder.resolve().name if recipe is None else Path(recipe.output_dir).name
        member = self.results.get("member")
        self.name = run if member is None or recipe is None else f"{run}, {member}"

    def explained(self, do: Callable[[], Any]) -> Any:
        """The result of ``do``; results that lack what they must have are an OutputError."""
        from jinja2 import UndefinedError

        wrong = (KeyError, IndexError, TypeError, AttributeError, ValueError, UndefinedError)
        try:
            return do()
        except wrong as error:
            raise OutputError(
                f"{self.file} lacks something that a report needs ({type(error).__name__}: "
                f"{error}); was it edited?"
            ) from error

    def _recipe(self, file: Path) -> Recipe | None:
        """The recipe of the run without local paths."""
        if not file.is_file():
            return None
        try:
            recipe = load_recipe(file)
        except RecipeError as error:
            raise OutputError(f"the recipe of the run cannot be read: {error}") from error
        return public_recipe(recipe, self.results.get("sources") or {})

    # -- names ----------------------------------------------------------------------------------

    @property
    def members(self) -> dict[str, Any]:
        """The pruned models by label: what each kept."""
        family: dict[str, Any] = self.results.get("family") or {"pruned": self.results["pruning"]}
        return family

    @property
    def models(self) -> dict[str, Any]:
        """All that was evaluated: ``dense PyTorch`` and so on."""
        models: dict[str, Any] = self.results["evaluation"]["models"]
        return models

    @property
    def primary(self) -> str:
        return str(self.results["evaluation"]["primary"])

    def served(self, label: str) -> str:
        """The form of a model that one would deploy: int8 where there is one."""
        return next(name for name in (f"{label} int8", f"{label} ONNX") if name in self.models)

    def _colour(self, label: str) -> int:
        """Of the dense model 0, of the others by turns."""
        labels = list(self.members)
        return 1 + labels.index(label) % (len(COLOURS) - 1) if label in labels else 0

    def _shapes(self) -> list[tuple[int, int]]:
        rows = self.results["benchmark"]["rows"]
        return list(dict.fromkeys((row["batch_size"], row["sequence_length"]) for row in rows))

    def _times(self) -> dict[tuple[str, tuple[int, int]], dict[str, Any]]:
        return {
            (row["name"], (row["batch_size"], row["sequence_length"])): row
            for row in self.results["benchmark"]["rows"]
        }

    # -- parts ----------------------------------------------------------------------------------

    def headlines(self) -> Iterator[dict[str, Any]]:
        """Before and after, one entry a pruned model."""
        times, shape = self._times(), self._shapes()[0]
        sizes = self.results["benchmark"]["file_bytes"]
        parameters = self.results["benchmark"].get("parameters") or {}
        base = self.results["benchmark"]["baseline"]
        before = self.models["dense PyTorch"]
        for label, kept in self.members.items():
            name = self.served(label)
            entry, row = self.models[name], times[(name, shape)]
            yield {
                "name": name,
                "colour": self._colour(label),
                "before": before["metrics"][self.primary],
                "before_interval": before["interval"],
                "after": entry["metrics"][self.primary],
                "interval": entry["interval"],
                "difference": entry.get("difference"),
                "speedup": row["speedup"],
                "speedup_interval": row.get("speedup_interval"),
                "ms": row["median_ms"],
                "base_ms": times[(base, shape)]["median_ms"],
                "bytes": sizes[name],
                "base_bytes": sizes[base],
                "sparsity": kept["sparsity"],
                "parameters": parameters.get(label),
                "base_parameters": parameters.get(DENSE),
                "changes": entry.get("changes"),
            }

    def table(self) -> list[dict[str, Any]]:
        """A row a model: metrics, size, and times by shape."""
        times, sizes = self._times(), self.results["benchmark"]["file_bytes"]
        return [
            {
                "name": name,
                "colour": self._colour(name.rpartition(" ")[0]),
                "metrics": entry["metrics"],
                "interval": entry["interval"],
                "bytes": sizes[name],
                "times": [times[(name, shape)] for shape in self._shapes()],
            }
            for name, entry in self.models.items()
        ]

    def pareto(self) -> list[ScatterChart]:
        """Quality against time, a chart a shape."""
        unit = self.results["benchmark"].get("length_unit", "tokens")
        charts, times = [], self._times()
        for batch, length in self._shapes():
            points = []
            for name, entry in self.models.items():
                label, _, kind = name.rpartition(" ")
                y, (low, high) = entry["metrics"][self.primary], entry["interval"]
                x = times[(name, (batch, length))]["median_ms"]
                colour, shape = self._colour(label), SHAPES.get(kind, "circle")
                points.append(Point(name, x, y, low, high, colour, shape))
            front = front_of(points, lower_is_better=self.primary in LOWER_IS_BETTER)
            title = f"batch {batch}, {length} {unit}"
            charts.append(
                ScatterChart(title, "ms a batch (log)", self.primary, tuple(points), front)
            )
        return charts

    def schedules(self) -> Iterator[tuple[str, list[LineChart]]]:
        """How training went, model by model: a name, and charts that share their x."""
        logs: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {}
        for entry in self.details.get("training") or []:
            logs.setdefault(entry["model"], []).append((entry["stage"], entry["log"]))
        for label, stages in logs.items():
            charts = [c for c in self._curves(stages, self._colour(label)) if c is not None]
            if charts:
                yield label, charts

    def _curves(
        self, stages: Sequence[tuple[str, list[dict[str, Any]]]], colour: int
    ) -> Iterator[LineChart | None]:
        marks, spans, begin = [], [], 0.0
        for stage, log in stages:
            marks.append((begin, STAGES.get(stage, stage)))
            spans.append((begin, log))
            begin += max((float(entry.get("epoch", 0.0)) for entry in log), default=0.0)

        def line(name: str, key: str, *, faint: bool = False) -> Line | None:
            points = tuple(
                (start + float(entry["epoch"]), float(entry[key]))
                for start, log in spans
                for entry in log
                if isinstance(entry.get(key), int | float) and "epoch" in entry
            )
            return Line(name, points, colour, faint=faint) if points else None

        def chart(title: str, *lines: Line | None, percent: bool = False) -> LineChart | None:
            there = tuple(one for one in lines if one is not None)
            if not there:
                return None
            return LineChart(title, "epoch", there, begin, tuple(marks), percent)

        sparsity = line("removed", "pruning/sparsity")
        if sparsity is not None:  # nothing before the first step of pruning, all after the last
            points = ((0.0, 0.0), *sparsity.points, (begin, sparsity.points[-1][1]))
            sparsity = replace(sparsity, points=points, steps=True)
        yield chart("encoder weights removed", sparsity, percent=True)
        yield chart(
            "loss",
            line("training", "loss", faint=True),
            line("validation", "eval_loss"),
        )
        metric = line(self.primary, f"eval_{self.primary}")
        yield chart(f"{self.primary}, validation", metric)

    def by_class(self) -> Iterator[dict[str, Any]]:
        """Precision, recall and F1 of each class before and after; confusion, if it is there."""
        before = self.models["dense PyTorch"].get("by_class")
        for label in self.members:
            name = self.served(label)
            after = self.models[name].get("by_class")
            if before and after:
                tables = {"dense PyTorch": before["confusion"], name: after["confusion"]}
                yield {
                    "name": name,
                    "rows": list(zip(before["classes"], after["classes"], strict=True)),
                    "labels": [entry["label"] for entry in after["classes"]],
                    "confusion": None if after["confusion"] is None else tables,
                }

    def changed(self) -> Iterator[dict[str, Any]]:
        """Rows on which the deployed models say otherwise than the dense one."""
        for name, rows in (self.details.get("changed") or {}).items():
            summary = self.models.get(name, {}).get("changes")
            if summary is not None:
                yield {"name": name, "summary": summary, "rows": [_told(row) for row in rows]}

    def charts(self) -> tuple[list[ScatterChart], list[tuple[str, list[LineChart]]]]:
        return self.pareto(), list(self.schedules())

    # -- the whole ------------------------------------------------------------------------------

    def html(self) -> str:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        results = self.results
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        pareto, schedules = self.charts()
        drawn = [(label, [(c, draw_lines(c)) for c in charts]) for label, charts in schedules]
        return environment.get_template(TEMPLATE).render(
            name=self.name,
            results=results,
            primary=self.primary,
            metrics=list(self.models["dense PyTorch"]["metrics"]),
            confidence=results["evaluation"]["confidence"],
            samples=results["evaluation"]["samples"],
            benchmark=results["benchmark"],
            unit=results["benchmark"].get("length_unit", "tokens"),
            shapes=self._shapes(),
            members=self.members,
            headlines=list(self.headlines()),
            table=self.table(),
            pareto=[(chart, draw_scatter(chart)) for chart in pareto],
            legend=[
                (name, draw_marker(SHAPES.get(name.rpartition(" ")[2], "circle"), self._colour(
                    name.rpartition(" ")[0]
                )))
                for name in self.models
            ],
            schedules=drawn,
            by_class=list(self.by_class()),
            changed=list(self.changed()),
            candidates={
                label: entry["candidates"]
                for label, entry in self.members.items()
                if entry.get("candidates")
            },
            quantization=results.get("quantization") or {},
            search=results.get("search"),
            vocabulary=results.get("vocabulary"),
            data=results["data"],
            environment=results.get("environment") or {},
            seconds=results.get("seconds") or {},
            recipe=self.recipe,
        )  # fmt: skip

    def figures(self) -> dict[str, bytes]:
        """PNG files by name, without the ending."""
        pareto, schedules = self.charts()
        found = {"accuracy_latency": scatter_png(pareto), "layers": layers_png(self.members)}
        for label, charts in schedules:
            found[f"training_{_file_name(label)}"] = lines_png(charts)
        for part in self.by_class():
            if part["confusion"]:
                label = part["name"].rpartition(" ")[0]
                found[f"confusion_{_file_name(label)}"] = confusion_png(
                    part["confusion"], part["labels"]
                )
        return found


def _file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in label)


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A changed row in words: ``text``, ``pair``, ``kind`` and ``said`` (true, before, after)."""
    text, told = row.get("text"), {"row": row["row"], "pair": row.get("text_pair")}
    if "words" in row:
        words = text if isinstance(text, list) else []
        said = [
            {
                "of": words[spot["word"]] if spot["word"] < len(words) else f"word {spot['word']}",
                **{key: spot[key] for key in ("label", "before", "after")},
            }
            for spot in row["words"]
        ]
        return {**told, "text": " ".join(map(str, words)) or None, "kind": None, "said": said}

    def shown(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(str, value)) or "none"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    label, before, after = row["label"], row["before"], row["after"]
    kind = None
    if not isinstance(label, float):
        kind = "fixed" if label == after else "broken" if label == before else "other"
    said = [
        {"of": None, "label": shown(label), "before": shown(before), "after": shown(after)}
        | ({"confidence": row["confidence"]} if "confidence" in row else {})
    ]
    return {**told, "text": text, "kind": kind, "said": said}
