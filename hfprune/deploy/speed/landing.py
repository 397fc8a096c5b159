"""From a planned to a measured speed: calibration of the table, and correction of the plan.

What is decided from a measurement is :func:`next_attempt`, which measures nothing.
"""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from hfprune.core.errors import PlanError
from hfprune.core.memory import release_memory
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.checks import probe_rows
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.families import model_sizes
from hfprune.measure.latency import measure_latency, ratios
from hfprune.measure.runners import batches_for, onnx_runner
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.importance import random_scores
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.search import budget_plan
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.export import QuantizationConfig

MIN_ROUNDS, MAX_ROUNDS = 9, 60

# How near to the speed-up that is wanted a plan must come to be taken at once.
CLOSE = 0.03
# From here on a speed-up misses what was wanted: it is landed again, or told.
MISS = 0.10
# Landings in all, where the first ones turn out to miss.
LANDINGS = 3

# Seconds of timing for one plan, about: fewer rounds where a round takes long.
TIME_BOX = 20.0


def misses(wanted: float, reached: float) -> bool:
    """Whether a speed-up is not the one that was wanted, either way.

    >>> misses(10.0, 9.1), misses(10.0, 8.9), misses(10.0, 11.1)
    (False, True, True)
    """
    return not abs(reached / wanted - 1) <= MISS


@dataclass(frozen=True)
class Approach:
    """Where a landing is: what the next plan's table is multiplied by, and what is known of it.

    Attributes:
        factor: of all times of the table but the dense model's.
        slow, fast: the greatest factor whose plan was too slow, the least whose plan was too fast.
        slow_at, fast_at: the speed-ups of these plans over the one that is wanted.
        arrived: whether the last plan is close enough.
    """

    factor: float = 1.0
    slow: float = 0.0
    fast: float = math.inf
    slow_at: float = math.nan
    fast_at: float = math.nan
    arrived: bool = False


def next_attempt(
    before: Approach, predicted: float, measured: float, wanted: float, close: float = CLOSE
) -> Approach:
    """What follows from one plan's speed-up.

    The next factor is what would have made the prediction right. Once one factor was too slow and
    another too fast, it lies between them where the line through both, in logarithms, has the
    target: where speeds answer more than in proportion, corrections alone would swing about it.

    Args:
        before: with the factor that the plan was made with.
        predicted, measured: its speed-up.
        wanted: the target.
        close: relative difference that is close enough.

    Raises:
        PlanError: for speed-ups that are none.

    >>> next_attempt(Approach(), predicted=10.0, measured=8.0, wanted=10.0).factor
    1.25
    """
    if not all(math.isfinite(value) and value > 0 for value in (predicted, measured, wanted)):
        raise PlanError(
            f"speed-ups must be numbers above 0; got {predicted} predicted, {measured} measured "
            f"and {wanted} wanted"
        )
    factor, reached = before.factor * predicted / measured, measured / wanted
    found = replace(before, arrived=abs(reached - 1) < close)
    if reached < 1 and before.factor >= before.slow:
        found = replace(found, slow=before.factor, slow_at=reached)
    elif reached >= 1 and before.factor <= before.fast:
        found = replace(found, fast=before.factor, fast_at=reached)
    if found.slow > 0 and found.fast < math.inf:
        factor = _between(found)
    return replace(found, factor=factor)


def _between(found: Approach) -> float:
    """Where the line through both bounds has the target, and not quite at either."""
    if found.slow >= found.fast:  # noise: as right as can be known
        return math.sqrt(found.slow * found.fast)
    below, above = math.log(found.slow_at), math.log(found.fast_at)
    part = min(0.9, max(0.1, -below / (above - below)))
    return float(found.slow * (found.fast / found.slow) ** part)


def measured_speedup(
    baseline: Path,
    candidate: Path,
    config: Any,
    *,
    batch_size: int,
    sequence_length: int,
    threads: int,
    repeats: int = 25,
) -> float:
    """How many times faster one ONNX file is than another, interleaved (``config``: theirs).

    By processor time where there is one thread: it does not see what else the machine does.
    """
    runners = {
        "baseline": onnx_runner(baseline, threads),
        "candidate": onnx_runner(candidate, threads),
    }
    shape, make = (batch_size, sequence_length), batches_for(config)
    trial = measure_latency(runners, [shape], repeats=1, warmup=3, make_batch=make)
    round_s = sum(row.median_ms * row.inner_loops for row in trial) / 1e3
    rounds = int(min(repeats, max(MIN_ROUNDS, TIME_BOX / max(round_s, 1e-6))))
    rows = measure_latency(runners, [shape], repeats=rounds, warmup=0, make_batch=make)
    return ratios(rows, "baseline", own=True)["candidate", shape].value


