"""What several processes compute together, a share each: who does what, and the whole of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hfprune.core.files import keep_in_cache
from hfprune.core.processes import processes

logger = logging.getLogger(__name__)

# Batches are given out, and kept for a later run, in about so many parts.
PARTS = 64
# Numbers that are sent at a time.
_SENT = 2**24


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shares(count: int) -> list[range]:
    """Batches of each part, in order; the same however many processes there are.

    >>> shares(3), len(shares(1000))
    ([range(0, 1), range(1, 2), range(2, 3)], 63)
    """
    size = max(1, math.ceil(count / PARTS))
    return [range(start, min(count, start + size)) for start in range(0, count, size)]


def mine(parts: int) -> range:
    """The numbers of the parts that this process does."""
    return range(dist.get_rank(), parts, dist.get_world_size()) if _together() else range(parts)


def writes() -> bool:
    """Whether this process writes what all have: one on each machine does."""
    return not _together() or processes().is_local_main_process


def join_(store: Tensor) -> None:
    """Zeros where other processes have values become those values, exactly. In place."""
    if not _together():
        return
    device = _device()
    for piece in store.view(-1).split(_SENT):
        # In float32, which every backend adds up; a number and zeros lose nothing.
        sent = piece.to(device, torch.float32)
        dist.all_reduce(sent)
        piece.copy_(sent)


def _device() -> torch.device:
    """Where collectives want their tensors: NCCL on this process' GPU."""
    cuda = "nccl" in dist.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


class Parts:
    """Parts of something that takes long, kept on disk until the whole is done.

    Args:
        place: of the whole; parts lie beside it. ``None``: nothing is kept.
    """

    def __init__(self, place: Path | None) -> None:
        self._place = place

    def _file(self, part: int) -> Path | None:
        place = self._place
        return None if place is None else place.with_name(f"{place.stem}-part{part}{place.suffix}")

    def load(self, part: int, rows: Sequence[int], labels: int) -> Tensor | None:
        """What an earlier, interrupted run has of it, or ``None``.

        Args:
            rows: whose logits they must be.
            labels: how many numbers a row has.
        """
        file = self._file(part)
        if file is None or not file.is_file():
            return None
        try:
            found = load_file(file)
            values, known = found["logits"].clone(), found["rows"].tolist()
        except (OSError, KeyError, SafetensorError) as error:
            logger.warning("%s is computed anew: %s", file, error)
            return None
        sound = values.shape == (len(rows), labels) and known == list(rows)
        return values if sound and bool(values.isfinite().all()) else None

    def keep(self, part: int, rows: Sequence[int], values: Tensor) -> None:
        """Write a part, whole or not at all; a disk that cannot be written is told and left."""
        file = self._file(part)
        if file is not None:
            data = {"logits": values.contiguous(), "rows": torch.tensor(list(rows))}
            if not keep_in_cache(file, save(data)):
                self._place = None

    def drop(self, parts: Iterable[int]) -> None:
        """The whole is kept: parts go."""
        for part in parts:
            file = self._file(part)
            if file is not None:
                file.unlink(missing_ok=True)
