"""Which machine and which libraries a number was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

from hfprune.core.machine import CPUINFO, instruction_set, read_cpu, usable_cpus

LIBRARIES = (
    "hfprune",
    "transformers",
    "torch",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "openvino",
    "accelerate",
    "datasets",
    "evaluate",
)


def environment() -> dict[str, Any]:
    """What a measurement was made on. JSON-ready; holds no host name, user name or path.

    Returns:
        ``python``, ``platform``, ``machine``, ``cpu`` (model name or ``None``), ``cpu_count``
        (logical), ``cpu_usable`` (that this process may run on), ``instruction_set``, and
        ``libraries`` (name to version, ``None`` where not installed).
    """
    cpu, flags = read_cpu(CPUINFO)
    machine = platform.machine()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()}",
        "machine": machine,
        "cpu": cpu,
        "cpu_count": os.cpu_count(),
        "cpu_usable": usable_cpus(),
        "instruction_set": instruction_set(machine, flags),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # hfprune run from its source tree is imported, yet not installed.
        version = getattr(sys.modules.get(name), "__version__", None)
        return version if isinstance(version, str) else None
