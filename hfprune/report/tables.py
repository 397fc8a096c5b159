"""Tables of a run's results for the console."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def quantization_table(label: str, record: dict[str, Any]) -> Table:
    """A row a candidate: settings, times, speed-up over plain int8, metric, size, verdict."""
    metric = record["metric"]
    table = Table(
        title=f"int8 of the {label} model",
        caption=(
            f"{metric} on validation rows, float32 {record['float_metric']:.4f}; speed-up over "
            f"plain dynamic int8, geometric mean of the shapes; {record['seconds']:.0f} s, "
            f"{record['not_tried']} candidates not tried for want of time"
        ),
    )
    shapes = list(dict.fromkeys(s for entry in record["candidates"] for s in entry["ms"]))
    table.add_column("settings")
    for name in (*shapes, "speed-up", metric, "agree", "MB"):
        table.add_column(name, justify="right")
    table.add_column("verdict")

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for entry in record["candidates"]:
        size = entry["file_bytes"]
        table.add_row(
            ", ".join(f"{key}: {value}" for key, value in entry["settings"].items()) or "plain",
            *(shown(entry["ms"].get(shape), ".2f") for shape in shapes),
            shown(entry["speedup"], ".2f"),
            shown(entry["metric"], ".4f"),
            shown(entry["agreement"], ".3f"),
            shown(size and size / 1e6, ".1f"),
            entry["refused"] or "chosen",
        )
    return table


def summary_table(results: dict[str, Any]) -> Table:
    """A row a model: quality with its interval, size, latency and speed-up at each shape."""
    evaluation, benchmark = results["evaluation"], results["benchmark"]
    primary = evaluation["primary"]
    shapes = list(
        dict.fromkeys((row["batch_size"], row["sequence_length"]) for row in benchmark["rows"])
    )
    removed = {
        label: f"{entry['sparsity']:.1%}"
        for label, entry in (results.get("family") or {"": results["pruning"]}).items()
    }
    table = Table(
        title="encoder weights removed: "
        + ", ".join(f"{label} {share}".strip() for label, share in removed.items()),
        caption=(
            f"{primary} on {evaluation['samples']} test samples, {evaluation['confidence']:.0%} "
            f"interval; speed-up over {benchmark['baseline']}, {benchmark['threads']} thread(s), "
            f"batch x length, median of {benchmark['repeats']} interleaved rounds; one seed "
            f"({results['seed']})"
        ),
    )
    table.add_column("model")
    table.add_column(primary, justify="right")
    table.add_column("interval", justify="right")
    table.add_column("MB", justify="right")
    for batch, length in shapes:
        table.add_column(f"{batch}x{length}", justify="right")
    for name, entry in evaluation["models"].items():
        rows = {
            (row["batch_size"], row["sequence_length"]): row
            for row in benchmark["rows"]
            if row["name"] == name
        }
        low, high = entry["interval"]
        table.add_row(
            name,
            f"{entry['metrics'][primary]:.4f}",
            f"{low:.3f}-{high:.3f}",
            f"{benchmark['file_bytes'][name] / 1e6:.1f}",
            *(f"{rows[s]['median_ms']:.2f} ms {rows[s]['speedup']:.1f}x" for s in shapes),
        )
    return table
