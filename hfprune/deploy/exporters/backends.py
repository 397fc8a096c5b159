"""The exporter that fits: Optimum's where it is, else transformers' own, else PyTorch's."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hfprune.core.errors import ExportError
from hfprune.core.kinds import EMBEDDING, image_shape, kind_of_model, takes_images
from hfprune.deploy.files import MODEL_FILE, has_module, require
from hfprune.deploy.limits import limits_of
from hfprune.deploy.staging import save_graph

BACKENDS = ("auto", "optimum", "transformers", "torch")


def check_backend(name: str = "auto") -> None:
    """Refuse what :func:`export_onnx` would refuse for want of packages, before any work.

    Raises:
        MissingExtraError: without a backend that can export here.
        ExportError: for an unknown one.
    """
    find_backend(name)


def find_backend(name: str) -> Callable[[Any, Path, int | None], None]:
    if name not in BACKENDS:
        raise ExportError(f"unknown export backend {name!r}, expected one of {list(BACKENDS)}")
    require("onnx", "onnxruntime")
    if name == "auto":
        name = _that_is_there()
    if name == "optimum":
        require("optimum.exporters.onnx")
        return _write_with_optimum
    if name == "transformers":
        require("transformers.exporters", "onnxscript")
        return _write_with_transformers
    require("onnxscript")
    return _write_with_torch


def _that_is_there() -> str:
    """Optimum holds transformers below 4.58; transformers has its own exporter from 5.23."""
    if has_module("optimum.exporters.onnx"):
        return "optimum"
    return "transformers" if has_module("transformers.exporters") else "torch"


def _task_of(model: Any) -> str:
    """What Optimum calls it; an encoder without a head gives the hidden states of its tokens."""
    bare = type(model).__name__.endswith(EMBEDDING.ending)
    return EMBEDDING.export_task if bare else kind_of_model(model).export_task


def _write_with_optimum(model: Any, output: Path, opset: int | None) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    # Optimum's own validation takes one shape and only warns; ours follows.
    onnx_export_from_model(
        model,
        output,
        opset=opset,
        task=_task_of(model),
        device="cpu",
        do_validation=False,
    )


def _write_with_transformers(model: Any, output: Path, opset: int | None) -> None:
    # By name: an environment with Optimum need not have it.
    exporters = importlib.import_module("transformers.exporters")
    inputs, shapes = _example(model)
    config = exporters.OnnxConfig(opset_version=opset, dynamic_shapes=shapes)
    _save(exporters.OnnxExporter().export(model, inputs, config=config).program, output)
    model.config.save_pretrained(output)


def _write_with_torch(model: Any, output: Path, opset: int | None) -> None:
    inputs, shapes = _example(model)
    program = torch.onnx.export(
        model,
        (),
        kwargs=inputs,
        dynamic_shapes=shapes,
        input_names=list(inputs),
        output_names=["logits"],
        opset_version=opset,
        dynamo=True,
    )
    _save(program, output)
    model.config.save_pretrained(output)


def _save(program: Any, output: Path) -> None:
    onnx_ir = importlib.import_module("onnx_ir")
    save_graph(onnx_ir.to_proto(getattr(program, "model", program)), output / MODEL_FILE)


def _example(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, Any]]]:
    """What a model is traced with: two rows, and which axes of them are free."""
    if takes_images(model):
        inputs = {"pixel_values": torch.zeros(2, *image_shape(model.config))}
        axes = {0: torch.export.Dim.AUTO}
    else:
        limits = limits_of(model, model.get_input_embeddings().num_embeddings)
        ids = torch.full((2, min(16, limits.length)), int(limits.ids[0]), dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        # As Optimum does: an input of the graph where it makes a difference.
        if limits.types > 1 and "token_type_ids" in inspect.signature(model.forward).parameters:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        # Without a bound of ours: the tracer finds the one that the table of positions sets.
        axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    return inputs, dict.fromkeys(inputs, axes)
