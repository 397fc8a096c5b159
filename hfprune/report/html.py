"""The report of a finished run: one HTML file that loads nothing, and its charts as PNG.

What it shows is a :class:`~hfprune.report.page.Page`; how it looks is in ``templates/``. The
sentences in it are rows of the test split: think of that before you pass it on.
:func:`hfprune.publish.push.push` publishes neither the report nor ``details.json``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfprune.core.errors import MissingExtraError, OutputError
from hfprune.core.files import atomic_write_bytes, atomic_write_text
from hfprune.core.results import METRICS_FILE
from hfprune.core.text import visible
from hfprune.report.charts import draw_marker, drawn
from hfprune.report.curves import colour_of, pareto, schedules, shape_of
from hfprune.report.deployment import deployment_part
from hfprune.report.figures import (
    check_matplotlib,
    confusion_png,
    layers_png,
    lines_png,
    scatter_png,
)
from hfprune.report.page import NEEDED_BY, Page
from hfprune.report.sure import sure_part

REPORT_FILE = "report.html"
FIGURES_FOLDER = "figures"
TEMPLATE = "report.html.jinja"
TEMPLATES = Path(__file__).parent / "templates"


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
    page = Page.read(place)
    target = Path(output) if output is not None else place / REPORT_FILE
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name the HTML file to write")
    with explained_results(place):
        text = _html(page)
    written, figures = [target], {}
    note: str | None = None
    try:
        check_matplotlib()
    except MissingExtraError as error:
        note = f"the report has no PNG figures: {error}"
    else:
        with explained_results(place):
            figures = _figures(page)
    for name, data in figures.items():
        written.append(target.parent / FIGURES_FOLDER / f"{name}.png")
        atomic_write_bytes(written[-1], data)
    atomic_write_text(target, text)
    return written, note


def render(folder: str | Path) -> str:
    """The report of a finished run as HTML; errors as :func:`write_report`."""
    place = Path(folder)
    page = Page.read(place)
    with explained_results(place):
        return _html(page)


@contextmanager
def explained_results(folder: Path) -> Iterator[None]:
    """Results that lack what they must have are an OutputError."""
    from jinja2 import UndefinedError

    wrong = (KeyError, IndexError, TypeError, AttributeError, ValueError, UndefinedError)
    try:
        yield
    except wrong as error:
        raise OutputError(
            f"{folder / METRICS_FILE} lacks something that {NEEDED_BY} needs "
            f"({type(error).__name__}: {error}); was it edited?"
        ) from error


def filled(template: str, **values: Any) -> str:
    """A template with values; text of theirs is escaped, and only our own script may run.

    The style and the script are in the page itself, and a policy names the script by its digest.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 (ours)
        script=Markup(script),  # noqa: S704 (ours)
        script_digest=digest,
        **values,
    )


def _html(page: Page) -> str:
    results = page.results
    found = page.verdicts()
    charts = pareto(results)
    return filled(
        TEMPLATE,
        name=page.name,
        verdicts=found,
        deployed=[str(each.ref) for each in found],
        usage=page.usage(),
        origin=page.origin,
        results=results,
        primary=results.primary,
        metrics=page.metrics,
        confidence=results.evaluation.confidence,
        samples=results.evaluation.samples,
        benchmark=results.benchmark,
        unit=results.benchmark.length_unit,
        shapes=results.benchmark.shapes(),
        members=results.members,
        headlines=list(page.headlines()),
        deployment=deployment_part(results),
        sure=sure_part(results),
        cascade=page.cascade,
        layouts=page.layouts(),
        table=list(page.table()),
        pareto=list(zip(charts, drawn(charts), strict=True)),
        legend=[
            (str(ref), draw_marker(shape_of(ref), colour_of(results, ref.label)))
            for ref in results.refs()
        ],
        schedules=[
            (label, list(zip(curves, drawn(curves), strict=True)))
            for label, curves in schedules(results, page.details)
        ],
        by_class=list(page.by_class()),
        changed=list(page.changed()),
        candidates=page.candidates(),
        quantization=results.quantization or {},
        search=results.search,
        vocabulary=results.vocabulary,
        data=results.data,
        environment=results.environment,
        seconds=results.seconds,
        recipe=page.recipe,
    )


def _figures(page: Page) -> dict[str, bytes]:
    """PNG files by name, without the ending."""
    results = page.results
    found = {
        "accuracy_latency": scatter_png(pareto(results)),
        "layers": layers_png(results.members),
    }
    for label, charts in schedules(results, page.details):
        found[f"training_{_file_name(label)}"] = lines_png(charts)
    for part in page.by_class():
        if part.confusion:
            name = f"confusion_{_file_name(part.label)}"
            found[name] = confusion_png(part.confusion, part.labels)
    return found


def _shown(value: Any) -> Any:
    """What a template puts into the page: text without control characters, charts as drawn."""
    return visible(value) if type(value) is str else value


def _file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in label)
