"""The picture of ``benchmark_methods.py``: what methods reach at which speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot(summary: Sequence[dict[str, Any]], path: Path) -> None:
    """Metric against measured speed-up at the first shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shape = next(iter(summary[0]["speedup"]))
    figure, axes = plt.subplots(figsize=(8, 5))
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in summary:
        method = row["name"].rsplit(maxsplit=1)[0]  # without its strength, the last word if any
        curves.setdefault(method, []).append(row)
    for rows in curves.values():
        rows.sort(key=lambda row: row["speedup"][shape])
        points = [(row["speedup"][shape], row["metric"]) for row in rows]
        axes.plot(*zip(*points, strict=True), marker="o", linewidth=1)
    for row in summary:
        axes.annotate(
            row["name"], (row["speedup"][shape], row["metric"]), xytext=(4, 4),
            textcoords="offset points", fontsize=7,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel(f"speed-up over the dense float32 ONNX model, {shape}")
    axes.set_ylabel("metric on the test split")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
