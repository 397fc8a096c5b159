#!/usr/bin/env python
"""What the choice of files brings: the recommended ones beside plainer files of the same weights.

    python scripts/benchmark_files.py runs/reviews --dense runs/reviews/dense/onnx

For each directory of a finished run these are timed together, interleaved, on validation texts one
by one and in batches: the dense float32 file, the dense model as each runtime usually runs it
fastest, its files as a run chose them (``--dense-best``), plain dynamic int8, int8 with the usual
settings and one activation scale a batch (what hfprune took before scales were constant), the
float32 file, and what ``deploy.json`` recommends for each use. Then the metric of each on the test
rows, and on how many of them the recommended file says something else than float32, and something
else at another batch size. Prints two tables, and writes ``files.json`` in ``--output``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from scripting import carry_out, parser_of

# Rounds of the timing, and the batch sizes that a file must say the same at.
ROUNDS, SIZES = 40, (1, 8, 32, 64)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The times and metrics of one directory."""
    import numpy as np

    from hfprune.core.model_ref import PRUNED
    from hfprune.deploy.choose.choosing import MOST_TEXTS, inputs_only
    from hfprune.deploy.choose.record import read_deployment
    from hfprune.deploy.quantize.outcome import PLAIN, USUAL
    from hfprune.deploy.quantize.quantizing import quantize_onnx
    from hfprune.deploy.runtimes.onnx_session import OnnxClassifier
    from hfprune.deploy.runtimes.predicting import padding, predict_logits
    from hfprune.deploy.runtimes.registry import runtime, usable_runtimes
    from hfprune.measure.latency import paired_ratio
    from hfprune.measure.scores import score
    from hfprune.measure.traffic import TrafficTimer, traffic_batches
    from hfprune.pipeline.context import Context
    from hfprune.pipeline.stages import data
    from hfprune.pipeline.stages.deploy import judging_of
    from hfprune.pipeline.stages.export import calibration_rows, reading_of
    from hfprune.recipe.reading import load_recipe
    from hfprune.report.console import Console

    recipe = load_recipe(folder / "recipe.yaml", [*options.overrides, "training.bf16=false"])
    found: dict[str, Any] = {"folder": folder.name, "speedup": {}, "over_usual": {}, "test": {}}
    with tempfile.TemporaryDirectory(prefix="hfprune-files-") as name:
        place = Path(name)
        changes = {"output_dir": str(place / "run")}
        context = Context.of(recipe.model_copy(update=changes), Console(quiet=True))
        prepared = data.prepare(context)
        reading = reading_of(prepared, PRUNED)
        judging, threads = judging_of(context, reading), recipe.benchmark.threads
        files: dict[str, Any] = {"dense float32": OnnxClassifier(options.dense / "model.onnx")}
        rows = calibration_rows(context, reading)
        for each in usable_runtimes():
            if each.keeps or not each.offers():
                continue
            offer = min(each.offers(), key=lambda offer: offer.prior)
            target = place / f"dense-{each.name}"
            target.mkdir()
            file = each.write(options.dense, target, offer, calibration=rows)
            label = f"dense, {each.title} {offer.precision}"
            files[label] = each.open(file, threads, offer.precision)
        for what, settings in (("plain int8", PLAIN), ("usual int8, scale a batch", USUAL)):
            target = place / what.replace(" ", "-")
            target.mkdir()
            for file in (folder / "onnx").glob("*"):
                if file.is_file() and "quantized" not in file.name:
                    shutil.copy2(file, target)
            quantize_onnx(target, settings)
            files[what] = OnnxClassifier(target / "model_quantized.onnx")
        files["float32"] = OnnxClassifier(folder / "onnx/model.onnx")
        recommended = {}
        for owner, root in (("dense", options.dense_best), ("recommended", folder)):
            for use, best in read_deployment(root).uses.items() if root is not None else ():
                opened = runtime(best.runtime).open(root / best.path, threads, best.precision)
                label = f"{owner} for {use}: {best.runtime} {best.precision} {best.graph}"
                files[label] = opened
                if owner == "recommended":
                    recommended[use] = label
        size = recipe.benchmark.batch_sizes[-1]
        pad = inputs_only(padding(judging.collator))
        for use, chosen in recommended.items():
            batches = traffic_batches(judging.rows, pad, use, batch_size=size, most=MOST_TEXTS[use])
            timer = TrafficTimer(files, batches, use)
            timer.warm_up(list(files))
            for _ in range(options.rounds):
                timer.round(list(files))
            times = timer.process  # of one thread each, whatever else the machine does
            base = times["dense float32"]
            ratios = {n: paired_ratio(base, times[n]) for n in files}
            found["speedup"][use] = {n: [r.value, r.low, r.high] for n, r in ratios.items()}
            gain = paired_ratio(times["usual int8, scale a batch"], times[chosen])
            found["over_usual"][use] = [gain.value, gain.low, gain.high]
        split, metric = reading.data, recipe.evaluation.metrics[0]
        labels = split.label_array("test")

        def told(session: Any, batch: int) -> Any:
            logits = predict_logits(session, split.test, reading.collator, batch_size=batch)
            return split.by_text("test", logits)

        def value(logits: Any) -> float:
            return score(metric, logits, labels, split.task, split.num_labels, split.label_names)

        exact = told(files["float32"], size)
        found["metrics"] = {name: value(told(file, size)) for name, file in files.items()}
        found["test"] = {"rows": len(labels), "metric": metric, "float32": value(exact)}
        for use, label in recommended.items():
            each = {batch: told(files[label], batch) for batch in SIZES}
            served = each[1 if use == "single" else SIZES[2]]
            found["test"][use] = {
                "file": label,
                "metric": value(served),
                "differs_from_float32": int((served.argmax(-1) != exact.argmax(-1)).sum()),
                "differs_by_batch": int(
                    np.stack([logits.argmax(-1) != each[1].argmax(-1) for logits in each.values()])
                    .any(0)
                    .sum()
                ),
            }
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a directory and use."""
    lines = [
        "| model | use | recommended | over dense float32 | over usual int8, scale a batch | metric"
        " of float32 | of the file | rows that differ | by batch |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        for use, gain in one["over_usual"].items():
            test = one["test"][use]
            speed = one["speedup"][use][test["file"]]
            lines.append(
                f"| {one['folder']} | {use} | {test['file'].split(': ')[1]} | {speed[0]:.1f}x "
                f"({speed[1]:.1f} to {speed[2]:.1f}) | {gain[0]:.2f}x ({gain[1]:.2f} to "
                f"{gain[2]:.2f}) | {one['test']['float32']:.4f} | {test['metric']:.4f} | "
                f"{test['differs_from_float32']} of {one['test']['rows']} | "
                f"{test['differs_by_batch']} |"
            )
    return "\n".join(lines)


def each_file(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a file, its speed-ups over dense float32 by use, and its metric."""
    uses = list(dict.fromkeys(use for one in found for use in one["speedup"]))
    lines = [
        f"| model | file | {' | '.join(uses)} | metric |",
        f"|---|---|{'---|' * len(uses)}---|",
    ]
    for one in found:
        for name, metric in one["metrics"].items():
            speeds = [f"{one['speedup'][use][name][0]:.1f}x" for use in uses]
            lines.append(f"| {one['folder']} | {name} | {' | '.join(speeds)} | {metric:.4f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="of a finished run")
    parser.add_argument("--dense", type=Path, required=True, help="with the dense model.onnx")
    parser.add_argument("--dense-best", type=Path, help="with the dense model's deploy.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, default=Path("runs/files"))
    parser.add_argument(
        "--set", nargs="*", default=[], dest="overrides", metavar="key.path=value",
        help="of the recipes",
    )  # fmt: skip
    return carry_out(work, parser.parse_args(arguments))


def work(options: argparse.Namespace) -> int:
    from hfprune.core.files import atomic_write_json

    found = [measure(folder, options) for folder in options.folders]
    options.output.mkdir(parents=True, exist_ok=True)
    atomic_write_json(options.output / "files.json", found)
    print(f"{table(found)}\n\n{each_file(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
