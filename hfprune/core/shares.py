"""Work that the processes of a run share: who does what, and the whole of it in all of them.

Every process must call what is here, in the same order: these are collectives of torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hfprune.core.processes import processes

# Numbers that are sent at a time.
_SENT = 2**24


def together() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mine(count: int) -> range:
    """Which of so many pieces this process does: every second one of two processes, and so on."""
    return range(dist.get_rank(), count, dist.get_world_size()) if together() else range(count)


def writes() -> bool:
    """Whether this process writes what all have: one on each machine does."""
    return not together() or processes().is_local_main_process


def join_(store: Tensor) -> None:
    """The sum over all processes. In place, contiguous.

    Where all but one have zeros their values come back exactly, half precision included.
    """
    if not together():
        return
    device = device_of_collectives()
    for piece in store.view(-1).split(_SENT):
        # In a precision that every backend adds up.
        wide = torch.float64 if store.dtype == torch.float64 else torch.float32
        sent = piece.to(device, wide)
        dist.all_reduce(sent)
        piece.copy_(sent)


def gathered(value: Any) -> list[Any]:
    """What each process passes, by rank; tensors may lie on a CPU or a GPU."""
    if not together():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def device_of_collectives() -> torch.device:
    """Where collectives want their tensors: NCCL on this process' GPU."""
    cuda = "nccl" in str(dist.get_backend()) and "gloo" not in str(dist.get_backend())
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
