"""Batches in parts, which are given out to processes and kept for a run that goes on later."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hfprune.core.files import keep_in_cache

logger = logging.getLogger(__name__)

# Batches are given out, and kept for a later run, in about so many parts.
PARTS = 64


def shares(count: int) -> list[range]:
    """Batches of each part, in order; the same however many processes there are.

    >>> shares(3), len(shares(1000))
    ([range(0, 1), range(1, 2), range(2, 3)], 63)
    """
    size = max(1, math.ceil(count / PARTS))
    return [range(start, min(count, start + size)) for start in range(0, count, size)]


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
