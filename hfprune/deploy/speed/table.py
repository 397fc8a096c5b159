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
import logging
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression
from torch import nn

from hfprune.core.errors import HFPruneError, PlanError
from hfprune.core.files import cache_folder, keep_in_cache
from hfprune.core.kinds import gives_embeddings
from hfprune.core.reading import read_json
from hfprune.deploy.speed.landing import MAX_ROUNDS, MIN_ROUNDS, deployed
from hfprune.families import block_views, model_sizes
from hfprune.measure.environment import environment
from hfprune.measure.latency import measure_latency
from hfprune.measure.runners import batches_for, onnx_runner
from hfprune.models.embedding import maker_of
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import RECORD_KEY, forget_hint_, resize_, shrink_
from hfprune.recipe.sections.export import QuantizationConfig

logger = logging.getLogger(__name__)

PROBE_LAYERS = 4
MANY_HEADS = 16
NEURON_RATIO = 0.75
LEAST_NEURONS = 8

# How times are fitted: part of the key of kept tables, which older ones then miss.
FITTED = "isotonic, own time"

# Seconds of timing for the whole table, about: fewer rounds where a round takes long.
TIME_BOX = 40.0


def latency_table(
    model: nn.Module,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    *,
    batch_size: int,
    sequence_length: int,
    threads: int,
    opset: int | None = None,
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
        opset: of the export, as the result will be exported.
        cache: folder of earlier tables, keyed by configuration, machine, library versions, shape,
            quantization and opset; default ``~/.cache/hfprune/latency``.
        progress: called with what is done, how far, of how much.
    """
    config = _plain_config(model)
    key = _key(config, quantization, batch_size, sequence_length, threads, opset)
    place = (cache or cache_folder("latency")) / f"{key}.json"
    make = maker_of(model)
    with torch.device("meta"):
        units = model_sizes(make(config))[0]
    kept = _kept_table(place, units)
    if kept is not None and (kept.batch_size, kept.sequence_length, kept.threads) == (
        batch_size,
        sequence_length,
        threads,
    ):
        return kept
    table = _measure(
        make, config, tokenizer, quantization,
        batch_size, sequence_length, threads, opset, progress,
    )  # fmt: skip
    keep_in_cache(place, json.dumps(table.to_dict(), allow_nan=False).encode())
    return table


def _kept_table(place: Path, units: tuple[int, int]) -> LatencyTable | None:
    """An earlier measurement, or ``None`` where there is none or it can not be one.

    Args:
        place: its file, which others may have written.
        units: heads and neurons of a whole layer, which it must know.
    """
    if not place.is_file():
        return None
    try:
        table = LatencyTable.from_dict(read_json(place, PlanError))
    except (PlanError, AttributeError, OverflowError) as error:
        logger.warning("%s is measured anew: %s", place, error)
        return None
    lines = [(table.attention, units[0]), (table.ffn, units[1])]
    lines += [
        (line, most)
        for line, most in ((table.last_attention, units[0]), (table.last_ffn, units[1]))
        if line is not None
    ]
    pair = (table.last_attention is None) == (table.last_ffn is None)
    times = (table.fixed_ms, table.baseline_ms)
    sound = 0 < times[0] < times[1] < float("inf")
    if pair and sound and all(_is_measured(line, most) for line, most in lines):
        return table
    logger.warning("%s is measured anew: its times or sizes can not be measured ones", place)
    return None


def _is_measured(line: Sequence[tuple[int, float]], most: int) -> bool:
    """Whether ``(units, ms)`` begin at nothing and rise to ``most`` units, without NaN."""
    if len(line) < 2 or tuple(line[0]) != (0, 0.0) or line[-1][0] != most:
        return False
    return all(
        less < more and 0 <= early <= late < float("inf")
        for (less, early), (more, late) in pairwise(line)
    )


def _plain_config(model: Any) -> Any:
    config = forget_hint_(copy.deepcopy(model.config))
    if getattr(config, RECORD_KEY, None) is not None:
        setattr(config, RECORD_KEY, None)
    return config


def _key(
    config: Any,
    quantization: QuantizationConfig | None,
    batch_size: int,
    sequence_length: int,
    threads: int,
    opset: int | None,
) -> str:
    ignored = ("_name_or_path", "id2label", "label2id", "transformers_version", "problem_type")
    values = {k: v for k, v in config.to_diff_dict().items() if k not in ignored and k[0] != "_"}
    values.pop(RECORD_KEY, None)
    text = json.dumps(
        [
            values,
            None if quantization is None else quantization.model_dump(),
            [batch_size, sequence_length, threads, opset, FITTED],
            environment(),
        ],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _measure(
    make_model: Callable[[Any], Any],
    config: Any,
    tokenizer: Any,
    quantization: QuantizationConfig | None,
    batch_size: int,
    sequence_length: int,
    threads: int,
    opset: int | None,
    progress: Callable[[str, int, int], None] | None,
) -> LatencyTable:
    tell = progress or (lambda step, done, total: None)
    probe_config = copy.deepcopy(config)
    dense = make_model(config)
    if all(view.uses == 1 for view in block_views(dense).values()):
        probe_config.num_hidden_layers = min(PROBE_LAYERS, config.num_hidden_layers)
    # Otherwise layers share weights: a block is then measured with all its uses.
    sizes = model_sizes(make_model(probe_config))
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
            file = deployed(model, tokenizer, settings, folder / label, opset=opset)
            runners[label] = onnx_runner(file, threads)

        total = len(wanted) * len(depths) + 3
        add("baseline", dense, None)
        empty = PruningPlan.first_units(model_sizes(dense), [(0, 0)] * len(model_sizes(dense)))
        # Without blocks nothing of an encoder is left to quantize where there is no head.
        bare = gives_embeddings(dense)
        add("fixed", shrink_(dense, empty), None if bare else dynamic)
        tell("exports", 2, total)
        done = 2
        for depth in depths:
            for h, n in wanted:
                probe = make_model(probe_config)
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
    # Of the processor where there is one thread: it does not see what else the machine does.
    own = all(row.has_own_times for row in rows)
    times = {row.name: np.array(row.process_times_ms if own else row.times_ms) for row in rows}

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
    """A larger block is never faster: what says so is noise, and is averaged out.

    Isotonic regression (pool adjacent violators): the rising line with the least squared error. The
    running maximum would take every outlier upward for the truth of all larger blocks.
    """
    times = isotonic_regression([ms for _, ms in points], y_min=0.0)
    return ((0, 0.0), *((n, float(ms)) for (n, _), ms in zip(points, times, strict=True)))
