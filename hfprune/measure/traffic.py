"""The speed of real traffic: texts of their own lengths, one by one or in padded batches.

Fixed shapes mislead about it: a runtime that plans anew for each length is fast at one of them and
slow when they change.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from hfprune.core.errors import HFPruneError
from hfprune.core.kinds import IMAGE_INPUTS, TEXT_INPUTS
from hfprune.measure.latency import Ratio, no_garbage_collection, paired_ratio
from hfprune.measure.runners import Batch, Runner

Use: TypeAlias = Literal["single", "batches"]
USES: tuple[Use, ...] = ("single", "batches")

# Enough texts a round for their lengths to differ as they do in all of them.
TEXTS_A_ROUND = {"single": 24, "batches": 4}


@dataclass(frozen=True)
class TrafficRow:
    """Times of one runner on traffic of one kind.

    Attributes:
        name: of the runner.
        use: ``"single"`` or ``"batches"``.
        batch_size: texts a call.
        texts: different texts in all.
        threads: of the runner.
        ms: median over the rounds, milliseconds a text, lengths having been seen before.
        cold_ms: the same of the first time that each length was seen: a runtime may plan for it.
        process_ms: median processor time a text, of all threads of the process. Much less than
            ``ms`` means that the machine was busy with something else.
        times_ms: of the rounds, milliseconds a text; a round is the same texts for all runners.
    """

    name: str
    use: Use
    batch_size: int
    texts: int
    threads: int
    ms: float
    cold_ms: float
    process_ms: float
    times_ms: tuple[float, ...] = field(repr=False)

    @property
    def throughput(self) -> float:
        """Texts a second."""
        return 1000.0 / self.ms


def traffic_batches(
    rows: Sequence[Mapping[str, Any]],
    pad: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    use: Use,
    *,
    batch_size: int = 32,
    most: int = 512,
    seed: int = 0,
) -> list[Batch]:
    """Batches of real rows in random order, not sorted by length: as they come in.

    Args:
        rows: tokenised, unpadded, or images that ``pad`` reads.
        pad: makes a batch of rows: a mapping of arrays.
        use: ``"single"``: each alone; ``"batches"``: ``batch_size`` padded together.
        batch_size: of ``"batches"``.
        most: rows that are taken.
        seed: of the order, and of which rows.

    Returns:
        NumPy arrays, as runners take them. Of batches all are full, but for too few rows.

    Raises:
        HFPruneError: for no rows, another use, or an impossible size.
    """
    if use not in USES or batch_size < 1 or len(rows) == 0:
        raise HFPruneError(
            f"traffic of {len(rows)} rows, use {use!r}, batch size {batch_size}: expected rows, "
            f"one of {', '.join(USES)}, and a size of at least 1"
        )
    order = np.random.default_rng(seed).permutation(len(rows))[:most]
    size = min(batch_size, len(order)) if use == "batches" else 1
    names = (*TEXT_INPUTS, *IMAGE_INPUTS)
    found = []
    for start in range(0, len(order) - size + 1, size):
        chosen = [dict(rows[int(place)]) for place in order[start : start + size]]
        padded = pad(chosen)
        found.append({n: np.asarray(padded[n]) for n in names if n in padded})
    return found


def measure_traffic(
    runners: Mapping[str, Runner],
    batches: Sequence[Batch],
    use: Use,
    *,
    repeats: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    process_clock: Callable[[], int] = time.process_time_ns,
) -> list[TrafficRow]:
    """Time all runners on the same traffic, interleaved.

    Each runner first goes through all batches once, cold. Then come rounds: of a part of the
    batches, in an order drawn anew, which every runner gets in turn, in an order shuffled anew.

    Args:
        runners: name to callable; a ``threads`` attribute is copied (1 without).
        batches: as :func:`traffic_batches` gives them.
        use: of which use they are.
        repeats: how often all batches are gone through warm, at least 1.
        seed: of the orders.
        progress: called after each round with the rounds done and the rounds in all.
        clock, process_clock: nanoseconds.

    Returns:
        One row a runner.

    Raises:
        HFPruneError: for no runners or batches, or ``repeats`` below 1.
    """
    if not runners or not batches or repeats < 1:
        raise HFPruneError(
            f"nothing to measure: {len(runners)} runners, {len(batches)} batches and repeats="
            f"{repeats}, expected at least one of each"
        )
    timer = TrafficTimer(runners, batches, use, seed=seed, clock=clock, process_clock=process_clock)
    names = list(runners)
    timer.warm_up(names)
    parts = math.ceil(len(batches) / TEXTS_A_ROUND[use])
    for done in range(1, repeats * parts + 1):
        timer.round(names)
        if progress is not None:
            progress(done, repeats * parts)
    return [timer.row(name) for name in names]


class TrafficTimer:
    """Rounds of traffic, one after the other; for those who do not know beforehand how many.

    Arguments as for :func:`measure_traffic`, and ``calls``: batches a round, ``None`` for the usual
    number; where a call takes long, fewer will do.

    Attributes:
        times: by runner, milliseconds a text of each round that it was in.
        process: the same in processor time.
        cold: by runner, of the first time through all batches.
    """

    def __init__(
        self,
        runners: Mapping[str, Runner],
        batches: Sequence[Batch],
        use: Use,
        *,
        seed: int = 0,
        clock: Callable[[], int] = time.perf_counter_ns,
        process_clock: Callable[[], int] = time.process_time_ns,
        calls: int | None = None,
    ) -> None:
        self._runners, self._batches, self._use = runners, batches, use
        self._calls = TEXTS_A_ROUND[use] if calls is None else calls
        self._clock, self._process_clock = clock, process_clock
        self._shuffle = random.Random(seed).shuffle
        self._sizes = [len(next(iter(batch.values()))) for batch in batches]
        self._waiting: list[int] = []
        self.times: dict[str, list[float]] = {name: [] for name in runners}
        self.process: dict[str, list[float]] = {name: [] for name in runners}
        self.cold: dict[str, float] = {}

    def warm_up(self, names: Sequence[str]) -> None:
        """All batches once through those that have not had them."""
        for name in names:
            if name not in self.cold:
                self.cold[name] = self._pass(name, range(len(self._batches)))[0]

    def round(self, names: Sequence[str]) -> None:
        """The next part of the batches, in a new order when all are through, to each in turn."""
        if not self._waiting:
            self._waiting = list(range(len(self._batches)))
            self._shuffle(self._waiting)
        count = self._calls
        part, self._waiting = self._waiting[:count], self._waiting[count:]
        order = list(names)
        self._shuffle(order)
        with no_garbage_collection():
            for name in order:
                wall, own = self._pass(name, part)
                self.times[name].append(wall)
                self.process[name].append(own)

    def row(self, name: str) -> TrafficRow:
        """What was found of a runner that was in a round at least."""
        return TrafficRow(
            name=name,
            use=self._use,
            batch_size=max(self._sizes),
            texts=sum(self._sizes),
            threads=getattr(self._runners[name], "threads", 1),
            ms=float(np.median(self.times[name])),
            cold_ms=self.cold[name],
            process_ms=float(np.median(self.process[name])),
            times_ms=tuple(self.times[name]),
        )

    def _pass(self, name: str, part: Sequence[int]) -> tuple[float, float]:
        run, texts = self._runners[name], sum(self._sizes[place] for place in part)
        process, start = self._process_clock(), self._clock()
        for place in part:
            run(self._batches[place])
        wall = max(1, self._clock() - start)
        return wall / texts / 1e6, (self._process_clock() - process) / texts / 1e6


def traffic_ratios(rows: Sequence[TrafficRow], baseline: str) -> dict[str, Ratio]:
    """Speed relative to a baseline, by runner; see :func:`hfprune.measure.latency.ratios`.

    Raises:
        HFPruneError: without a row of the baseline.
    """
    base = next((row for row in rows if row.name == baseline), None)
    if base is None:
        raise HFPruneError(
            f"no row of the baseline {baseline!r}; the rows are of {[row.name for row in rows]}"
        )
    return {row.name: paired_ratio(base.times_ms, row.times_ms) for row in rows}


def busy_share(wall_ms: float, process_ms: float, threads: int = 1) -> float:
    """The part of the time in which a runner waited for a processor, in [0, 1].

    A runner of one thread that never waits needs as much processor time as wall time.
    """
    if not wall_ms > 0 or threads < 1:
        raise HFPruneError(f"expected a time above 0 and threads, got {wall_ms} ms, {threads}")
    return float(min(1.0, max(0.0, 1.0 - process_ms / wall_ms / threads)))