def calibrated(
    table: LatencyTable,
    model: nn.Module,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    speedup: float,
    opset: int | None = None,
) -> LatencyTable:
    """The table, scaled so that it is right for models of about this speed-up.

    Times of blocks do not quite add up (caches, fusions across blocks). A model of the size in
    question is planned by the table, exported and measured against the dense one, and all times
    are scaled by what the prediction was off: at least twice, for the second plan differs a little,
    and once or twice more while its speed misses the target.
    """
    sizes = model_sizes(model)
    plan = PruningPlan.dense(sizes)
    scores = random_scores(model, seed=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        baseline = export_onnx(model, tokenizer, folder / "dense", opset=opset)
        for attempt in range(2 * LANDINGS - 2):
            wanted = budget_plan(scores, table.price(sizes), plan, table.budget_ms(speedup))
            pruned = shrink_(copy.deepcopy(model), wanted)
            file = deployed(pruned, tokenizer, quantization, folder / str(attempt), opset=opset)
            found = speedup_at(baseline, file, pruned, table, 25)
            shutil.rmtree(file.parent, ignore_errors=True)
            table = table.scaled(table.speedup(wanted.sizes()) / found)
            if attempt and not misses(speedup, found):
                break
    return table


def speedup_at(
    baseline: Path, file: Path, model: Any, table: LatencyTable, repeats: int = 25
) -> float:
    """Of a file over the baseline at the table's shape."""
    return measured_speedup(
        baseline,
        file,
        model.config,
        batch_size=table.batch_size,
        sequence_length=table.sequence_length,
        threads=table.threads,
        repeats=repeats,
    )


def deployed(
    model: nn.Module,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    folder: Path,
    *,
    opset: int | None = None,
) -> Path:
    """The file that would be deployed; constant scales are of random rows, which cost the same."""
    file = export_onnx(model, tokenizer, folder, opset=opset)
    if quantization is not None:
        rows = probe_rows(folder) if quantization.needs_calibration else None
        file = quantize_onnx(folder, quantization, calibration=rows)
    release_memory()  # of BERT-base half a gigabyte would stay with each plan that is tried
    return file


@dataclass(frozen=True)
class Landing:
    """A plan, and how fast it really is.

    Attributes:
        plan: what was planned in the last attempt.
        table: the table, scaled by what predictions were off.
        predicted, measured: speed-up over the dense float32 model, of that plan: predicted by the
            table as it was before that measurement; measured once more after it was chosen for
            being near.
    """

    plan: PruningPlan
    table: LatencyTable
    predicted: float
    measured: float


def land(
    plan_for: Callable[[LatencyTable], PruningPlan],
    table: LatencyTable,
    speedup: float,
    model: nn.Module,
    baseline: Path,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    opset: int | None = None,
    *,
    attempts: int = 6,
) -> Landing:
    """Plan, measure, correct the table, and plan again until the speed-up is right within 3 %.

    Of several plans the one that was measured nearest is the nearest partly by luck, so it is
    measured once more; where that misses the target by ``MISS``, it is landed again from there, at
    most ``LANDINGS`` times in all.

    Args:
        plan_for: the plan that a table suggests, for copies of ``model``.
        table: where to begin; a plan may turn out a tenth off.
        speedup: wanted, over ``baseline``.
        model: as the plan finds it; not changed.
        baseline: the dense float32 ONNX file.
        tokenizer, quantization: as for :func:`latency_table`.
        opset: of the export, as the recipe has it.
        attempts: at most so many plans are measured in one landing.

    Returns:
        The landing that came nearest to ``speedup``.
    """
    with tempfile.TemporaryDirectory() as name:
        course = _Course(
            plan_for, table, speedup, model, baseline, tokenizer, quantization, opset, Path(name)
        )
        best, approach = course.descend(Approach(), attempts)
        last = best
        for _ in range(LANDINGS - 1):
            if not misses(speedup, last.measured):
                break
            # Bounds of a measurement that turned out wrong are wrong too.
            approach = Approach(factor=approach.factor * last.predicted / last.measured)
            try:
                last, approach = course.descend(approach, attempts)
            except PlanError:  # the correction has put the target out of reach
                break
            if course.nearer(last, best):
                best = last
    return best


@dataclass(frozen=True)
class _Course:
    """One landing after the other, with the same means."""

    plan_for: Callable[[LatencyTable], PruningPlan]
    table: LatencyTable
    wanted: float
    model: nn.Module
    baseline: Path
    tokenizer: Any
    quantization: QuantizationConfig | None
    opset: int | None
    folder: Path

    def descend(self, approach: Approach, attempts: int) -> tuple[Landing, Approach]:
        """The nearest of at most so many plans, measured once more, and its factor."""
        best: tuple[Landing, Path, Approach] | None = None
        for _ in range(attempts):
            corrected = self.table.scaled(approach.factor)
            try:
                plan = self.plan_for(corrected)
            except PlanError:
                if best is None:
                    raise
                break
            pruned = shrink_(copy.deepcopy(self.model), plan)
            predicted = corrected.speedup(model_sizes(pruned))
            place = Path(tempfile.mkdtemp(dir=self.folder))
            file = deployed(pruned, self.tokenizer, self.quantization, place, opset=self.opset)
            found = self.speedup_of(file)
            right = self.table.scaled(approach.factor * predicted / found)
            landing = Landing(plan, right, predicted, found)
            nearest = best is None or self.nearer(landing, best[0])
            if best is not None:  # the disk holds the nearest plan's files and those of one other
                shutil.rmtree(best[1].parent if nearest else place, ignore_errors=True)
            if nearest:
                best = landing, file, Approach(approach.factor)
            approach = next_attempt(approach, predicted, found, self.wanted)
            if approach.arrived:
                break
        if best is None:
            raise PlanError(f"attempts is {attempts}; expected at least one")
        landing, file, approach = best
        landing = replace(landing, measured=self.speedup_of(file))
        shutil.rmtree(file.parent, ignore_errors=True)
        return landing, approach

    def speedup_of(self, file: Path) -> float:
        return speedup_at(self.baseline, file, self.model, self.table, 60)

    def nearer(self, one: Landing, other: Landing) -> bool:
        return abs(one.measured - self.wanted) < abs(other.measured - self.wanted)
