"""Memory that this process holds, and giving back what it no longer needs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")

# Below this a collection costs more time than the memory is worth.
WORTH_RELEASING: Final = 1.5e9


def held_bytes() -> int:
    """Memory of this process that is in use now; 0 where the system does not say (not Linux)."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


def release_memory(worth: float = WORTH_RELEASING) -> bool:
    """Give back what nothing refers to any more, where the process holds much.

    A Trainer, its model and the teacher's outputs refer to one another in circles, so they stay
    until Python looks for such, which it does ever more rarely; and what small pieces freed within
    the C library's heap stays with the process until it is asked for.

    Args:
        worth: bytes held from which on it is done.

    Returns:
        Whether it was done.
    """
    if held_bytes() < worth:
        return False
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)
    return True
