"""Which of many is the fastest, with few timings: successive halving on paired rounds.

All that are left are timed in turn within each round, so that a busy spell of the machine hits all
of them; ratios are taken within a round. After each stage those that are surely slower go, and of
the rest the slower half; who stays is timed twice as often (Karnin et al., Almost optimal
exploration in multi-armed bandits, 2013). No time is measured here: that is for the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hfprune.core.errors import HFPruneError
from hfprune.measure.latency import order_statistic

# Differences below this mean nothing: the earlier in the order of preference is taken.
INDIFFERENT = 0.02
FIRST_ROUNDS = 7
MOST_ROUNDS = 64

Rounds = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Standing:
    """What was found of one of them.

    Attributes:
        name: of it.
        slower: how many times as slow as the fastest, median over common rounds.
        low, high: interval of that; 1 for the fastest itself.
        rounds: in which it was timed.
    """

    name: str
    slower: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Race:
    """The end of it.

    Attributes:
        winner: the first, in the order of preference, of those as fast as the fastest.
        fastest: by the median.
        standings: of all, the fastest first.
        seconds: what the timings took.
        cut_short: whether time ended before it was clear.
    """

    winner: str
    fastest: str
    standings: tuple[Standing, ...]
    seconds: float
    cut_short: bool


def race(
    names: Sequence[str],
    measure: Callable[[Sequence[str], int], Rounds],
    *,
    seconds: float,
    clock: Callable[[], float],
    first_rounds: int = FIRST_ROUNDS,
    most_rounds: int = MOST_ROUNDS,
    indifferent: float = INDIFFERENT,
) -> Race:
    """Find the fastest.

    Args:
        names: in the order of preference: among equals the first is taken.
        measure: times the named ones in so many interleaved rounds; gives for each name one number
            a round (any unit of time).
        seconds: after that no further stage begins. The first is always run, with all of them.
        clock: seconds.
        first_rounds: of the first stage.
        most_rounds: of one of them, all stages together.
        indifferent: relative difference that means nothing.

    Raises:
        HFPruneError: for no names, or the same twice, or ``measure`` that gives something else.
    """
    if not names or len(set(names)) != len(names):
        raise HFPruneError(f"a race needs names, each of them once; got {list(names)}")
    start = clock()
    times: dict[str, list[float]] = {name: [] for name in names}
    left, rounds, cut_short = list(names), first_rounds, False
    while True:
        found = measure(left, rounds)
        for name in left:
            if len(found[name]) != rounds or not all(value > 0 for value in found[name]):
                raise HFPruneError(
                    f"{name!r} was to be timed in {rounds} rounds, got {list(found[name])[:5]}"
                )
            times[name] += found[name]
        left = survivors(left, times, indifferent)
        done = len(times[left[0]])
        if len(left) == 1 or done >= most_rounds:
            break
        if clock() - start >= seconds:
            cut_short = True
            break
        rounds = min(2 * rounds, most_rounds - done)
    standings = _standings(times, _fastest(left, times))
    fastest = standings[0].name
    able = [s.name for s in standings if s.name in left and s.slower <= 1 + indifferent]
    winner = min(able, key=list(names).index)
    return Race(winner, fastest, standings, clock() - start, cut_short)


def survivors(
    names: Sequence[str], times: Mapping[str, Sequence[float]], indifferent: float = INDIFFERENT
) -> list[str]:
    """Who is timed further: not the surely slower, and of the rest not the slower half.

    Those within ``indifferent`` of the fastest stay in any case. Arguments as for :func:`race`.
    """
    fastest = _fastest(names, times)
    found = {name: _against(times[name], times[fastest]) for name in names}
    open_ = [n for n in names if n == fastest or found[n][1] <= 1 + indifferent]
    by_speed = sorted(open_, key=lambda name: found[name][0])
    half = set(by_speed[: math.ceil(len(names) / 2)])
    return [n for n in open_ if n in half or found[n][0] <= 1 + indifferent]


def _fastest(names: Sequence[str], times: Mapping[str, Sequence[float]]) -> str:
    """By the median of the time within a round over that round's mean."""
    table = np.log(np.array([times[name] for name in names]))
    return names[int(np.argmin(np.median(table - table.mean(axis=0), axis=1)))]


def _against(own: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """How many times as slow, with an interval, over the rounds that both were in (the first)."""
    count = min(len(own), len(other))
    ratio = np.sort(np.array(own[:count]) / np.array(other[:count]))
    k, _ = order_statistic(count)
    return float(np.median(ratio)), float(ratio[k]), float(ratio[-1 - k])


def _standings(times: Mapping[str, Sequence[float]], fastest: str) -> tuple[Standing, ...]:
    found = []
    for name, own in times.items():
        value, low, high = _against(own, times[fastest])
        found.append(Standing(name, value, low, high, len(own)))
    return tuple(sorted(found, key=lambda s: (s.name != fastest, s.slower)))
