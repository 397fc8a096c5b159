"""What this machine is, and how ONNX Runtime is set up on it for one request at a time."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


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


def open_session(onnxruntime: Any, path: Path, threads: int) -> Any:
    """An ``InferenceSession`` on the CPU: operators in sequence, ``threads`` inside each.

    Args:
        onnxruntime: the imported package, which is optional.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
