"""The runtimes by name: those of hfprune, and those that others register."""

from __future__ import annotations

from typing import Any

from hfprune.core.errors import ExtensionError
from hfprune.core.registry import Registry
from hfprune.deploy.runtimes.base import Runtime
from hfprune.deploy.runtimes.onnxruntime import OnnxRuntime
from hfprune.deploy.runtimes.openvino import OpenVino
from hfprune.deploy.runtimes.torch import Torch


def _check(name: str, value: Any) -> None:
    if not isinstance(value, Runtime):
        raise ExtensionError(
            f"the runtime {name!r} is {type(value).__name__}; expected an instance of a subclass "
            "of hfprune.deploy.runtimes.base.Runtime"
        )
    if value.name != name:
        raise ExtensionError(
            f"the runtime registered as {name!r} calls itself {value.name!r}: give both one name"
        )


RUNTIMES: Registry[Runtime] = Registry("runtime", "runtimes", check=_check)

for _runtime in (OnnxRuntime(), OpenVino(), Torch()):
    RUNTIMES.register(_runtime.name, _runtime)


def register_runtime(runtime: Runtime, *, replace: bool = False) -> None:
    """Add a runtime; it then takes part wherever files are found, measured and chosen.

    Args:
        runtime: an instance; its ``name`` is what it is registered as.
        replace: whether it may take the place of another of that name.

    Raises:
        ExtensionError: if it is no runtime, or the name is another's.
    """
    RUNTIMES.register(getattr(runtime, "name", ""), runtime, replace=replace)


def runtime(name: str) -> Runtime:
    """The runtime of a name; an ExtensionError names all that there are."""
    return RUNTIMES.get(name)


def usable_runtimes() -> list[Runtime]:
    """Those whose packages are installed, in the order of their registration."""
    found = [RUNTIMES.get(name) for name in RUNTIMES.names()]
    return [each for each in found if each.missing() is None]
