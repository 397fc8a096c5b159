#!/usr/bin/env python
"""Choose the files of one finished model again and again: would tomorrow's choice be the same?

    python scripts/repeat_choice.py runs/reviews --repeats 20 --busy 10

Each search is the one that a run makes, ``--busy`` of them beside a process that keeps another core
at work. Afterwards all candidates are timed together for long, in processor time; a choice is good
if its file is at most a tenth slower there than the best that may be deployed. Prints the choices
and how many are good, and writes them to ``repeats.json`` in ``--output``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from scripting import carry_out, parser_of

# A choice within this of the best is as good.
GOOD = 1.10
# Rounds of the long timing at the end.
ROUNDS = 60


def _work() -> None:
    """Keep a core at work until the process is ended."""
    import numpy as np

    values = np.ones((400, 400), dtype=np.float32)
    while True:
        values = values @ values / 400


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Another process works meanwhile."""
    if not wanted:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_work, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def repeat(options: argparse.Namespace) -> dict[str, Any]:
    from hfprune.core.kinds import kind_of_task
    from hfprune.core.model_ref import DENSE, PRUNED
    from hfprune.deploy.choose.choosing import MOST_TEXTS, choose_files, inputs_only
    from hfprune.deploy.choose.trying import Trials, list_candidates
    from hfprune.deploy.runtimes.predicting import padding
    from hfprune.deploy.runtimes.registry import runtime
    from hfprune.measure.traffic import TrafficTimer, traffic_batches
    from hfprune.pipeline.context import Context
    from hfprune.pipeline.stages import data
    from hfprune.pipeline.stages.deploy import judging_of
    from hfprune.pipeline.stages.export import calibration_rows, reading_of
    from hfprune.recipe.reading import load_recipe
    from hfprune.report.console import Console

    folder = options.folder
    recipe = load_recipe(folder / "recipe.yaml", [*options.overrides, "training.bf16=false"])
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hfprune-repeat-") as name:
        place = Path(name)
        changes = {"output_dir": str(place / "run")}
        context = Context.of(recipe.model_copy(update=changes), Console(quiet=True))
        prepared = data.prepare(context)
        reading = reading_of(prepared, DENSE if options.dense else PRUNED)
        judging, calibration = judging_of(context, reading), calibration_rows(context, reading)
        settings = recipe.deploy
        names = settings.runtimes if settings is not None else ["onnxruntime", "openvino"]
        seconds = options.seconds or (settings.seconds if settings is not None else 120.0)
        size, threads = recipe.benchmark.batch_sizes[-1], recipe.benchmark.threads
        uses = recipe.benchmark.uses
        for number in range(options.repeats):
            beside = number < options.busy
            with busy(beside):
                record = choose_files(
                    folder / "onnx", place / str(number), judging, calibration=calibration,
                    task=kind_of_task(recipe.task).export_task, uses=uses, batch_size=size,
                    threads=threads, seconds=seconds, runtimes=names,
                )  # fmt: skip
            chosen = {use: record.uses[use].candidate for use in uses}
            found.append({"busy": beside, "chosen": chosen, "seconds": record.seconds})
            print(f"{number + 1}: {chosen}{' (busy)' if beside else ''}", file=sys.stderr)
        trials = Trials(folder / "onnx", place / "all", judging, calibration, size, threads)
        candidates = list_candidates([r for n in names if (r := runtime(n)).missing() is None])
        trials.try_all(candidates, lambda: False)
        able = {c.name: c.session for c in candidates if c.eligible}
        truth: dict[str, dict[str, float]] = {}
        for use in uses:
            pad = inputs_only(padding(judging.collator))
            batches = traffic_batches(judging.rows, pad, use, batch_size=size, most=MOST_TEXTS[use])
            timer = TrafficTimer(able, batches, use)
            timer.warm_up(list(able))
            for _ in range(options.rounds):
                timer.round(list(able))
            truth[use] = {n: timer.row(n).process_ms for n in able}
    good = 0
    for one in found:
        one["regret"] = {
            use: truth[use].get(chosen, float("inf")) / min(truth[use].values())
            for use, chosen in one["chosen"].items()
        }
        good += all(value <= GOOD for value in one["regret"].values())
    return {"searches": found, "truth_ms": truth, "good": good, "of": len(found)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="of a finished run")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--busy", type=int, default=10, help="so many of them, the first")
    parser.add_argument("--seconds", type=float, help="for each; without: as the recipe has it")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the timing at the end")
    parser.add_argument("--dense", action="store_true", help="DIR/onnx is of the dense model")
    parser.add_argument("--output", type=Path, default=Path("runs/repeats"))
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="of its recipe")
    return carry_out(work, parser.parse_args(arguments))


def work(options: argparse.Namespace) -> int:
    from hfprune.core.files import atomic_write_json

    found = repeat(options)
    options.output.mkdir(parents=True, exist_ok=True)
    atomic_write_json(options.output / "repeats.json", found)
    for use, times in found["truth_ms"].items():
        for name, ms in sorted(times.items(), key=lambda pair: pair[1]):
            print(f"{use:>8} {ms:9.3f} ms  {name}")
    print(f"{found['good']} of {found['of']} choices within 10% of the best")
    return 0


if __name__ == "__main__":
    sys.exit(main())
