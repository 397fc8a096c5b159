"""The memory of a reconstruction: batches by tokens, blocks in groups, levels on disk.

None of it changes what is found but for rounding: sums over batches are the same sums.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfprune.families import BlockView
from hfprune.families.blocks import BlockKey
from hfprune.pruning.reconstruction.common import Batch

# Bytes, where nobody says another number.
MEMORY = 2e9

# Of a scoring batch, and of what the search over levels is judged by.
MOST_ROWS = 64
JUDGED_ROWS, JUDGED_TOKENS = 256, 32_768


def bytes_a_token(views: Mapping[BlockKey, BlockView]) -> float:
    """What a token of a scoring batch takes at the peak of its pass forward and back, in float32.

    Measured of BERT shapes on a CPU (384 x 6 and 768 x 12 layers, 64 to 4,096 tokens a row): 81 to
    94 bytes a layer and hidden feature; this says 90.
    """
    return sum(10.0 * view.weight.shape[1] + 20.0 * view.weight.shape[0] for view in views.values())


def cut(lengths: Sequence[int], most_tokens: float, most_rows: int = MOST_ROWS) -> list[slice]:
    """Where to cut rows into batches that take so many tokens with padding; a row at the least.

    >>> cut([2, 2, 3, 9], 6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    found, start, longest = [], 0, 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        rows = place + 1 - start
        if rows > 1 and (rows > most_rows or rows * longest > most_tokens):
            found.append(slice(start, place))
            start, longest = place, length
    return [*found, slice(start, len(lengths))] if lengths else []


def judged(batches: Sequence[Batch], seed: int = 0) -> list[Batch]:
    """Rows drawn at random until they or their tokens are enough to judge a choice of levels by.

    Which rows follows from their numbers alone, counted through all batches: rows that are cut into
    other batches, for other memory, are judged by the same of them.

    Returns:
        Of each batch the rows that were drawn, in its order; batches without one are left out.
    """
    counts = [rows_of(batch) for batch in batches]
    lengths = np.concatenate([np.zeros(0, np.int64), *map(_lengths, batches)])
    drawn = np.random.default_rng(seed).permutation(len(lengths))
    before = np.cumsum(lengths[drawn]) - lengths[drawn]  # tokens of those that were drawn earlier
    enough = (np.arange(len(drawn)) >= JUDGED_ROWS) | (before >= JUDGED_TOKENS)
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[drawn[~enough]] = True
    found: list[Batch] = []
    ends = np.cumsum(counts)
    for batch, end, count in zip(batches, ends, counts, strict=True):
        rows = np.flatnonzero(chosen[end - count : end])
        if len(rows) == count:
            found.append(batch)
        elif len(rows):
            places = torch.from_numpy(rows)
            found.append({name: some[places.to(some.device)] for name, some in batch.items()})
    return found


def _lengths(batch: Batch) -> NDArray[np.int64]:
    """Tokens of each row without padding; 0 of images."""
    mask = batch.get("attention_mask")
    if mask is not None:
        return np.asarray(mask.sum(dim=-1).cpu().numpy(), dtype=np.int64)
    ids = batch.get("input_ids")
    return np.full(rows_of(batch), 0 if ids is None else ids.shape[1], dtype=np.int64)


def rows_of(batch: Batch) -> int:
    """How many rows a batch has."""
    return len(next(iter(batch.values())))


def groups(sizes: Mapping[BlockKey, float], memory: float) -> list[list[BlockKey]]:
    """Blocks whose matrices are held at a time, in order; a group has one block at the least."""
    found: list[list[BlockKey]] = []
    used = 0.0
    for key, size in sizes.items():
        if not found or used + size > memory:
            found.append([])
            used = 0.0
        found[-1].append(key)
        used += size
    return found


def moment_bytes(view: BlockView) -> float:
    """What the second moments of a block's inputs take, in float64; twice while a level is made."""
    return 2.0 * 8.0 * view.weight.shape[1] ** 2


class Shelf:
    """Where tensors lie until they are wanted: in memory as long as it lasts, else in files.

    The files go with the object.

    Args:
        memory: bytes that may be held.
        folder: where the files' folder is made; the system's place without it.
    """

    def __init__(self, memory: float, folder: str | Path | None = None) -> None:
        self._left, self._place = memory, folder
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def keep(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """The same tensors, float32, or what reads as them.

        Raises:
            OSError: the disk is full.
        """
        return tuple(map(self._kept, tensors))

    def _kept(self, tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        if size <= self._left or not size:
            self._left -= size
            return tensor
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(
                prefix="hfprune-levels-", dir=self._place, ignore_cleanup_errors=True
            )
        file = Path(self._folder.name) / str(self._files)
        self._files += 1
        values: Any = tensor.detach().cpu().contiguous().numpy()
        with file.open("wb") as stream:
            stream.write(values.tobytes())
        mapped: Tensor = torch.from_file(
            str(file), shared=False, size=tensor.numel(), dtype=tensor.dtype
        )
        return mapped.reshape(tensor.shape)
