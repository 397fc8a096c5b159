"""Measures a :class:`LatencyTable`: what blocks cost where and how they will be deployed.

Small stock models of the same configuration with a few equal layers and hardly a vocabulary are
shrunk, exported and quantized by the very code that exports the result, and timed interleaved. The
time of a block is what the layers add, divided by their number: residual additions, normalisations
and the quantization of activations are in it, which no count of FLOPs knows.

Each size has a graph of its own: one graph whose sizes are inputs would have to take the weights as
inputs too, and then nothing is packed beforehand, which is half of what makes int8 fast.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression
from torch import nn

from hfprune.core.errors import HFPruneError, PlanError
from hfprune.core.files import cache_folder, keep_in_cache
from hfprune.core.kinds import gives_embeddings, outputs_of
from hfprune.core.reading import read_json
from hfprune.deploy.speed.landing import MAX_ROUNDS, MIN_ROUNDS, deployed
from hfprune.deploy.speed.probes import (
    few,
    head_counts,
    neuron_counts,
    probe_config,
    probe_reader,
    without_vocabulary,
)
from hfprune.families import model_sizes
from hfprune.measure.environment import environment
from hfprune.measure.latency import measure_latency, order_statistic
from hfprune.measure.runners import batches_for, onnx_runner
from hfprune.models.embedding import maker_of
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.surgery import RECORD_KEY, forget_hint_, resize_
from hfprune.recipe.sections.export import QuantizationConfig

logger = logging.getLogger(__name__)

# How times are fitted: part of the key of kept tables, which older ones then miss.
FITTED = "isotonic, own time, no vocabulary"

# Seconds of timing for the whole table, about: fewer rounds where a round takes long.
TIME_BOX = 40.0
# Timing ends when every block's time is known so well, as a share of the largest block's.
NARROW = 0.03

Times = Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]


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
    baseline: Path | None = None,
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
        baseline: the dense float32 ONNX file, where there is one; else it is made here, without
            the vocabulary.
        progress: called with what is done, how far, of how much.
    """
    config = _plain_config(model)
    key = _key(config, quantization, batch_size, sequence_length, threads, opset, _head(model))
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
        batch_size, sequence_length, threads, opset, baseline, progress,
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


def _head(model: Any) -> list[Any]:
    """What follows the encoder, of which a config says little: names of labels count for nothing,
    their number does, and so does what pools."""
    found = [type(model).__name__, outputs_of(model)]
    if gives_embeddings(model):
        later = [[type(one).__name__, getattr(one, "out_features", 0)] for one in model.later]
        found += [model.sentence_layout.pooling, later]
    return found


