"""What this machine is, and how ONNX Runtime is set up on it for one request at a time."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from hfprune.core.errors import CheckpointError
from hfprune.core.reading import pointer_problem

CPUINFO = Path("/proc/cpuinfo")
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

# bf16: auto: by so much must bfloat16 be the faster. CPUs that only emulate it come near 1.
BFLOAT16_WORTH = 1.2


def detect_instruction_set() -> str:
    """The instruction set of this machine, in the words of Optimum's ``AutoQuantizationConfig``.

    Returns:
        ``"arm64"``, ``"avx512_vnni"``, ``"avx512"`` or ``"avx2"``; ``"avx2"`` also where the CPU
        cannot be told (its settings are right everywhere, only slower on newer CPUs).
    """
    return instruction_set(platform.machine(), read_cpu(CPUINFO)[1])


def instruction_set(machine: str, flags: frozenset[str]) -> str:
    """As :func:`detect_instruction_set`, from a machine's name and its CPU's flags."""
    if machine.lower() in {"arm64", "aarch64"}:
        return "arm64"
    if {"avx512_vnni", "avx512vnni"} & flags:
        return "avx512_vnni"
    return "avx512" if "avx512f" in flags else "avx2"


def read_cpu(cpuinfo: Path) -> tuple[str | None, frozenset[str]]:
    """Model name and flags of the first CPU in a file like ``/proc/cpuinfo``.

    ``(None, frozenset())`` where there is no such file (not Linux).
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, frozenset()
    first: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        first.setdefault(name.strip(), value.strip())
    return first.get("model name"), frozenset(first.get("flags", "").split())


def usable_cpus() -> int:
    """How many CPUs this process may run on; all of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def memory_bytes() -> int:
    """Memory that this process may have: the machine's, or its container's if that is less.

    Where the system does not say, more than any machine has.
    """
    found = [2**50]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in CGROUP_LIMITS:
        try:
            text = file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdigit():  # else "max"
            found.append(int(text))
    return min(value for value in found if value > 0)


@lru_cache(maxsize=1)
def bfloat16_gain() -> float:
    """How many times as fast training multiplies matrices in bfloat16 as in float32, here.

    Measured once a process, in about half a second. CPUs differ by more than an order of magnitude:
    with instructions for bfloat16 (AMX, AVX512-BF16) it is about 2, on AVX2 alone 0.1. GPUs are not
    measured: 2 where the first one computes in bfloat16, else 1.
    """
    import torch

    if torch.cuda.is_available():
        return 2.0 if torch.cuda.get_device_capability()[0] >= 8 else 1.0
    left, right = torch.ones(256, 384), torch.ones(1536, 384)  # random ones would move the seed
    pairs = {kind: (left.to(kind), right.to(kind)) for kind in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    for _ in range(6):  # in turn, and the least of each: whatever else runs here hits both
        for kind, (a, b) in pairs.items():
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            best[kind] = min(best[kind], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]


def bfloat16_pays() -> bool:
    """Whether ``bf16: auto`` means yes on this machine, by :func:`bfloat16_gain`."""
    return bfloat16_gain() >= BFLOAT16_WORTH


def open_session(onnxruntime: Any, path: Path, threads: int) -> Any:
    """An ``InferenceSession`` on the CPU: operators in sequence, ``threads`` inside each.

    Args:
        onnxruntime: the imported package, which is optional.

    Raises:
        CheckpointError: the file is the pointer that git leaves without git-lfs.
    """
    if (pointer := pointer_problem(path)) is not None:
        raise CheckpointError(f"{path} cannot be read: {pointer}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
