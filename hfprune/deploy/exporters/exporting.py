"""From a PyTorch classifier to checked ONNX files.

``export_onnx`` writes ``model.onnx`` with its ``config.json`` and tokenizer, ``quantize_onnx`` adds
``model_quantized.onnx`` beside it. Both build in a temporary directory, check what they built
against what it was built from, and only then move it into place: a failure leaves earlier files
as they were. ONNX Runtime and Optimum are imported inside the functions that need them.
"""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from hfprune.core.errors import ExportError
from hfprune.core.kinds import POOLING_KEY, gives_embeddings
from hfprune.deploy.exporters.backends import find_backend
from hfprune.deploy.exporters.pooling import pool_graph
from hfprune.deploy.files import MODEL_FILE, UNTOUCHED, brief
from hfprune.deploy.parity import check_parity
from hfprune.deploy.staging import quietly, staged
from hfprune.models.embedding import as_encoder_
from hfprune.models.layout import write_modules
from hfprune.pruning.surgery import forget_hint_

logger = logging.getLogger(__name__)


def export_onnx(
    model: nn.Module,
    tokenizer: Any,
    output_dir: str | Path,
    *,
    opset: int | None = None,
    atol: float = 1e-4,
    backend: str = "auto",
) -> Path:
    """Write a classifier as ONNX, with config and tokenizer, and check it against PyTorch.

    Of a model that gives embeddings, pooling and normalisation are in the graph, whose only output
    is ``sentence_embedding``; prompts and the longest text are said by files beside it.

    Works on a float32 copy on the CPU in eval mode, so the model keeps its mode, device, dtype and
    config (and memory for one more copy is needed). Batch and sequence length stay free in the
    graph. Shrunk models are exported as they are: the graph holds the small matrices, and nothing
    of hfprune is needed to run it.

    Args:
        model: a transformers classifier, dense or shrunk. Gates that are attached are exported as
            multiplications; shrink first to be rid of them.
        tokenizer: its tokenizer or image processor, saved beside the graph.
        output_dir: gets ``model.onnx``, ``config.json`` and the tokenizer's files. Made if missing.
        opset: ONNX operator set; ``None`` is the backend's default for the model type.
        atol: largest difference of logits from PyTorch that is let through; where logits are above
            1, that share of the largest.
        backend: ``"optimum"``, ``"transformers"`` (its own exporter, from 5.23 on), ``"torch"``
            (``torch.onnx.export``, whichever transformers is there), or ``"auto"``: the first of
            these that is installed.

    Returns:
        The path of ``model.onnx``.

    Raises:
        MissingExtraError: without the packages of the ``onnx`` extra.
        ExportError: if the model cannot be exported or the graph disagrees with PyTorch. Earlier
            files are then untouched.
    """
    write = find_backend(backend)
    if not (math.isfinite(atol) and atol > 0):
        raise ExportError(f"atol must be a positive number, got {atol!r}")
    plain = _plain_copy(model)
    with staged(Path(output_dir)) as staging:
        with quietly():
            try:
                if gives_embeddings(plain):
                    write(as_encoder_(copy.deepcopy(plain)), staging, opset)
                    pool_graph(staging / MODEL_FILE, plain)
                    write_modules(getattr(plain, POOLING_KEY), staging)
                else:
                    write(plain, staging, opset)
            except ExportError:
                raise
            except Exception as error:  # exporters raise whatever the tracer met
                kind = getattr(plain.config, "model_type", type(model).__name__)
                raise ExportError(
                    f"exporting the {kind!r} model failed"
                    f"{'' if opset is None else f' with opset={opset}'}: "
                    f"{brief(error)}. {UNTOUCHED}"
                ) from error
            tokenizer.save_pretrained(staging)
        if not (staging / MODEL_FILE).is_file():
            raise ExportError(
                f"the exporter wrote {sorted(p.name for p in staging.iterdir())}, expected a "
                f"single {MODEL_FILE}. {UNTOUCHED}"
            )
        _check_opset(staging / MODEL_FILE, opset)
        difference = check_parity(plain, staging / MODEL_FILE, tokenizer, atol=atol)
        logger.info("ONNX agrees with PyTorch: largest difference of logits %.2e", difference)
    return Path(output_dir) / MODEL_FILE


def _check_opset(path: Path, wanted: int | None) -> None:
    """Exporters silently take another opset where they cannot write the one asked for."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    found = {entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")}
    if wanted is not None and found != {wanted}:
        raise ExportError(
            f"opset={wanted} was asked for, the exporter wrote {sorted(found)}; leave opset out "
            f"or take that one. {UNTOUCHED}"
        )


def _plain_copy(model: nn.Module) -> Any:
    """A float32 copy on the CPU in eval mode, whose config says so and names no path."""
    # Mixed-precision training leaves a wrapper on `forward`, which exporters cannot trace.
    bare = extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False)
    plain: Any = bare.to(device="cpu", dtype=torch.float32).eval()
    # Optimum would look for a tokenizer under this name, on the Hub too; we save our own.
    plain.config._name_or_path = ""
    plain.config.architectures = [type(model).__name__]
    forget_hint_(plain.config)  # the graph runs anywhere
    return plain
