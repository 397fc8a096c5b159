"""The charts of a report as PNG, for papers and model cards. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from hfprune.core.errors import MissingExtraError
from hfprune.core.results import Kept
from hfprune.core.text import visible
from hfprune.report.charts import LineChart, ScatterChart, log_ticks

INSTALL_HINT = 'pip install "hfprune[bench]"'

# Dense first, then models in their order; the report's colours on white.
COLOURS = ("#6b7280", "#2563eb", "#c2410c", "#15803d", "#7e22ce", "#be123c")
_MARKERS = {"circle": "o", "square": "s", "diamond": "D"}
_DPI = 150


def check_matplotlib() -> None:
    """Raises MissingExtraError without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"figures need matplotlib: {INSTALL_HINT} ({type(error).__name__}: {error})"
        ) from error


def _figure(
    plots: int, width: float, height: float, columns: int | None = None
) -> tuple[Any, list[Any]]:
    """A figure, and its plots in rows of ``columns`` (all in one); sizes of one plot in inches."""
    from matplotlib.figure import Figure

    across = min(columns or plots, plots)
    down = -(-plots // across)

    # A figure of its own: no global state, no window, whatever the caller does with pyplot.
    figure = Figure(figsize=(max(width * across, 3.0), height * down), layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in grid[plots:]:
        unused.set_axis_off()
    return figure, grid[:plots]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    # No date and no version inside: the same numbers give the same file.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def scatter_png(charts: Sequence[ScatterChart]) -> bytes:
    """Quality against time, a plot a chart side by side; models are named beside their marks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, plots = _figure(len(charts), 4.4, 3.4, columns=2)
    for chart, axes in zip(charts, plots, strict=True):
        for p in chart.points:
            colour = COLOURS[p.colour]
            spread = [[max(p.y - p.low, 0.0)], [max(p.high - p.y, 0.0)]]
            axes.errorbar(
                p.x, p.y, yerr=spread, color=colour, marker=_MARKERS[p.shape], markersize=5,
                elinewidth=0.8, linestyle="none", label=_plain(p.name),
            )  # fmt: skip
        xs, ys = [p.x for p in chart.front], [p.y for p in chart.front]
        axes.plot(xs, ys, color="#9ca3af", linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        axes.set_title(_plain(chart.title), fontsize=9)
        axes.set_xlabel(chart.x_name)
        axes.set_ylabel(chart.y_name)
        axes.grid(alpha=0.25)
    handles, names = plots[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, loc="outside lower center", ncols=3)
    return _png(figure)


def lines_png(charts: Sequence[LineChart]) -> bytes:
    """Each chart a plot, side by side."""
    from matplotlib.ticker import PercentFormatter

    figure, plots = _figure(len(charts), 3.6, 3.0)
    for chart, axes in zip(charts, plots, strict=True):
        for line in chart.lines:
            axes.plot(
                [x for x, _ in line.points], [y for _, y in line.points],
                color=COLOURS[line.colour], alpha=0.5 if line.faint else 1.0, linewidth=1.4,
                label=_plain(line.name),
                drawstyle="steps-post" if line.steps else "default",
                marker="o" if len(line.points) <= 30 else None, markersize=3,
            )  # fmt: skip
        for x, name in chart.marks:
            axes.axvline(x, color="#9ca3af", linewidth=0.8, linestyle="--")
            axes.text(
                x, 0.98, f" {name}", fontsize=7, va="top", transform=axes.get_xaxis_transform()
            )
        if chart.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        axes.margins(y=0.12)  # room for the names of stages
        axes.set_title(_plain(chart.title), fontsize=9)
        axes.set_xlabel(chart.x_name)
        axes.grid(alpha=0.25)
        if len(chart.lines) > 1:
            axes.legend(fontsize=7)
    return _png(figure)


def layers_png(members: Mapping[str, Kept]) -> bytes:
    """Kept heads and neurons of each layer, a plot a model.

    Args:
        members: by label.
    """
    depth = max(len(kept.heads) for kept in members.values())
    figure, plots = _figure(len(members), 2.4, 1.2 + 0.3 * depth)
    for (name, kept), axes in zip(members.items(), plots, strict=True):
        rows = list(zip(kept.heads, kept.of_heads, kept.neurons, kept.of_neurons, strict=True))
        shares = [[h / max(of_h, 1), n / max(of_n, 1)] for h, of_h, n, of_n in rows]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.9, aspect="auto")
        for y, (heads, _, neurons, _) in enumerate(rows):
            axes.text(0, y, str(heads), ha="center", va="center", fontsize=8)
            axes.text(1, y, str(neurons), ha="center", va="center", fontsize=8)
        axes.set_xticks([0, 1], ["heads", "neurons"])
        axes.set_yticks(range(len(rows)))
        axes.set_ylabel("layer")
        axes.set_title(_plain(name), fontsize=9)
    return _png(figure)


def confusion_png(tables: Mapping[str, Sequence[Sequence[int]]], labels: Sequence[str]) -> bytes:
    """Counts by true and predicted class, a plot a model, coloured by share of the true class."""
    side = 1.4 + 0.45 * len(labels)
    figure, plots = _figure(len(tables), side + 0.6, side)
    for (name, table), axes in zip(tables.items(), plots, strict=True):
        shares = [[cell / max(sum(row), 1) for cell in row] for row in table]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.9)
        for y, row in enumerate(table):
            for x, count in enumerate(row):
                axes.text(x, y, str(count), ha="center", va="center", fontsize=8)
        names = [_plain(label[:18]) for label in labels]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(_plain(name), fontsize=9)
    return _png(figure)


def _plain(text: str) -> str:
    """Text as it stands: matplotlib would set what is between dollars as mathematics."""
    return visible(text).replace("$", r"\$")
