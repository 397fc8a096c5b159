"""Runs a recipe again and again, killed each time, until it ends; see test_resume.py.

Libraries are imported once, and every attempt is a fork, so that a kill costs what the attempt
did and not the start of Python. An attempt runs ``scripts/prune.py`` as a user would.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import transformers

import hfprune.deploy.quantize.search
import hfprune.pruning.state
import hfprune.training.trainer
from hfprune.deploy.speed.landing import Landing
from hfprune.pipeline.stages import (
    benchmark,
    evaluate,
    export,
    latency,
    prune,
    reconstruct,
    recover,
    teacher,
    trial,
    write,
)
from hfprune.pipeline.store import StageStore
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.importance import GradientScores
from hfprune.training.pruner import Pruner

for late in ("optimum.exporters.onnx", "optimum.onnxruntime"):  # what the export imports late
    with suppress(ImportError):  # transformers 5 has an exporter of ours
        import_module(late)

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "prune.py"
ATTEMPTS = 60


class Point(NamedTuple):
    """Die at the nth call of a function: before it, after it, or with half of its file written."""

    owner: Any
    name: str
    when: str
    nth: int


TRAINER = hfprune.training.trainer.HFPruneTrainer
GATES = (  # in the order in which a run comes to them
    Point(os, "replace", "before", 2),  # its own record half written
    Point(transformers.Trainer, "_save_optimizer_and_scheduler", "before", 2),
    Point(transformers.Trainer, "training_step", "before", 7),
    Point(transformers.PreTrainedModel, "save_pretrained", "after", 2),  # not yet in its place
    Point(teacher, "keep", "after", 1),  # the teacher is there, but not yet recorded
    Point(GradientScores, "update", "before", 3),
    Point(Pruner, "_next_plan", "after", 2),  # at a step of the schedule
    Point(hfprune.pruning.state, "save_file", "half", 1),  # the scores, within a checkpoint
    Point(TRAINER, "_save_checkpoint", "after", 1),
    Point(TRAINER, "shrink", "before", 1),
    Point(prune, "keep", "before", 1),
    Point(transformers.Trainer, "training_step", "after", 3),  # of the recovery
    Point(export, "export_onnx", "after", 1),
    Point(export, "quantize_onnx", "before", 1),
    # In the search; a second setting may find its time over where other work holds it up.
    Point(hfprune.deploy.quantize.search, "quantize_onnx", "after", 1),
    Point(evaluate, "run", "after", 1),
    Point(benchmark, "run", "before", 1),
    Point(shutil, "copytree", "after", 1),  # the output half assembled
    Point(write, "write_card", "before", 1),
    Point(StageStore, "remove", "before", 1),  # the output is there, the work not yet deleted
    Point(Path, "rename", "after", 1),  # while it is deleted
)


SPEED = (  # of a family, by reconstruction, with two targets
    Point(transformers.Trainer, "training_step", "before", 5),
    Point(teacher, "keep", "after", 1),
    Point(latency, "export_onnx", "after", 1),  # the baseline
    Point(latency, "latency_table", "after", 1),
    Point(reconstruct, "keep", "after", 2),  # the second candidate
    Point(trial, "divergences", "after", 1),
    Point(recover, "keep", "before", 1),
    Point(reconstruct, "land", "before", 3),  # of the second target
    Point(StageStore, "put", "after", 2),
    Point(recover, "keep", "after", 1),
    Point(export, "export_onnx", "after", 3),
    Point(write, "write_card", "after", 1),
    Point(StageStore, "remove", "after", 1),
)
# One int8 setting, as which of many is the fastest hangs on the machine's other work.
RERANKING = tuple(point for point in GATES if point.owner is not hfprune.deploy.quantize.search)
# The dense model is the teacher as it is: it is kept first, with its pooling, and what is trained
# first is what is pruned, of which no checkpoint may be there before its gates are scored.
KEPT = (
    Point(transformers.PreTrainedModel, "save_pretrained", "after", 1),
    Point(teacher, "keep", "after", 1),
)
FIRST = {"_save_optimizer_and_scheduler": 1, "training_step": 2}
EMBEDDING = (
    RERANKING[0],
    *KEPT,
    *(
        point._replace(nth=FIRST.get(point.name, point.nth)) if point.when == "before" else point
        for point in RERANKING[1:]
        if (point.owner, point.name) not in [kept[:2] for kept in KEPT]
    ),
)
FEW = (
    Point(GradientScores, "update", "before", 3),
    Point(evaluate, "run", "after", 1),
    Point(write, "write_card", "before", 1),
)
POINTS = {
    "gates": GATES,
    "speed": SPEED,
    "reranking": RERANKING,
    "sentence_embedding": EMBEDDING,
    "few reranking": FEW,
    "few sentence_embedding": FEW,
}


def fake_times() -> None:
    """Times of a tiny model are noise: a table worked by hand, and landings that are right."""
    table = LatencyTable(
        batch_size=1,
        sequence_length=16,
        threads=1,
        baseline_ms=10.0,
        fixed_ms=0.4,
        attention=((0, 0.0), (1, 0.4), (4, 1.0)),
        ffn=((0, 0.0), (8, 0.2), (48, 1.0)),
    )

    def land(plan_for: Any, table: LatencyTable, *args: Any) -> Landing:
        plan = plan_for(table)
        return Landing(plan, table, table.speedup(plan.sizes()), table.speedup(plan.sizes()))

    latency.latency_table = lambda *args, **kwargs: table
    reconstruct.land = land


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: Point) -> None:
    real: Callable[..., Any] = getattr(point.owner, point.name)
    calls = [0]

    def armed(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        due = calls[0] == point.nth
        if due and point.when == "before":
            die()
        result = real(*args, **kwargs)
        if due and point.when == "half":
            os.truncate(args[1], os.path.getsize(args[1]) // 2)
        if due:
            die()
        return result

    setattr(point.owner, point.name, armed)


def attempt(recipe: str, output: Path, log: Path, point: Point | None, delay: float | None) -> int:
    """The exit code of one run of the script; negative if it was killed."""
    arguments = ["--recipe", recipe, f"output_dir={output}"]
    if output.with_name(output.name + ".work").exists() or output.exists():
        arguments.append("resume=true")
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            spec = importlib.util.spec_from_file_location("prune_script", SCRIPT)
            script = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(script)
            if point is not None:
                arm(point)
            code = script.main(arguments)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if delay is not None:
        end = time.monotonic() + delay
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(recipe: str, folder: Path, seed: int, timed: int, points: str) -> None:
    if points == "speed":
        fake_times()
    log = folder / "log.txt"
    start = time.monotonic()
    code = attempt(recipe, folder / "whole", log, None, None)
    seconds = time.monotonic() - start
    report: dict[str, Any] = {"seconds": seconds, "codes": [code], "kills": 0, "ends": ["whole"]}

    for point in POINTS[points]:
        if not hasattr(point.owner, point.name):
            if "transformers" not in str(point.owner):
                raise AttributeError(f"{point.owner} has no {point.name} to die at")
            continue  # of another release of transformers
        code = attempt(recipe, folder / "points", log, point, None)
        report["codes"].append(code)
        report["kills"] += code == -signal.SIGKILL
        if code == 0:
            report.setdefault("missed", []).append(f"{point.name} {point.when}")
            shutil.rmtree(folder / "points")
    report["codes"].append(attempt(recipe, folder / "points", log, None, None))
    report["ends"].append("points")

    draw, killed, number = random.Random(seed), 0, 0
    output = folder / "timed-0"
    for _ in range(ATTEMPTS if timed else 0):
        # Half a run at most, so that it comes to its end only after a few kills.
        wanted = killed < timed
        delay = draw.uniform(0.02, 0.5) * seconds if wanted else None
        code = attempt(recipe, output, log, None, delay)
        report["codes"].append(code)
        killed += code == -signal.SIGKILL
        if code == 0:
            report["ends"].append(output.name)
            number += 1
            output = folder / f"timed-{number}"
            if not wanted:
                break
    report["timed"] = killed
    report["kills"] += killed
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
