"""Parameters, multiply-accumulates and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfprune.core.errors import HFPruneError
from hfprune.core.kinds import image_shape, takes_images
from hfprune.families import block_views


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters of a classifier, each shared one counted once.

    Returns:
        ``total``: all. ``embeddings``: the weights of all ``nn.Embedding`` modules (tokens,
        positions, types, relative positions). ``encoder``: what is inside ``model.base_model`` and
        is no embedding, so layers, normalisations, and a pooler that belongs to the base model.
        The classifier's head is what is missing to the total.
    """
    base = getattr(model, "base_model", model)
    embeddings = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    encoder = sum(p.numel() for p in base.parameters() if id(p) not in embeddings)
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "encoder": encoder,
        "embeddings": sum(embeddings.values()),
    }


def count_macs(model: nn.Module, sequence_length: int | None = None) -> int:
    """Multiply-accumulates of one sequence, or one image, in one forward pass.

    Counted: every ``nn.Linear`` (and transformers' ``Conv1D``), as often and on as many positions
    as a real forward calls it, and the two matrix products of each attention block, from the width
    that its heads have left: ``2 * length^2 * heads * head_size``. Not counted: embeddings (of
    patches too), biases, normalisations, activations, softmax, and the products with positions in
    DeBERTa's attention. Attention with a local window or a causal mask counts as if it were full,
    which is how it is computed on CPUs.

    Args:
        model: a classifier of a supported family, dense or shrunk.
        sequence_length: tokens, all of them attended to. Left out for images, whose size the
            config names.

    Raises:
        UnsupportedModelError: for an unknown family.
        HFPruneError: if the model does not take sequences of this length.
    """
    views = block_views(model)
    mixers = {view.consumer for key, view in views.items() if key.kind == "attention"}
    total = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight: Any = module.weight
        positions = output.numel() // output.shape[-1]
        total += positions * weight.numel()
        if module in mixers:  # scores, and their product with the values
            total += 2 * positions**2 * inputs[0].shape[-1]

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        inputs = _one_sample(model, sequence_length)
        model.eval()
        with torch.inference_mode():
            model(**inputs)
    except (IndexError, RuntimeError) as error:
        raise HFPruneError(
            f"the model cannot run on a sequence of {sequence_length} tokens: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return total


def _one_sample(model: Any, sequence_length: int | None) -> dict[str, torch.Tensor]:
    """A batch of one, on the model's device."""
    config, parameter = model.config, next(model.parameters())
    if takes_images(model):
        if sequence_length is not None:
            raise HFPruneError(
                f"a {config.model_type!r} model takes images, whose number of patches is fixed; "
                "leave sequence_length out"
            )
        return {"pixel_values": parameter.new_zeros(1, *image_shape(config))}
    if sequence_length is None:
        raise HFPruneError(f"a {config.model_type!r} model needs a sequence_length")
    # Token 0 pads in some families; an explicit mask and a token above it keep them all.
    token = 1 if config.pad_token_id == 0 else 0
    ids = torch.full((1, sequence_length), token, dtype=torch.long, device=parameter.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def file_size(path: str | Path) -> int:
    """Bytes of a model file, with the files beside it that hold the weights of a graph.

    Raises:
        HFPruneError: if the file is missing.
    """
    file = Path(path)
    if not file.is_file():
        raise HFPruneError(f"there is no file at {file}")
    # The names that Optimum and that PyTorch's own exporter give to external data.
    beside = [Path(f"{file}_data"), Path(f"{file}.data")] if file.suffix == ".onnx" else []
    beside += [file.with_suffix(".bin")] if file.suffix == ".xml" else []  # OpenVINO's
    return sum(part.stat().st_size for part in (file, *beside) if part.is_file())
