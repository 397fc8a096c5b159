#!/usr/bin/env python
"""Uniform layers against uneven ones: the same model, data, epochs, seeds and measured speeds.

    python scripts/benchmark_layouts.py --recipe recipes/movie-reviews-minilm-speed.yaml
    python scripts/benchmark_layouts.py --recipe recipes/movie-reviews-minilm-speed.yaml --short \\
        --output runs/short

For each seed one dense teacher is trained; a family of each ``pruning.layout`` starts from it. A
temperature is fitted to every pruned model (``export.temperature``), and of each family the fastest
member and the slowest make a cascade. What is finished is not repeated when the script is started
again, and an interrupted run goes on. At the end all models are timed together, as in
``benchmark_methods.py``. Writes ``layouts.json`` and ``layouts.md`` to --output, and the latter to
--table too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
import benchmark_methods as shared
import scripting

LAYOUTS = ("uneven", "uniform")
CASCADE = "cascade"
# What a cascade may lose against its slow member on the validation rows.
MAX_DROP = 0.005


def layouts(speeds: Sequence[float], epochs: float) -> dict[str, dict[str, Any]]:
    """Name to the sections that differ from the recipe."""
    return {
        layout: {
            "pruning": {
                "speedup": list(speeds),
                "method": "reconstruction",
                "layout": layout,
            },
            "recovery": {"num_train_epochs": epochs},
        }
        for layout in LAYOUTS
    }


def compare(options: argparse.Namespace) -> int:
    from hfprune.core.files import atomic_write_json, atomic_write_text

    options.overrides = ["export.temperature=true", *options.overrides]
    rows = shared.measured(options, layouts, ())
    if options.untimed:
        return 0
    for row in rows:
        row["probabilities"] = _probabilities(options.output, row)
    drop = 1.0 if options.short else MAX_DROP
    asked = list(_cascades(options.output, rows, drop))
    summary = list(shared._summary(rows))
    for each in summary:
        mine = [row["probabilities"] for row in rows if row["name"] == each["name"]]
        told = [found for found in mine if found]
        each["ece"] = statistics.fmean(found["ece"] for found in told) if told else None
        each["brier"] = statistics.fmean(found["brier"] for found in told) if told else None
    found = {"rows": rows, "summary": summary, "cascades": asked}
    atomic_write_json(options.output / "layouts.json", found)
    table = "\n".join([*_table(summary), "", *_cascade_table(asked)]) + "\n"
    for file in (options.output / "layouts.md", options.table):
        if file is not None:
            atomic_write_text(file, table)
    print(table)
    print(f"written: {options.output / 'layouts.md'}, layouts.json")
    return 0


def _folder(output: Path, layout: str, seed: int) -> Path:
    return output / f"seed-{seed}" / layout


def _probabilities(output: Path, row: dict[str, Any]) -> dict[str, float] | None:
    """Calibration error and Brier score of a row's model, as its run measured them."""
    from hfprune.core.model_ref import BASELINE, DENSE, ModelRef
    from hfprune.core.results import read_results

    layout, _, label = row["name"].partition(" ")
    ref = ModelRef(label, "int8")
    if layout not in LAYOUTS:  # the dense models stand in each run
        layout = next(name for name in LAYOUTS if _folder(output, name, row["seed"]).is_dir())
        ref = BASELINE if row["name"] == shared.DENSE else ModelRef(DENSE, "int8")
    models = read_results(_folder(output, layout, row["seed"])).evaluation.models
    return models[str(ref)].probabilities if str(ref) in models else None


def _cascades(
    output: Path, rows: Sequence[dict[str, Any]], max_drop: float
) -> Iterator[dict[str, Any]]:
    """Of each family the record of its cascade, or why there is none; made once."""
    from hfprune.core.errors import OutputError
    from hfprune.deploy.predict.cascade import CASCADE_FILE, read_cascade
    from hfprune.deploy.predict.cascading import make_cascade

    families = {(row["name"].split()[0], row["seed"]) for row in rows}
    for layout, seed in sorted(pair for pair in families if pair[0] in LAYOUTS):
        folder = _folder(output, layout, seed)
        told: dict[str, Any] = {"name": f"{layout} {CASCADE}", "seed": seed}
        try:
            if not (folder / CASCADE_FILE).is_file():
                make_cascade(folder, max_drop=max_drop)
            told["record"] = read_cascade(folder).model_dump(mode="json")
        except OutputError as error:
            told["why"] = str(error)
        yield told


def _table(summary: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table of methods, with the calibration error and the Brier score behind it."""
    head, rule, *lines = shared._table(summary)
    yield f"{head} ECE | Brier |"
    yield f"{rule}---|---|"
    for line, row in zip(lines, summary, strict=True):
        told = [row[name] for name in ("ece", "brier")]
        cells = ["-" if value is None else f"{value:.4f}" for value in told]
        yield f"{line} {' | '.join(cells)} |"


def _cascade_table(asked: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| model | seed | metric | interval | mean ms | p95 ms | slow asked | over dense |"
    yield "|---|---|---|---|---|---|---|---|"
    for told in asked:
        record = told.get("record")
        if record is None:
            yield f"| {told['name']} | {told['seed']} | none: {told['why']} | | | | | |"
            continue
        dense = record["dense"]
        for part, row in record["measured"].items():
            low, high = row["interval"]
            name = told["name"] if part == CASCADE else f"{told['name']}: {part}, {record[part]}"
            speed = "-" if dense is None else f"{dense['speedup'][part]:.1f}x"
            yield (
                f"| {name} | {told['seed']} | {row['metric']:.4f} | {low:.3f} to {high:.3f} | "
                f"{row['mean_ms']:.2f} | {row['p95_ms']:.2f} | {row['slow_share']:.0%} | {speed} |"
            )
        if dense is not None:
            low, high = dense["interval"]
            yield (
                f"| dense | {told['seed']} | {dense['metric']:.4f} | {low:.3f} to {high:.3f} "
                "| | | | 1.0x |"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = shared.parser_of(__doc__ or "", (4.0, 8.0, 12.0), "runs/layouts")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there too")
    return scripting.carry_out(compare, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
