"""Tables of a run's results for the console."""

from __future__ import annotations

from rich.table import Table

from hfprune.core.records import QuantizationCandidate, QuantizationRecord
from hfprune.core.results import RunResults
from hfprune.core.text import cell, markup


def quantization_table(label: str, record: QuantizationRecord) -> Table:
    """A row a candidate: settings, times, speed-up over plain int8, metric, size, verdict."""
    table = Table(
        title=markup(f"int8 of the {label} model"),
        caption=markup(
            f"{record.metric} on validation rows, float32 {record.float_metric:.4f}; speed-up over "
            f"plain dynamic int8, geometric mean of the shapes; {record.seconds:.0f} s, "
            f"{record.not_tried} candidates not tried for want of time"
        ),
    )
    shapes = record.shapes()
    table.add_column("settings")
    for name in (*shapes, "speed-up", record.metric, "agree", "MB"):
        table.add_column(markup(name), justify="right")
    table.add_column("verdict")

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for entry in record.candidates:
        size = entry.file_bytes
        table.add_row(
            cell(", ".join(f"{key}: {val}" for key, val in entry.settings.items()) or "plain"),
            *(shown(entry.ms.get(shape), ".2f") for shape in shapes),
            shown(entry.speedup, ".2f"),
            shown(entry.metric, ".4f"),
            shown(entry.agreement, ".3f"),
            shown(size and size / 1e6, ".1f"),
            cell(_verdict(entry)),
        )
    return table


def _verdict(entry: QuantizationCandidate) -> str:
    said = entry.refused or "chosen"
    if entry.depends_on_batch:
        said += f"; predictions depend on the batch: {entry.depends_on_batch} rows"
    return said


def summary_table(results: RunResults) -> Table:
    """A row a model: quality with its interval, size, latency and speed-up at each shape."""
    evaluation, benchmark = results.evaluation, results.benchmark
    primary, shapes, times = results.primary, benchmark.shapes(), benchmark.times()
    removed = ", ".join(
        f"{kept.sparsity:.1%}" if results.family is None else f"{label} {kept.sparsity:.1%}"
        for label, kept in results.members.items()
    )
    table = Table(
        title=markup(f"encoder weights removed: {removed}"),
        caption=markup(
            f"{primary} on {evaluation.samples} test samples, {evaluation.confidence:.0%} "
            f"interval; speed-up over {benchmark.baseline}, {benchmark.threads} thread(s), "
            f"batch x length, median of {benchmark.repeats} interleaved rounds; one seed "
            f"({results.seed})"
        ),
    )
    table.add_column("model")
    table.add_column(markup(primary), justify="right")
    table.add_column("interval", justify="right")
    table.add_column("MB", justify="right")
    for batch, length in shapes:
        table.add_column(f"{batch}x{length}", justify="right")
    for name, entry in evaluation.models.items():
        low, high = entry.interval
        rows = (times[name, shape] for shape in shapes)
        table.add_row(
            cell(name),
            f"{entry.metrics[primary]:.4f}",
            f"{low:.3f}-{high:.3f}",
            f"{benchmark.file_bytes[name] / 1e6:.1f}",
            *(f"{row.median_ms:.2f} ms {row.speedup:.1f}x" for row in rows),
        )
    return table
