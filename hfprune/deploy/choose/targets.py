"""For another machine: what is safe and usually fast on a kind of CPU that is not here to measure.

From the measurements of docs/notes.md: int8 with constant scales in ONNX Runtime for one text at a
time; for batches OpenVINO in bf16 where the CPU has matrix units for it, else int8 as well.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hfprune.core.errors import RecipeError
from hfprune.core.machine import CPUINFO, read_cpu
from hfprune.deploy.quantize.outcome import CONSTANT
from hfprune.deploy.runtimes.base import Offer
from hfprune.measure.traffic import USES, Use

CPUS: Final = ("avx2", "avx512", "vnni", "amx", "arm64")

# The instruction set of a recipe's quantization section: it says how many bits weights may have.
_SETS: Final = {
    "avx2": "avx2",
    "avx512": "avx512",
    "vnni": "avx512_vnni",
    "amx": "avx512_vnni",
    "arm64": "arm64",
}


@dataclass(frozen=True)
class Choice:
    """What to deploy on a kind of CPU.

    Attributes:
        cpu: one of ``CPUS``.
        by_use: by use the runtime's name and the file it gets.
        note: what was not measured, and how to.
    """

    cpu: str
    by_use: Mapping[Use, tuple[str, Offer]]
    note: str


def cpu_kind(machine: str, flags: frozenset[str]) -> str:
    """The kind of a CPU, from a machine's name and the flags of ``/proc/cpuinfo``.

    ``"avx2"`` also where it cannot be told: what is safe there is safe everywhere.

    >>> cpu_kind("x86_64", frozenset({"avx512f", "avx512_vnni"}))
    'vnni'
    """
    if machine.lower() in {"arm64", "aarch64"}:
        return "arm64"
    if "amx_tile" in flags and {"amx_bf16", "amx_int8"} & flags:
        return "amx"
    if {"avx512_vnni", "avx512vnni"} & flags:
        return "vnni"
    return "avx512" if "avx512f" in flags else "avx2"


def cpu_here() -> str:
    """The kind of this machine's CPU."""
    return cpu_kind(platform.machine(), read_cpu(CPUINFO)[1])


def choice_for(cpu: str, openvino: bool = True) -> Choice:
    """What is safe and usually fast on a kind of CPU.

    Args:
        cpu: one of ``CPUS``.
        openvino: whether OpenVINO may be deployed there.

    Raises:
        RecipeError: for another kind (``here`` is for measuring, not for this).
    """
    if cpu not in CPUS:
        raise RecipeError(
            f"deploy.cpu {cpu!r} is no kind of CPU to choose for; expected one of {', '.join(CPUS)}"
        )
    settings = CONSTANT.model_copy(update={"instruction_set": _SETS[cpu]})
    int8 = ("onnxruntime", Offer("int8", settings.graph, settings, prior=0))
    by_use: dict[Use, tuple[str, Offer]] = dict.fromkeys(USES, int8)
    if cpu == "amx" and openvino:
        by_use["batches"] = ("openvino", Offer("bf16", "lean_attention", prior=1))
    return Choice(
        cpu=cpu,
        by_use=by_use,
        note=(
            f"chosen for a CPU with {cpu}, and not measured on one: run `hfprune benchmark DIR "
            "--choose` there"
        ),
    )
