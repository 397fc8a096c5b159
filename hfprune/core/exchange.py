"""Values that the main process has, for all processes of a run.

A collective of torch has a time limit (ten minutes with NCCL), and a stage that only the main
process does may take hours. So the others do not wait in a collective: they look, now and then,
into the store that the processes met at.
"""

from __future__ import annotations

import json
import time
from itertools import count
from typing import Any

import torch.distributed as dist

from hfprune.core.errors import TrainingError
from hfprune.core.processes import processes

# How often a waiting process looks, in seconds.
LOOK = 0.2
_FAILED = "hfprune/failed"
_calls = count()


def from_main(value: Any) -> Any:
    """What the main process passes, in all processes; those wait for it as long as it takes.

    Every process must call it, in the same order. On one process the value comes back as it is.

    Args:
        value: JSON values; what the others pass is not looked at.

    Raises:
        TrainingError: the main process has failed, or is gone.
    """
    state = processes()
    if state.num_processes == 1:
        return value
    store, key = _store(), f"hfprune/value/{next(_calls)}"
    if state.is_main_process:
        store.set(key, json.dumps(value))
        return value
    try:
        while not store.check([key]):
            if store.check([_FAILED]):
                raise TrainingError("the main process has failed; its own error says why")
            time.sleep(LOOK)
        return json.loads(store.get(key))
    except (RuntimeError, OSError) as error:
        raise TrainingError(f"the main process is gone ({error}); see its own output") from error


def from_everyone(value: Any) -> list[Any]:
    """What each process passes, by rank, in all processes; they wait as long as it takes.

    Every process must call it, in the same order.

    Args:
        value: JSON values.

    Raises:
        TrainingError: as :func:`from_main`.
    """
    state = processes()
    if state.num_processes == 1:
        return [value]
    store, call = _store(), next(_calls)
    keys = [f"hfprune/value/{call}/{rank}" for rank in range(state.num_processes)]
    store.set(keys[state.process_index], json.dumps(value))
    found: list[Any] = []
    if state.is_main_process:
        while not store.check(keys):
            time.sleep(LOOK)
        found = [json.loads(store.get(key)) for key in keys]
    answer: list[Any] = from_main(found)
    return answer


def tell_failure() -> None:
    """Called by the main process when it fails, so that nobody waits for it."""
    state = processes()
    if state.num_processes > 1 and state.is_main_process:
        _store().set(_FAILED, "1")


def _store() -> Any:
    """Where the processes met; torch has no public name for it."""
    return dist.distributed_c10d._get_default_store()
