"""Latency, parameters, multiply-accumulates and bytes, measured so that they can be compared.

Runners are timed in turn within each round, in a shuffled order, so that a machine that slows down
for a second slows all of them; ratios are taken within a round and come with an interval.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hfprune.core.errors import HFPruneError
from hfprune.measure.runners import Batch, Runner, onnx_runner

# One timing lasts at least this long: far above the clock's resolution and the cost of a call.
MIN_SAMPLE_NS = 2_000_000
MAX_INNER_LOOPS = 10_000
# Untimed calls of one runner end here: where a call takes seconds, one is enough.
WARMUP_NS = 1_000_000_000


@dataclass(frozen=True)
class LatencyRow:
    """Times of one runner on one shape.

    Attributes:
        name: of the runner.
        batch_size, sequence_length: of the batch, no padding in it.
        threads: of the runner.
        repeats: number of timings.
        inner_loops: calls in one timing; times below are for one call.
        median_ms, p95_ms, mean_ms, std_ms: milliseconds a batch; ``std_ms`` is the sample
            standard deviation, 0 for a single timing.
        throughput: samples a second at the median.
        times_ms: the timings, one a round, in the order of the rounds.
        process_ms: median processor time of a call, all threads of the process; ``nan`` where it
            was not measured. Much less than ``median_ms`` on one thread: the machine was busy.
        process_times_ms: processor time of each round; empty where it was not measured.
    """

    name: str
    batch_size: int
    sequence_length: int
    threads: int
    repeats: int
    inner_loops: int
    median_ms: float
    p95_ms: float
    mean_ms: float
    std_ms: float
    throughput: float
    times_ms: tuple[float, ...] = field(repr=False)
    process_ms: float = math.nan
    process_times_ms: tuple[float, ...] = field(default=(), repr=False)

    @property
    def has_own_times(self) -> bool:
        """Whether processor time says how long it takes: one thread, which waits for no other."""
        own = self.process_times_ms
        return self.threads == 1 and len(own) == len(self.times_ms) and min(own) > 0

    @property
    def own_times_ms(self) -> tuple[float, ...]:
        """Times without the work of other programs, where that can be told; else by the clock."""
        return self.process_times_ms if self.has_own_times else self.times_ms

    @property
    def shape(self) -> tuple[int, int]:
        """``(batch_size, sequence_length)``."""
        return (self.batch_size, self.sequence_length)


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline: above 1 is faster.

    Attributes:
        value: median over the rounds of baseline time / own time.
        low, high: order statistics around the median.
        coverage: the chance that such an interval holds the true median, at least 0.95 where
            there are 6 rounds or more; with fewer the interval is the whole range.
        rounds: number of paired rounds.
    """

    value: float
    low: float
    high: float
    coverage: float
    rounds: int


