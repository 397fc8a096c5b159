"""FSDP2 by accelerate on the CPU, for tests: see training/test_sharded.py.

accelerate shards where there is an accelerator, and on CPUs wraps in DDP whatever it was told. All
that comes after that decision works on CPUs as well, so the decision alone is made here.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

_own = AcceleratorState.__init__

# What `accelerate launch --use_fsdp --fsdp_version 2 ...` puts into the environment.
LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def _init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _own(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


def shard_on_cpus() -> None:
    """From here on, FSDP in this process is FSDP, though it has CPUs alone."""
    AcceleratorState.__init__ = _init  # type: ignore[method-assign]
