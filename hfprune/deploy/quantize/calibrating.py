"""Runs a float graph on calibration rows and counts the values that its products read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.deploy.files import require
from hfprune.deploy.graph.tools import constants
from hfprune.deploy.quantize.ranges import Histogram
from hfprune.deploy.runtimes.base import dtype_of

Ranges: TypeAlias = dict[str, Histogram]


def measure_ranges(model: Any, names: Sequence[str], samples: Any) -> Ranges:
    """Histograms of activations over calibration rows, each of them alone and unpadded.

    The rows are gone through twice: for the extremes, and for the counts between them.

    Args:
        model: a loaded graph.
        names: of the activations.
        samples: rows as :func:`~hfprune.deploy.quantize.checks.calibration_samples` gives them.

    Raises:
        ExportError: if the graph does not run on a row, or an activation is not finite.
    """
    lows = dict.fromkeys(names, np.inf)
    highs = dict.fromkeys(names, -np.inf)
    run = _tapped(model, names)
    rows = list(samples)
    for row in rows:
        for name, values in run(row):
            lows[name] = min(lows[name], float(values.min()))
            highs[name] = max(highs[name], float(values.max()))
    found = {name: Histogram.between(lows[name], highs[name]) for name in names}
    for row in rows:
        for name, values in run(row):
            found[name].add(values)
    return found


def saturation(path: str | Path, samples: Any) -> dict[str, float]:
    """The fraction of an activation's values that its constant scale cuts, on rows of its own.

    Args:
        path: a graph with constant scales.
        samples: as :func:`measure_ranges` takes them; not those of the calibration, which the
            scales were made for.

    Returns:
        By name of the activation; empty where no scale is constant.
    """
    onnx = require("onnx")
    model = onnx.load(str(path))
    constant = constants(model.graph)
    bounds = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in constant:
            scale, zero = float(constant[node.input[1]]), int(constant[node.input[2]])
            bounds[node.input[0]] = (scale * (-0.5 - zero), scale * (255.5 - zero))
    if not bounds:
        return {}
    cut, total = dict.fromkeys(bounds, 0), dict.fromkeys(bounds, 0)
    run = _tapped(model, list(bounds))
    for row in samples:
        for name, values in run(row):
            low, high = bounds[name]
            cut[name] += int(((values < low) | (values > high)).sum())
            total[name] += values.size
    return {name: cut[name] / max(1, total[name]) for name in bounds}


def _tapped(model: Any, names: Sequence[str]) -> Any:
    """A function of a row that gives the values of inner activations."""
    onnx, ort = require("onnx"), require("onnxruntime")
    from onnx import TensorProto, helper

    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    present = {name for node in tapped.graph.node for name in node.output}
    unknown = [name for name in names if name not in present]
    if unknown:
        raise ExportError(f"the graph makes no activation {unknown[0]!r} to measure the range of")
    inputs = [entry.name for entry in tapped.graph.input]
    del tapped.graph.output[:]
    for name in names:
        tapped.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(row: Any) -> Iterable[tuple[str, NDArray[Any]]]:
        feed = {name: np.asarray([row[name]], dtype=dtype_of(name)) for name in inputs}
        try:
            return zip(names, session.run(list(names), feed), strict=True)
        except Exception as error:  # ONNX Runtime has no common base of its own
            raise ExportError(f"the float graph fails on a calibration row: {error}") from error

    return run
