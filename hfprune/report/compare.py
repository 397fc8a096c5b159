"""Several finished runs on one page: what each deploys, how good and how fast, and whether that can
be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfprune.core.errors import OutputError
from hfprune.core.files import atomic_write_text
from hfprune.core.model_ref import DENSE, REFERENCE
from hfprune.core.results import Timing
from hfprune.core.tasks import LOWER_IS_BETTER
from hfprune.report.charts import Point, ScatterChart, Shape, draw_marker, drawn, front_of
from hfprune.report.figures import COLOURS
from hfprune.report.html import explained_results, filled
from hfprune.report.page import Page

COMPARISON_FILE = "comparison.html"
TEMPLATE = "comparison.html.jinja"


@dataclass(frozen=True)
class Entry:
    """One model of one run.

    Attributes:
        run, label: of the run and of its model; ``name``: both, as the page calls it.
        dense: whether it is the model before pruning, in its fastest file.
        quality, interval: of the run's first metric.
        difference: of the dense model, with its interval, where it was measured.
        times: by shape, ``None`` where it was not timed there.
    """

    run: str
    label: str
    name: str
    form: str
    colour: int
    dense: bool
    asked: str
    quality: float
    interval: tuple[float, float]
    difference: tuple[float, float, float] | None
    bytes: int
    times: Sequence[Timing | None]


def compare(pages: Sequence[Page]) -> tuple[list[Entry], list[str]]:
    """A row a model, and why rows cannot be compared, in sentences.

    Args:
        pages: of two runs or more.

    Raises:
        OutputError: the runs report different metrics first.
    """
    metrics = {page.results.primary for page in pages}
    if len(metrics) > 1:
        raise OutputError(
            f"the runs are judged by different metrics ({', '.join(sorted(metrics))}): compare "
            "runs whose recipes name the same one first in evaluation.metrics"
        )
    names = _names(pages)
    entries: list[Entry] = []
    shapes = shapes_of(pages)
    for number, (page, run) in enumerate(zip(pages, names, strict=True)):
        results, times = page.results, page.results.benchmark.times()
        for label in (*results.members, DENSE):
            try:
                ref = results.served(label)
            except OutputError:
                continue  # a dense model that was never exported
            quality = results.quality(ref)
            verdict = next((each for each in page.verdicts() if each.label == label), None)
            shown = label if results.family is not None or label == DENSE else ""
            entries.append(
                Entry(
                    run=run,
                    label=label,
                    name=f"{run} {shown}".strip(),
                    form=ref.form,
                    colour=1 + number % (len(COLOURS) - 1),
                    dense=label == DENSE,
                    asked="" if verdict is None else verdict.reached,
                    quality=quality.metrics[results.primary],
                    interval=quality.interval,
                    difference=None if label == DENSE else quality.difference,
                    bytes=results.benchmark.file_bytes[str(ref)],
                    times=[times.get((str(ref), shape)) for shape in shapes],
                )
            )
    return entries, warnings_of(pages, names)


def shapes_of(pages: Sequence[Page]) -> list[tuple[int, int]]:
    """Shapes that all runs were timed at, in the order of the first."""
    common = set.intersection(*(set(page.results.benchmark.shapes()) for page in pages))
    return [shape for shape in pages[0].results.benchmark.shapes() if shape in common]


def warnings_of(pages: Sequence[Page], names: Sequence[str]) -> list[str]:
    """What makes numbers of runs differ that is not the model."""

    def told(what: str, values: Sequence[object], why: str) -> str | None:
        if len(set(values)) < 2:
            return None
        shown = "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
        return f"{what} differ ({shown}): {why}."

    results = [page.results for page in pages]
    found = [
        told("Tasks", [one.task for one in results], "nothing here can be compared"),
        told("Test rows", [one.evaluation.samples for one in results],
             "the metrics are of different rows"),
        told("Data", [page.origin.data for page in pages], "metrics are of different rows"),
        told("CPUs", [one.environment.get("cpu") or "not recorded" for one in results],
             "compare speed-ups, not milliseconds, and those with care"),
        told("Threads", [one.benchmark.threads for one in results],
             "times are of different settings"),
        told("Seeds", [one.seed for one in results], "a part of the difference is chance"),
    ]  # fmt: skip
    told_all = [one for one in found if one is not None]
    if not shapes_of(pages):
        told_all.append("No shape was timed in all runs: speeds cannot be compared.")
    return told_all


def write_comparison(folders: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write the page that compares finished runs.

    Args:
        folders: of two runs or more, each with its ``metrics.json``.
        output: the HTML file; without: ``comparison.html`` in the working directory.

    Raises:
        OutputError: as for a report, or the runs cannot stand on one page.
    """
    target = Path(output) if output is not None else Path(COMPARISON_FILE)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name the HTML file to write")
    pages = [Page.read(Path(folder)) for folder in folders]
    with explained_results(Path(folders[0])):
        text = _html(pages)
    atomic_write_text(target, text)
    return target


def _html(pages: Sequence[Page]) -> str:
    entries, notes = compare(pages)
    primary, first = pages[0].results.primary, pages[0].results
    shapes = shapes_of(pages)
    unit = first.benchmark.length_unit
    charts = [_chart(entries, place, shape, primary, unit) for place, shape in enumerate(shapes)]
    return filled(
        TEMPLATE,
        name="Comparison of runs",
        primary=primary,
        before=[page.results.quality(REFERENCE).metrics[primary] for page in pages],
        names=_names(pages),
        entries=entries,
        notes=notes,
        shapes=shapes,
        confidence=first.evaluation.confidence,
        baseline=first.benchmark.baseline,
        charts=list(zip(charts, drawn(charts), strict=True)),
        legend=[(each.name, draw_marker(_shape(each), each.colour)) for each in entries],
        origins=list(zip(_names(pages), [page.origin for page in pages], strict=True)),
    )


def _shape(entry: Entry) -> Shape:
    return "square" if entry.dense else "circle"


def _chart(
    entries: Sequence[Entry], place: int, shape: tuple[int, int], primary: str, unit: str
) -> ScatterChart:
    points = tuple(
        Point(
            each.name, time.speedup, each.quality, *each.interval, each.colour,
            _shape(each),
        )
        for each in entries
        if (time := each.times[place]) is not None
    )  # fmt: skip
    # The front of times; of speed-ups it runs the other way.
    mirrored = [Point(p.name, -p.x, p.y, p.low, p.high, p.colour, p.shape) for p in points]
    front = front_of(mirrored, lower_is_better=primary in LOWER_IS_BETTER)
    by_name = {point.name: point for point in points}
    title = f"batch {shape[0]}, {shape[1]} {unit}"
    return ScatterChart(
        title, "speed-up (log)", primary, points, tuple(by_name[p.name] for p in front), "x"
    )


def _names(pages: Sequence[Page]) -> list[str]:
    """A name a run; of runs with one name, with a number."""
    found: list[str] = []
    for page in pages:
        name, number = page.name, 2
        while name in found:
            name, number = f"{page.name} ({number})", number + 1
        found.append(name)
    return found
