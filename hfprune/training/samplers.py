"""Rows of like length together, in an order that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler


def in_fixed_order(sampler: Any, args: Any) -> Any:
    """A Trainer's sampler; where it groups rows by length, in an order that can be resumed.

    Args:
        args: the ``TrainingArguments``.
    """
    if not isinstance(sampler, LengthGroupedSampler):
        return sampler
    # Groups of what all processes take in one step: the order is that of a single process with as
    # many times the batch.
    sampler.batch_size *= args.world_size
    return GroupedByLength(sampler, args.seed if args.data_seed is None else args.data_seed)


class GroupedByLength(Sampler[int]):
    """Rows of like length together, in an order that follows from seed and epoch alone.

    The Trainer's own draws from the global generator. So a run resumed within an epoch would see
    other batches than the first one did, and several processes, whose generators have drifted apart
    by the second epoch, would cut their shares out of different orders.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        self._sampler.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(self._sampler)
