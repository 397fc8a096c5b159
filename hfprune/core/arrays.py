"""Large arrays: zeros that take no memory until they are written, and looking a part at a time."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Below this a whole array costs less than the trouble.
_WORTH: Final = 16_000_000
# Of a part: what copies of it take stays small beside the whole.
_AT_ONCE: Final = 8_000_000


def zeros(shape: Sequence[int]) -> NDArray[np.float32]:
    """Zeros, of which the pages that are never written take no memory, also once they are read.

    Logits of tokens are as wide as the longest row, and most rows are short. ``numpy.zeros`` leaves
    untouched pages out too, but where the system gives pages of 2 MB, as it likes to for arrays of
    this size, the first token of a row makes all of its padding real.

    Args:
        shape: of the array.

    Returns:
        float32 of that shape; it may be written.
    """
    size = 4 * math.prod(shape)
    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    if size < _WORTH or not private:
        return np.zeros(tuple(shape), dtype=np.float32)
    held = mmap.mmap(-1, size, flags=private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that has no such pages
            held.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(held, dtype=np.float32).reshape(tuple(shape))


def row_parts(values: NDArray[Any], most: int = _AT_ONCE) -> Iterator[slice]:
    """Rows in order, so many at a time that they hold at most ``most`` bytes (at least one row).

    >>> list(row_parts(np.zeros((5, 2), np.float32), 16))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, most // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield slice(start, min(start + step, len(values)))


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(np.isfinite(values[part]).all()) for part in row_parts(values))