def measure_latency(
    runners: Mapping[str, Runner],
    shapes: Sequence[tuple[int, int]],
    *,
    repeats: int,
    warmup: int,
    make_batch: Callable[[int, int], Batch],
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[LatencyRow]:
    """Time all runners on all shapes, interleaved.

    For each shape: one batch is made for all runners; each runner is called ``warmup`` times, or
    for a second where that is less (but once); then come ``repeats`` rounds, in each of which every
    runner is timed once, in an order shuffled anew. A runner that needs less than about 2 ms a call
    is called several times in one timing (the number is set from one timed call after the warm-up,
    and is ``inner_loops`` of its row).
    Python's garbage collector is off while timing.

    Args:
        runners: name to callable; a ``threads`` attribute is copied to the rows (1 without).
        shapes: pairs ``(batch_size, sequence_length)``.
        repeats: rounds a shape, at least 1.
        warmup: untimed calls, 0 or more.
        make_batch: gives the inputs for a batch size and a sequence length.
        progress: called after each round with the rounds done and the rounds in all.
        seed: of the orders.
        clock: nanoseconds.

    Returns:
        One row a shape and runner, in the order given.

    Raises:
        HFPruneError: for an empty set of runners or shapes, or impossible counts.
    """
    if not runners or not shapes:
        raise HFPruneError(
            f"nothing to measure: {len(runners)} runners and {len(shapes)} shapes, expected at "
            "least one of each"
        )
    if repeats < 1 or warmup < 0:
        raise HFPruneError(
            f"expected repeats >= 1 and warmup >= 0, got repeats={repeats} and warmup={warmup}"
        )
    shuffle = random.Random(seed).shuffle
    rows = []
    for index, (batch_size, length) in enumerate(shapes):
        batch = make_batch(batch_size, length)
        loops = {}
        for name, run in runners.items():
            _warm_up(run, batch, warmup, clock)
            loops[name] = _inner_loops(_time(run, batch, 1, clock))
        times: dict[str, list[float]] = {name: [] for name in runners}
        process: dict[str, list[float]] = {name: [] for name in runners}
        order = list(runners)
        for done in range(repeats):
            shuffle(order)
            with no_garbage_collection():
                for name in order:
                    own = time.process_time_ns()
                    elapsed = _time(runners[name], batch, loops[name], clock)
                    process[name].append((time.process_time_ns() - own) / loops[name] / 1e6)
                    times[name].append(elapsed / loops[name] / 1e6)
            if progress is not None:
                progress(index * repeats + done + 1, len(shapes) * repeats)
        rows += [
            replace(
                _row(
                    name, batch_size, length, getattr(run, "threads", 1), loops[name], times[name]
                ),
                process_ms=float(np.median(process[name])),
                process_times_ms=tuple(process[name]),
            )
            for name, run in runners.items()
        ]
    return rows


def latency_facts(
    files: Mapping[str, Path],
    shapes: Sequence[tuple[int, int]],
    *,
    threads: int,
    baseline: str,
    make_batch: Callable[[int, int], Batch],
    repeats: int = 7,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Median latency and speed-up of ONNX files over many shapes: JSON-ready rows.

    Args:
        files: name to ONNX file.
        shapes, make_batch, repeats, progress: as :func:`measure_latency`.
        threads: of each session.
        baseline: the name of the file that the others are compared with.
    """
    rows = measure_latency(
        {name: onnx_runner(file, threads) for name, file in files.items()},
        shapes,
        repeats=repeats,
        warmup=1,
        make_batch=make_batch,
        progress=progress,
    )
    ratio = ratios(rows, baseline)
    return [
        {
            "name": row.name,
            "threads": row.threads,
            "batch_size": row.batch_size,
            "sequence_length": row.sequence_length,
            "median_ms": row.median_ms,
            "speedup": ratio[(row.name, row.shape)].value,
        }
        for row in rows
    ]


def ratios(
    rows: Sequence[LatencyRow], baseline: str, *, own: bool = False
) -> dict[tuple[str, tuple[int, int]], Ratio]:
    """Speed relative to a baseline, for each runner and shape, the baseline (1) included.

    Timings of the same round are divided by one another first, so what slows a whole round cancels
    out; the value is the median of these ratios. The interval is made of order statistics (sign
    test): it assumes nothing of their distribution.

    Args:
        rows: of one measurement.
        baseline: the name of the runner that the others are compared with.
        own: of processor time where there is one thread: a busy machine leaves it as it is.

    Raises:
        HFPruneError: if a shape has no row of the baseline, or rows have unlike numbers of rounds.
    """
    base = {row.shape: row for row in rows if row.name == baseline}
    found = {}
    for row in rows:
        if row.shape not in base:
            raise HFPruneError(
                f"no row of the baseline {baseline!r} for batch size {row.batch_size}, length "
                f"{row.sequence_length}; the rows are of {sorted({r.name for r in rows})}"
            )
        reference = base[row.shape]
        if len(reference.times_ms) != len(row.times_ms):
            raise HFPruneError(
                f"{row.name!r} has {len(row.times_ms)} rounds, the baseline {baseline!r} has "
                f"{len(reference.times_ms)}; ratios need rows of one measurement"
            )
        if own and reference.has_own_times and row.has_own_times:  # of both alike
            pair = paired_ratio(reference.process_times_ms, row.process_times_ms)
        else:
            pair = paired_ratio(reference.times_ms, row.times_ms)
        found[(row.name, row.shape)] = pair
    return found


def paired_ratio(reference: Sequence[float], own: Sequence[float]) -> Ratio:
    """The ratio of two runners' times in the same rounds; see :func:`ratios`."""
    pairs = sorted(b / t for b, t in zip(reference, own, strict=True))
    low, coverage = order_statistic(len(pairs))
    return Ratio(
        value=float(np.median(pairs)),
        low=pairs[low],
        high=pairs[-1 - low],
        coverage=coverage,
        rounds=len(pairs),
    )


def order_statistic(count: int, confidence: float = 0.95) -> tuple[int, float]:
    """The greatest k for which the k-th from either end hold the median with this confidence.

    Of ``count`` values each lies below the median with chance 1/2, so the chance that the interval
    misses is twice P(Binomial(count, 1/2) <= k).

    >>> order_statistic(6)
    (0, 0.96875)
    """
    best = (0, 1.0 - 2.0 * 0.5**count)
    tail = 0.0
    for k in range((count - 1) // 2 + 1):
        tail += math.comb(count, k) * 0.5**count
        if 1.0 - 2.0 * tail < confidence:
            break
        best = (k, 1.0 - 2.0 * tail)
    return best


def _time(run: Runner, batch: Batch, loops: int, clock: Callable[[], int]) -> int:
    start = clock()
    for _ in range(loops):
        run(batch)
    return max(1, clock() - start)  # a coarse clock may not have moved


def _warm_up(run: Runner, batch: Batch, calls: int, clock: Callable[[], int]) -> None:
    start = clock() if calls > 1 else 0
    for done in range(1, calls + 1):
        run(batch)
        if done < calls and clock() - start > WARMUP_NS:
            return


def _inner_loops(elapsed_ns: int) -> int:
    return min(MAX_INNER_LOOPS, max(1, math.ceil(MIN_SAMPLE_NS / elapsed_ns)))


def _row(
    name: str, batch_size: int, length: int, threads: int, loops: int, times: Sequence[float]
) -> LatencyRow:
    values = np.asarray(times)
    median = float(np.median(values))
    return LatencyRow(
        name=name,
        batch_size=batch_size,
        sequence_length=length,
        threads=threads,
        repeats=len(times),
        inner_loops=loops,
        median_ms=median,
        p95_ms=float(np.percentile(values, 95)),
        mean_ms=float(values.mean()),
        std_ms=float(values.std(ddof=1)) if len(times) > 1 else 0.0,
        throughput=1000.0 * batch_size / median,
        times_ms=tuple(times),
    )


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
