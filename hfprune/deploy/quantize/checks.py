"""Quantization settings against the graph they are for, and the rows of a calibration run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.core.kinds import IMAGE_INPUTS, image_shape
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.limits import limits_beside
from hfprune.deploy.quantize.constant import OPERATORS
from hfprune.deploy.runtimes.base import dtype_of


def reader(samples: Any) -> Any:
    """Gives ONNX Runtime's calibration one sample at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self._rows = iter(samples)

        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            row = next(self._rows, None)
            if row is None:
                return None
            return {name: np.asarray([value], dtype=dtype_of(name)) for name, value in row.items()}

    return Reader()


def check_nodes(wanted: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in wanted if name not in set(names)]
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], names, n=5, cutoff=0.0)
    raise ExportError(
        f"nodes_to_exclude names {unknown}, which the graph does not have; among its "
        f"{len(names)} nodes are {close}"
    )


def check_operators(wanted: Sequence[str] | None, present: set[str], way: str) -> None:
    """Refuse operators that one of the ways (dynamic, static, constant) cannot quantize."""
    if wanted is None:
        return
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    # Static quantization can put a scale around any operator; the others only around these. For
    # dynamic quantization Gemm is rewritten to MatMul beforehand.
    possible = {
        "static": present,
        "dynamic": present & set(IntegerOpsRegistry) | ({"MatMul"} if "Gemm" in present else set()),
        "constant": present & set(OPERATORS),
    }[way]
    unknown = [name for name in wanted if name not in possible]
    if unknown or not wanted:
        raise ExportError(
            f"operators_to_quantize={list(wanted)}: {unknown or 'an empty list'} cannot be "
            f"quantized here; this graph and {way} quantization allow {sorted(possible)}"
        )


def calibration_samples(
    calibration: Any, inputs: Sequence[str], limit: int, *, constant: bool = False
) -> Any:
    """At most ``limit`` samples with just the inputs of the graph, as Optimum reads them."""
    if calibration is None and constant:
        raise ExportError(
            "activations: constant needs calibration data: pass calibration= (tokenised samples "
            "of the training split), or set activations to per_batch"
        )
    if calibration is None:
        raise ExportError(
            "static quantization needs calibration data: pass calibration= (tokenised samples of "
            "the training split), or set is_static to false"
        )
    if not {"input_ids", *IMAGE_INPUTS} & set(calibration.column_names):
        raise ExportError(
            "calibration data must be tokenised: expected a column 'input_ids', got "
            f"{calibration.column_names}"
        )
    if len(calibration) == 0 or limit < 1:
        raise ExportError(
            f"quantization needs at least one calibration sample, got {len(calibration)} "
            f"and calibration_samples={limit}"
        )
    from datasets import Dataset

    count = min(limit, len(calibration))
    # Data sets are often sorted by label, so the first rows would not do.
    chosen = sorted(np.random.default_rng(0).choice(len(calibration), count, replace=False))
    plain = calibration.with_format(None)
    columns: dict[str, list[Any]] = {name: [] for name in inputs}
    for index in chosen:
        sample = plain[int(index)]
        # One unpadded sentence: all its tokens count, and they are of type 0.
        fill = {"attention_mask": 1, "token_type_ids": 0}
        for name in inputs:
            if name not in sample and name not in fill:
                raise ExportError(
                    f"the graph needs the input {name!r}, the calibration data has "
                    f"{calibration.column_names}"
                )
            columns[name].append(sample.get(name) or [fill[name]] * len(sample["input_ids"]))
    return Dataset.from_dict(columns)


def probe_rows(onnx_dir: str | Path, count: int = 16) -> Any:
    """Random rows for the calibration of a model that is only timed: its scales do not matter.

    Args:
        onnx_dir: what ``export_onnx`` wrote.
        count: of rows; of texts 16 tokens each.
    """
    from datasets import Dataset
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(onnx_dir, trust_remote_code=False)
    rng = np.random.default_rng(0)
    if getattr(config, "vocab_size", None) is None:
        shape = (count, *image_shape(config))
        return Dataset.from_dict({"pixel_values": rng.normal(size=shape).tolist()})
    limits = limits_beside(Path(onnx_dir) / MODEL_FILE)
    ids = rng.choice(limits.ids, size=(count, min(16, limits.length)))
    return Dataset.from_dict({"input_ids": ids.tolist()})
