"""Traffic: which texts are timed together, and what the numbers are, by a made-up clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hfprune.core.errors import HFPruneError
from hfprune.measure.latency import measure_latency
from hfprune.measure.traffic import (
    busy_share,
    measure_traffic,
    traffic_batches,
    traffic_ratios,
)

ROWS = [{"input_ids": [7] * n, "attention_mask": [1] * n, "labels": 0} for n in range(3, 43)]


def pad(rows: list[dict[str, Any]]) -> dict[str, Any]:
    longest = max(len(row["input_ids"]) for row in rows)
    return {
        name: [row[name] + [0] * (longest - len(row[name])) for row in rows]
        for name in ("input_ids", "attention_mask")
    }


class Clock:
    """Nanoseconds that pass when a runner says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Runner:
    """A millisecond a token (padding counts), and 5 more for a length that it has not seen."""

    threads = 1

    def __init__(self, clock: Clock, factor: float = 1.0, plans: bool = False) -> None:
        self.clock, self.factor, self.plans = clock, factor, plans
        self.seen: set[int] = set()
        self.lengths: list[int] = []

    def __call__(self, batch: Any) -> None:
        rows, length = batch["input_ids"].shape
        ms = rows * length * self.factor
        if self.plans and length not in self.seen:
            ms += 5
        self.seen.add(length)
        self.lengths.append(length)
        self.clock.now += round(ms * 1e6)


def test_single_texts_keep_their_lengths_and_come_in_random_order() -> None:
    batches = traffic_batches(ROWS, pad, "single")
    lengths = [batch["input_ids"].shape for batch in batches]
    assert sorted(n for _, n in lengths) == list(range(3, 43))
    assert {rows for rows, _ in lengths} == {1}
    assert [n for _, n in lengths] != list(range(3, 43))
    assert set(batches[0]) == {"input_ids", "attention_mask"}
    other = traffic_batches(ROWS, pad, "single", most=5, seed=1)
    assert len(other) == 5


def test_batches_are_full_and_padded_to_their_longest() -> None:
    batches = traffic_batches(ROWS, pad, "batches", batch_size=16)
    assert [len(batch["input_ids"]) for batch in batches] == [16, 16]
    for batch in batches:
        assert batch["attention_mask"].sum(axis=1).max() == batch["input_ids"].shape[1]
        assert batch["attention_mask"].sum() < batch["input_ids"].size
    assert len(traffic_batches(ROWS[:3], pad, "batches")) == 1


def test_times_are_for_a_text_warm_and_cold() -> None:
    clock = Clock()
    runners = {"plain": Runner(clock), "planning": Runner(clock, 0.5, plans=True)}
    batches = traffic_batches(ROWS, pad, "single")
    rows = measure_traffic(runners, batches, "single", repeats=3, clock=clock, process_clock=clock)
    plain, planning = rows
    mean = float(np.mean(range(3, 43)))
    assert plain.cold_ms == pytest.approx(mean)
    assert planning.cold_ms == pytest.approx(mean / 2 + 5), "each length was new"
    assert planning.ms == pytest.approx(plain.ms / 2)
    assert plain.process_ms == plain.ms
    assert (plain.texts, plain.batch_size, plain.throughput) == (40, 1, 1000 / plain.ms)
    ratio = traffic_ratios(rows, "plain")["planning"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    # Interleaved: in each round both got the same texts.
    assert runners["plain"].lengths == runners["planning"].lengths
    assert len(plain.times_ms) == 3 * 2


def test_batches_count_all_their_texts() -> None:
    clock = Clock()
    batches = traffic_batches(ROWS, pad, "batches", batch_size=20)
    (row,) = measure_traffic(
        {"one": Runner(clock)}, batches, "batches", repeats=1, clock=clock, process_clock=clock
    )
    tokens = sum(batch["input_ids"].size for batch in batches)
    assert row.cold_ms == pytest.approx(tokens / 40)
    assert (row.batch_size, row.texts) == (20, 40)


def test_a_busy_machine_shows_in_the_times() -> None:
    assert busy_share(10.0, 10.0) == 0.0
    assert busy_share(10.0, 6.0) == pytest.approx(0.4)
    assert busy_share(10.0, 18.0, threads=2) == pytest.approx(0.1)
    assert busy_share(10.0, 11.0) == 0.0
    with pytest.raises(HFPruneError, match="expected a time above 0"):
        busy_share(0.0, 1.0)


def test_fixed_shapes_have_processor_time_beside() -> None:
    total = [0]

    def work(batch: Any) -> None:
        total[0] += sum(range(20_000))

    (row,) = measure_latency(
        {"work": work},
        [(1, 4)],
        repeats=3,
        warmup=1,
        make_batch=lambda b, n: {"input_ids": np.zeros((b, n))},
    )
    assert 0 < row.process_ms <= 1.5 * max(row.times_ms)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: traffic_batches([], pad, "single"), "traffic of 0 rows"),
        (lambda: traffic_batches(ROWS, pad, "bulk"), "use 'bulk'"),  # type: ignore[arg-type]
        (lambda: traffic_batches(ROWS, pad, "batches", batch_size=0), "batch size 0"),
        (lambda: measure_traffic({}, [{}], "single", repeats=1), "nothing to measure: 0 runners"),
        (lambda: traffic_ratios([], "x"), "no row of the baseline 'x'"),
    ],
)
def test_what_cannot_be_measured(call: Any, message: str) -> None:
    with pytest.raises(HFPruneError, match=message):
        call()
