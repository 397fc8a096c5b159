"""The processes of one run, as accelerate started them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import PartialState


def processes() -> PartialState:
    """This process among those that were started together.

    Without a GPU accelerate must be told so, or each of several processes takes itself for the
    only one.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def leave_processes() -> None:
    """Take the process group down, if there is one; at the very end of a program.

    A process that just ends can abort in gloo's threads, after its work is done and well.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def precision_left_alone() -> Iterator[None]:
    """What this block trains in bfloat16 does not turn it on for what its caller trains next.

    ``TrainingArguments(bf16=True)`` sets a variable of the environment that all later trainers of
    the process follow, also those that were told ``bf16=False``.
    """
    name = "ACCELERATE_MIXED_PRECISION"
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def lost_processes(environ: Mapping[str, str] = os.environ) -> str | None:
    """What to say where several processes were asked for and only this one was started.

    ``accelerate launch --num_processes 2`` without a GPU starts one process and says nothing. It
    then sets an address to meet at, but, other than for real processes, no rank and no world size.
    """
    started = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    asked = all(
        name in environ for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT")
    )
    if not asked or any(name in environ for name in started):
        return None
    return (
        "accelerate launch was asked for several processes, but without GPUs it starts only this "
        "one, which trains with the batch of one; for two processes on the CPU use "
        "`python -m torch.distributed.run --nproc_per_node 2 scripts/prune.py --recipe ...`"
    )
