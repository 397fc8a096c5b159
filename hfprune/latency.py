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
import os
import tempfile
from collections.abc import Callable
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
from hfprune.export import MODEL_FILE, export_onnx, quantize_onnx
from hfprune.files import atomic_write_json
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


def cache_folder() -> Path:
    """Where tables are kept: ``$XDG_CACHE_HOME/hfprune/latency`` or ``~/.cache/...``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hfprune" / "latency"


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
            and quantization; default :func:`cache_folder`.
        progress: called with what is done, how far, of how much.
    """
    config = _plain_config(model)
    key = _key(config, quantization, batch_size, sequence_length, threads)
    place = (cache or cache_folder()) / f"{key}.json"
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
    dense = copy.deepcopy(model)
    sizes = model_sizes(dense)
    plan = PruningPlan.dense(sizes)
    scores = random_scores(dense, seed=0)
    shape = {
        "batch_size": table.batch_size,
        "sequence_length": table.sequence_length,
        "threads": table.threads,
    }
    config: Any = dense.config
    with tempfile.TemporaryDirectory() as name:
        export_onnx(dense, tokenizer, Path(name) / "dense")
        for attempt in range(2):
            costs = table
            wanted = budget_plan(
                scores,
                lambda key, count, costs=costs: costs.block_ms(key.kind, count),  # type: ignore[misc]
                plan,
                table.budget_ms(speedup),
            )
            place = Path(name) / f"pruned-{attempt}"
            export_onnx(shrink_(copy.deepcopy(dense), wanted), tokenizer, place)
            file = (
                place / MODEL_FILE if quantization is None else quantize_onnx(place, quantization)
            )
            found = measured_speedup(Path(name) / "dense" / MODEL_FILE, file, config, **shape)
            table = table.scaled(table.speedup(wanted.sizes()) / found)
    return table


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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runners: dict[str, Any] = {}

        def add(label: str, model: Any, quantized: bool) -> None:
            place = folder / label
            export_onnx(model, tokenizer, place)
            file = place / MODEL_FILE
            if quantized and quantization is not None:
                dynamic = quantization.model_copy(update={"nodes_to_exclude": []})
                file = quantize_onnx(place, dynamic)
            runners[label] = onnx_runner(file, threads)

        total = len(wanted) + 3
        add("baseline", dense, quantized=False)
        empty = PruningPlan.first_units(model_sizes(dense), [(0, 0)] * len(model_sizes(dense)))
        add("fixed", shrink_(dense, empty), quantized=True)
        tell("exports", 2, total)
        for done, (h, n) in enumerate(wanted):
            probe = model_class(probe_config)
            add(f"{h}-{n}", resize_(probe, [(h, n)] * layers), quantized=True)
            tell("exports", done + 3, total)
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
    block = {
        pair: float(np.median(times[f"{pair[0]}-{pair[1]}"] - times["fixed"])) / layers
        for pair in wanted
    }
    baseline = float(np.median(times["baseline"]))
    fixed = float(np.median(times["fixed"]))
    if not 0 < fixed < baseline:
        raise HFPruneError(
            f"the machine is too noisy to measure: the dense model took {baseline:.2f} ms, the one "
            f"without blocks {fixed:.2f} ms; try again when it is quiet"
        )
    return LatencyTable(
        batch_size=batch_size,
        sequence_length=sequence_length,
        threads=threads,
        baseline_ms=baseline,
        fixed_ms=fixed,
        attention=_rising([(n, block[(n, 0)]) for n in head_counts]),
        ffn=_rising([(n, block[(0, n)]) for n in neuron_counts]),
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
