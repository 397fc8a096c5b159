"""Waiting for others with a limit: a server that does not answer, or drips a byte a second."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

ResultT = TypeVar("ResultT")

# What a request may take besides the bytes that it moves, and the slowest that bytes may come.
SECONDS_TO_ANSWER: Final = 60.0
SLOWEST_BYTES_A_SECOND: Final = 50_000
SECONDS_BETWEEN_WORDS: Final = 20.0

_abandoned: list[threading.Thread] = []


def seconds_for(size: int, seconds: float = SECONDS_TO_ANSWER) -> float:
    """How long a request that moves ``size`` bytes may take."""
    return seconds + size / SLOWEST_BYTES_A_SECOND


def within(
    seconds: float,
    do: Callable[[], ResultT],
    *,
    tell: Callable[[float], None] | None = None,
    every: float = SECONDS_BETWEEN_WORDS,
) -> ResultT:
    """What ``do()`` returns or raises, if it does so in time.

    It runs in a thread of its own. Python cannot stop a thread: one that takes longer is left
    behind (see :func:`is_waiting`), and whatever comes of it is dropped.

    Args:
        seconds: the limit, from now.
        tell: is called with the seconds waited so far, every ``every`` seconds.

    Raises:
        TimeoutError: it took longer.
    """
    answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answer.put((True, do()))
        except BaseException as error:
            answer.put((False, error))

    thread = threading.Thread(target=work, daemon=True, name="hfprune-waiting")
    start = time.monotonic()
    thread.start()
    while (left := seconds - (time.monotonic() - start)) > 0:
        try:
            good, value = answer.get(timeout=min(left, every))
        except queue.Empty:
            if tell is not None and left > every:
                tell(time.monotonic() - start)
            continue
        if good:
            result: ResultT = value
            return result
        raise value
    _abandoned.append(thread)
    raise TimeoutError(f"not done within {seconds:.0f} s")


def is_waiting() -> bool:
    """Whether something that took too long is still going on, which would hold up the exit.

    Libraries start further threads, for which Python waits at its end.
    """
    return any(thread.is_alive() for thread in _abandoned)
