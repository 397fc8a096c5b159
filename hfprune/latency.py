"""Measures a :class:`LatencyTable`: what blocks cost where and how they will be deployed.

Small stock models of the same configuration with a few equal layers are shrunk, exported and
quantized by the very code that exports the result, and timed interleaved. The time of a block is
what the layers add, divided by their number: residual additions, normalisations and the
quantization of activations are in it, which no count of FLOPs knows.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hfprune.benchmark import (
    batches_for,
    environment,
    measure_latency,
    onnx_runner,
    ratios,
)
from hfprune.cost import LatencyTable
from hfprune.errors import HFPruneError, PlanError
from hfprune.export import export_onnx, quantize_onnx
from hfprune.files import atomic_write_json, cache_folder
from hfprune.importance import random_scores
from hfprune.plan import PruningPlan
from hfprune.recipe import QuantizationConfig
from hfprune.search import budget_plan
from hfprune.structure import block_views, model_sizes
from hfprune.surgery import RECORD_KEY, resize_, shrink_

PROBE_LAYERS = 4
MANY_HEADS = 16
NEURON_RATIO = 0.75
LEAST_NEURONS = 8
# Seconds of timing for the whole table, about: fewer rounds where a round takes long.
TIME_BOX = 40.0
MIN_ROUNDS, MAX_ROUNDS = 9, 60
# How near to the speed-up that is wanted a plan must come to be taken at once.
CLOSE = 0.03


def latency_table(
    model: nn.Module,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    *,
    batch_size: int,
    sequence_length: int,
    threads: int,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> LatencyTable:
    """The latency table for a model's configuration, measured or from an earlier measurement.

    Args:
        model: of the configuration in question; its weights do not matter. A shrunk model gets
            the table of the dense one that it came from.
        tokenizer: saved with each probe, as the exporter wants.
        quantization: as the result will be quantized; ``None``: float32.
        batch_size, sequence_length, threads: of the deployment.
        cache: folder of earlier tables, keyed by configuration, machine, library versions, shape
            and quantization; default ``~/.cache/hfprune/latency``.
        progress: called with what is done, how far, of how much.
    """
    config = _plain_config(model)
    key = _key(config, quantization, batch_size, sequence_length, threads)
    place = (cache or cache_folder("latency")) / f"{key}.json"
    if place.is_file():
        try:
            return LatencyTable.from_dict(json.loads(place.read_text(encoding="utf-8")))
        except (ValueError, PlanError):
            place.unlink()  # not whole: measure again
    table = _measure(
        type(model), config, tokenizer, quantization, batch_size, sequence_length, threads, progress
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(place, table.to_dict())
    return table


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
            _deployed(model, tokenizer, quantization, Path(name)),
            model.config,
            batch_size=table.batch_size,
            sequence_length=table.sequence_length,
            threads=table.threads,
            repeats=repeats,
        )


def _deployed(
    model: nn.Module, tokenizer: Any, quantization: QuantizationConfig | None, folder: Path
) -> Path:
    """The file that would be deployed."""
    file = export_onnx(model, tokenizer, folder)
    return file if quantization is None else quantize_onnx(folder, quantization)


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


def _plain_config(model: Any) -> Any:
    config = copy.deepcopy(model.config)
    if getattr(config, RECORD_KEY, None) is not None:
        setattr(config, RECORD_KEY, None)
    return config


def _key(
    config: Any,
    quantization: QuantizationConfig | None,
    batch_size: int,
    sequence_length: int,
    threads: int,
) -> str:
    ignored = ("_name_or_path", "id2label", "label2id", "transformers_version", "problem_type")
    values = {k: v for k, v in config.to_diff_dict().items() if k not in ignored and k[0] != "_"}
    values.pop(RECORD_KEY, None)
    text = json.dumps(
        [
            values,
            None if quantization is None else quantization.model_dump(),
            [batch_size, sequence_length, threads],
            environment(),
        ],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _measure(
    model_class: Any,
    config: Any,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    batch_size: int,
    sequence_length: int,
    threads: int,
    progress: Callable[[str, int, int], None] | None,
) -> LatencyTable:
    tell = progress or (lambda step, done, total: None)
    probe_config = copy.deepcopy(config)
    dense = model_class(config)
    if all(view.uses == 1 for view in block_views(dense).values()):
        probe_config.num_hidden_layers = min(PROBE_LAYERS, config.num_hidden_layers)
    # Otherwise layers share weights: a block is then measured with all its uses.
    sizes = model_sizes(model_class(probe_config))
    layers = len(sizes)
    heads, neurons = sizes[0]
    head_counts = [n for n in range(1, heads + 1) if heads <= MANY_HEADS or n % 2 == 0 or n == 1]
    neuron_counts = _neuron_counts(neurons)
    wanted = [(n, 0) for n in head_counts] + [(0, n) for n in neuron_counts]
    # Such graphs compute less in the last layer, which is then measured alone as well.
    own_last = quantization is not None and quantization.graph.startswith("lean") and layers > 1
    depths = (layers, 1) if own_last else (layers,)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runners: dict[str, Any] = {}

        dynamic = quantization and quantization.model_copy(update={"nodes_to_exclude": []})

        def add(label: str, model: Any, settings: QuantizationConfig | None) -> None:
            file = _deployed(model, tokenizer, settings, folder / label)
            runners[label] = onnx_runner(file, threads)

        total = len(wanted) * len(depths) + 3
        add("baseline", dense, None)
        empty = PruningPlan.first_units(model_sizes(dense), [(0, 0)] * len(model_sizes(dense)))
        add("fixed", shrink_(dense, empty), dynamic)
        tell("exports", 2, total)
        done = 2
        for depth in depths:
            for h, n in wanted:
                probe = model_class(probe_config)
                kept = [(0, 0)] * (layers - depth) + [(h, n)] * depth
                add(f"{depth}: {h}-{n}", resize_(probe, kept), dynamic)
                done += 1
                tell("exports", done, total)
        make = batches_for(config)
        shape = (batch_size, sequence_length)
        trial = measure_latency(runners, [shape], repeats=1, warmup=1, make_batch=make)
        round_s = sum(row.median_ms * row.inner_loops for row in trial) / 1e3
        rounds = int(min(MAX_ROUNDS, max(MIN_ROUNDS, TIME_BOX / max(round_s, 1e-6))))
        rows = measure_latency(
            runners,
            [shape],
            repeats=rounds,
            warmup=2,
            make_batch=make,
            progress=lambda done, of: tell("timing", done, of),
        )
    times = {row.name: np.array(row.times_ms) for row in rows}

    # Differences are taken within a round, so that a slow spell of the machine cancels out.
    def gap(more: str, less: str) -> float:
        return float(np.median(times[more] - times[less]))

    baseline = float(np.median(times["baseline"]))
    fixed = float(np.median(times["fixed"]))
    if not 0 < fixed < baseline:
        raise HFPruneError(
            f"the machine is too noisy to measure: the dense model took {baseline:.2f} ms, the one "
            f"without blocks {fixed:.2f} ms; try again when it is quiet"
        )
    block, last = {}, {}
    for pair in wanted:
        whole = f"{layers}: {pair[0]}-{pair[1]}"
        if own_last:
            alone = f"1: {pair[0]}-{pair[1]}"
            last[pair] = gap(alone, "fixed")
            block[pair] = gap(whole, alone) / (layers - 1)
        else:
            block[pair] = gap(whole, "fixed") / layers

    def table(found: dict[tuple[int, int], float], kind: int) -> tuple[tuple[int, float], ...]:
        return _rising([(pair[kind], ms) for pair, ms in found.items() if pair[kind]])

    return LatencyTable(
        batch_size=batch_size,
        sequence_length=sequence_length,
        threads=threads,
        baseline_ms=baseline,
        fixed_ms=fixed,
        attention=table(block, 0),
        ffn=table(block, 1),
        last_attention=table(last, 0) if own_last else None,
        last_ffn=table(last, 1) if own_last else None,
    )


def _neuron_counts(neurons: int) -> list[int]:
    counts = {neurons}
    value = float(neurons)
    while value >= LEAST_NEURONS:
        counts.add(round(value))
        value *= NEURON_RATIO
    return sorted(counts)


def _rising(points: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """A larger block is never faster: what says so is noise."""
    times = np.maximum.accumulate([max(ms, 0.0) for _, ms in points])
    return ((0, 0.0), *((n, float(ms)) for (n, _), ms in zip(points, times, strict=True)))
