"""From a planned to a measured speed: calibration of the table, and correction of the plan."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hfprune.core.errors import PlanError
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
    """How many times faster one ONNX file is than another, interleaved (``config``: theirs)."""
    runners = {
        "baseline": onnx_runner(baseline, threads),
        "candidate": onnx_runner(candidate, threads),
    }
    rows = measure_latency(
        runners,
        [(batch_size, sequence_length)],
        repeats=repeats,
        warmup=3,
        make_batch=batches_for(config),
    )
    return ratios(rows, "baseline")[("candidate", (batch_size, sequence_length))].value


def calibrated(
    table: LatencyTable,
    model: nn.Module,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    speedup: float,
) -> LatencyTable:
    """The table, scaled so that it is right for models of about this speed-up.

    Times of blocks do not quite add up (caches, fusions across blocks). A model of the size in
    question is planned by the table, exported and measured against the dense one, and all times
    are scaled by what the prediction was off. Done twice, for the second plan differs a little.
    """
    sizes = model_sizes(model)
    plan = PruningPlan.dense(sizes)
    scores = random_scores(model, seed=0)
    with tempfile.TemporaryDirectory() as name:
        baseline = export_onnx(model, tokenizer, Path(name))
        for _ in range(2):
            wanted = budget_plan(scores, table.price(sizes), plan, table.budget_ms(speedup))
            pruned = shrink_(copy.deepcopy(model), wanted)
            found = _deployed_speedup(pruned, baseline, table, tokenizer, quantization, 25)
            table = table.scaled(table.speedup(wanted.sizes()) / found)
    return table


def _deployed_speedup(
    model: Any,
    baseline: Path,
    table: LatencyTable,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    repeats: int,
) -> float:
    """Of a model, exported and quantized, over the baseline at the table's shape."""
    with tempfile.TemporaryDirectory() as name:
        return measured_speedup(
            baseline,
            deployed(model, tokenizer, quantization, Path(name)),
            model.config,
            batch_size=table.batch_size,
            sequence_length=table.sequence_length,
            threads=table.threads,
            repeats=repeats,
        )


def deployed(
    model: nn.Module, tokenizer: Any, quantization: QuantizationConfig | None, folder: Path
) -> Path:
    """The file that would be deployed; constant scales are of random rows, which cost the same."""
    file = export_onnx(model, tokenizer, folder)
    if quantization is None:
        return file
    rows = probe_rows(folder) if quantization.needs_calibration else None
    return quantize_onnx(folder, quantization, calibration=rows)


@dataclass(frozen=True)
class Landing:
    """A plan, and how fast it really is.

    Attributes:
        plan: what was planned in the last attempt.
        table: the table, scaled by what predictions were off.
        predicted, measured: speed-up over the dense float32 model, of that plan: predicted by the
            table as it was before that measurement.
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
    *,
    attempts: int = 6,
) -> Landing:
    """Plan, measure, correct the table, and plan again until the speed-up is right within 3 %.

    Args:
        plan_for: the plan that a table suggests, for copies of ``model``.
        table: where to begin; a plan may turn out a tenth off.
        speedup: wanted, over ``baseline``.
        model: as the plan finds it; not changed.
        baseline: the dense float32 ONNX file.
        tokenizer, quantization: as for :func:`latency_table`.
        attempts: at most so many plans are measured.

    Returns:
        The attempt that came nearest to ``speedup``.
    """
    best: Landing | None = None
    factor, slow, fast = (
        1.0,
        0.0,
        math.inf,
    )  # of the table; the nearest that were too slow, too fast
    for _ in range(attempts):
        corrected = table.scaled(factor)
        try:
            plan = plan_for(corrected)
        except PlanError:  # the correction has put the target out of reach
            if best is None:
                raise
            break
        pruned = shrink_(copy.deepcopy(model), plan)
        predicted = corrected.speedup(model_sizes(pruned))
        found = _deployed_speedup(pruned, baseline, table, tokenizer, quantization, 60)
        right = factor * predicted / found
        if best is None or abs(found - speedup) < abs(best.measured - speedup):
            best = Landing(plan, table.scaled(right), predicted, found)
        if abs(found / speedup - 1) < CLOSE:
            break
        if found < speedup:
            slow = max(slow, factor)
        else:
            fast = min(fast, factor)
        factor = right
        # Where speeds answer more than in proportion, corrections alone would swing ever wider.
        if slow > 0 and fast < math.inf and not slow < factor < fast:
            factor = math.sqrt(slow * fast)
    if best is None:
        raise PlanError(f"attempts is {attempts}; expected at least one")
    return best
