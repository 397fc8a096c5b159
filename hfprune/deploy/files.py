"""Names of deployed files, limits of their formats, and what must be installed to write them."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hfprune.core.errors import MissingExtraError, OutputError
from hfprune.core.kinds import IMAGE_INPUTS, TEXT_INPUTS
from hfprune.core.results import METRICS_FILE, read_results

MODEL_FILE = "model.onnx"
QUANTIZED_FILE = "model_quantized.onnx"

# float32 in another graph, where that is the fastest; named as Optimum names such files.
OPTIMIZED_FILE = "model_optimized.onnx"
INSTALL_HINT = 'pip install "hfprune[onnx]"'

# Of what is asked for by name alone: no extra that works everywhere may bring it.
_OTHER_HINTS = {
    "optimum": 'pip install "hfprune[optimum]", which holds transformers below 4.58',
    "transformers": 'pip install "transformers>=5.23" "hfprune[onnx]"',
}
MODEL_INPUTS = (*TEXT_INPUTS, *IMAGE_INPUTS)
UNTOUCHED = "Nothing was replaced: earlier files are untouched."

# Protobuf ends at 2 GiB; the rest is for the graph itself.
MOST_WEIGHT_BYTES = 2**31 - 2**26
Batch = Mapping[str, NDArray[Any]]


def onnx_files(directory: str | Path) -> dict[str, Path]:
    """The ONNX files of a run's output (in its ``onnx/``), or of a directory that holds them.

    Returns:
        ``"float32"`` and ``"int8"`` to those that are there, in this order.
    """
    place = Path(directory)
    place = place / "onnx" if (place / "onnx").is_dir() else place
    files = {"float32": place / MODEL_FILE, "int8": place / QUANTIZED_FILE}
    return {name: file for name, file in files.items() if file.is_file()}


def precisions_to_serve(folder: str | Path) -> tuple[tuple[str, str], str]:
    """In which order precisions are asked for where no file was chosen for a use, and why.

    What the run's own table says is fastest, as its verdict has it; int8 where there is no table
    that can be read: a model answers without one.
    """
    place = Path(folder)
    if (place / METRICS_FILE).is_file():
        with contextlib.suppress(OutputError):
            results = read_results(place)
            labels = list(results.members)
            if len(labels) == 1 and results.served(labels[0]).precision == "float32":
                return ("float32", "int8"), "the fastest that its run has timed"
    return ("int8", "float32"), "the usual one"


def has_module(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def require(*modules: str) -> Any:
    """Import optional modules; returns the first.

    Raises:
        MissingExtraError: one cannot be imported; says what to install.
    """
    found = []
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            package = name.split(".")[0]
            raise MissingExtraError(
                f"ONNX export needs {package}, which cannot be imported ({error}): "
                f"{_OTHER_HINTS.get(package, INSTALL_HINT)}"
            ) from error
    return found[0]


def brief(error: Exception) -> str:
    """The kind of an error and its first line: exporters put whole graphs behind it."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}".rstrip(" .:")
