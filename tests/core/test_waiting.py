"""Waiting with a limit."""

from __future__ import annotations

import threading

import pytest

from hfprune.core import waiting
from hfprune.core.waiting import is_waiting, seconds_for, within


def test_what_comes_in_time_is_given() -> None:
    assert within(30, lambda: 7) == 7
    with pytest.raises(KeyError, match="own"):
        within(30, lambda: {}["own"])
    assert not is_waiting()


def test_what_takes_longer_is_given_up_and_told_of() -> None:
    stop = threading.Event()
    told: list[float] = []
    with pytest.raises(TimeoutError, match="not done within 0 s"):
        within(0.2, lambda: stop.wait(60), tell=told.append, every=0.05)
    assert told
    assert told == sorted(told)
    assert is_waiting()
    stop.set()
    for thread in waiting._abandoned:
        thread.join(10)
    assert not is_waiting()


def test_the_limit_grows_with_what_is_sent() -> None:
    assert seconds_for(0, 60) == 60
    assert seconds_for(5_000_000, 60) == 160


def test_an_interrupt_is_not_held_up() -> None:
    """The main thread waits in short pieces, so that Ctrl-C comes through."""
    stop = threading.Event()

    def interrupted(waited: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        within(600, lambda: stop.wait(600), tell=interrupted, every=0.05)
    stop.set()