def _key(
    config: Any,
    quantization: QuantizationConfig | None,
    batch_size: int,
    sequence_length: int,
    threads: int,
    opset: int | None,
    head: Sequence[Any],
) -> str:
    ignored = ("_name_or_path", "id2label", "label2id", "transformers_version", "problem_type")
    values = {k: v for k, v in config.to_diff_dict().items() if k not in ignored and k[0] != "_"}
    values.pop(RECORD_KEY, None)
    text = json.dumps(
        [
            values,
            None if quantization is None else quantization.model_dump(),
            [batch_size, sequence_length, threads, opset, FITTED],
            head,
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
    baseline: Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> LatencyTable:
    tell = progress or (lambda step, done, total: None)
    probe = probe_config(make_model, config)
    base = make_model(probe)
    # Without blocks nothing of an encoder is left to quantize where there is no head.
    bare = gives_embeddings(base)
    sizes = model_sizes(base)
    layers, (heads, neurons) = len(sizes), sizes[0]
    counts = (head_counts(heads), neuron_counts(neurons))
    wanted = [(n, 0) for n in counts[0]] + [(0, n) for n in counts[1]]
    # Such graphs compute less in the last layer, which is then measured alone as well.
    own_last = quantization is not None and quantization.graph.startswith("lean") and layers > 1
    alone = [(n, 0) for n in few(counts[0])] + [(0, n) for n in few(counts[1])]
    probes = {"fixed": [(0, 0)] * layers}
    probes |= {f"all {h}-{n}": [(h, n)] * layers for h, n in wanted}
    if own_last:
        probes |= {f"last {h}-{n}": [(0, 0)] * (layers - 1) + [(h, n)] for h, n in alone}
    dynamic = quantization and quantization.model_copy(update={"nodes_to_exclude": []})
    reader = probe_reader(probe, tokenizer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if baseline is None:
            dense = make_model(without_vocabulary(config))
            baseline = deployed(dense, reader, None, folder / "baseline", opset=opset)
            del dense
        runners = {"baseline": onnx_runner(baseline, threads)}
        for done, (label, kept) in enumerate(probes.items()):
            model = resize_(copy.deepcopy(base), kept)
            place = folder / label
            settings = None if bare and label == "fixed" else dynamic
            runners[label] = onnx_runner(
                deployed(model, reader, settings, place, opset=opset), threads
            )
            # A session has read what it needs: the disk holds one probe at a time.
            shutil.rmtree(place, ignore_errors=True)
            tell("exports", done + 1, len(probes))
        times = _timed(runners, (batch_size, sequence_length), batches_for(probe), tell)
    dense_ms, fixed_ms = (float(np.median(times[name])) for name in ("baseline", "fixed"))
    if not 0 < fixed_ms < dense_ms:
        raise HFPruneError(
            f"the machine is too noisy to measure: the dense model took {dense_ms:.2f} ms, the one "
            f"without blocks {fixed_ms:.2f} ms; try again when it is quiet"
        )
    # Differences are taken within a round, so that a slow spell of the machine cancels out.
    gaps = {name: float(np.median(each - times["fixed"])) for name, each in times.items()}
    lines, last = [], []
    for kind in (0, 1):
        whole = [(pair[kind], gaps[f"all {pair[0]}-{pair[1]}"]) for pair in wanted if pair[kind]]
        if own_last:
            end = [(p[kind], gaps[f"last {p[0]}-{p[1]}"]) for p in alone if p[kind]]
            last.append(_rising(end))
            units, ms = zip(*last[-1][1:], strict=True)
            whole = [(n, gap - float(np.interp(n, units, ms))) for n, gap in whole]
        lines.append(_rising([(n, gap / (layers - own_last)) for n, gap in whole]))
    return LatencyTable(
        batch_size=batch_size,
        sequence_length=sequence_length,
        threads=threads,
        baseline_ms=dense_ms,
        fixed_ms=fixed_ms,
        attention=lines[0],
        ffn=lines[1],
        last_attention=last[0] if own_last else None,
        last_ffn=last[1] if own_last else None,
        error=width(times),
    )


def _timed(
    runners: Mapping[str, Any],
    shape: tuple[int, int],
    make: Callable[[int, int], Any],
    tell: Callable[[str, int, int], None],
) -> Times:
    """Times of all rounds, milliseconds; rounds until they tell enough, or the time is over."""
    start = time.monotonic()
    rows: list[list[Any]] = []
    while len(rows) * MIN_ROUNDS < MAX_ROUNDS:
        rows.append(
            measure_latency(
                runners,
                [shape],
                repeats=MIN_ROUNDS,
                warmup=0 if rows else 2,
                make_batch=make,
                seed=len(rows),
                progress=lambda done, of: tell(
                    "timing", len(rows) * MIN_ROUNDS + done, MAX_ROUNDS + MIN_ROUNDS
                ),
            )
        )
        spent = time.monotonic() - start
        found = dict(_joined(rows))
        if width(found) <= NARROW or spent * (len(rows) + 1) / len(rows) > TIME_BOX:
            break
    return found


def _joined(parts: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Any]]:
    """The rounds of several measurements, by the name of the runner."""
    # Of the processor where there is one thread: it does not see what else the machine does.
    own = all(row.has_own_times for rows in parts for row in rows)
    for same in zip(*parts, strict=True):
        values = [row.process_times_ms if own else row.times_ms for row in same]
        yield same[0].name, np.concatenate([np.asarray(value) for value in values])


def width(times: Times) -> float:
    """How well blocks' times are known: the widest half interval, as a share of the largest time.

    Of each probe the interval (95 %, order statistics) of what it takes beyond the one without
    blocks, in the same round.

    >>> width({"fixed": np.zeros(9), "all 1-0": np.array([1.0] * 8 + [9.0])})
    0.0
    """
    halves, most = [0.0], 0.0
    for name, each in times.items():
        if not name.startswith(("all", "last")):
            continue
        gaps = np.sort(each - times["fixed"])
        place = order_statistic(len(gaps))[0]
        halves.append(float(gaps[-1 - place] - gaps[place]) / 2)
        most = max(most, float(np.median(gaps)))
    return max(halves) / most if most > 0 else float("inf")


def _rising(points: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """A larger block is never faster: what says so is noise, and is averaged out.

    Isotonic regression (pool adjacent violators): the rising line with the least squared error. The
    running maximum would take every outlier upward for the truth of all larger blocks.
    """
    times = isotonic_regression([ms for _, ms in points], y_min=0.0)
    return ((0, 0.0), *((n, float(ms)) for (n, _), ms in zip(points, times, strict=True)))
