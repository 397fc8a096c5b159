"""A classifier's head: its last projection, exchanged for one of other labels."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from hfprune.core.errors import UnsupportedModelError


def last_projection(model: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """The projection whose outputs are the logits.

    Returns:
        The module that holds it, its attribute there, and it.

    Raises:
        UnsupportedModelError: there is none outside of the encoder.
    """
    base = getattr(model, "base_model", model)
    within = set(base.modules())
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in within
    ]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no projection outside of its encoder that could be "
            "exchanged for a new head: leave model.new_head out"
        )
    path, module = found[-1]
    holder, _, attribute = path.rpartition(".")
    return model.get_submodule(holder), attribute, module


def new_head_(model: nn.Module, labels: int) -> nn.Module:
    """Exchange the last projection for a random one of ``labels`` outputs. In place.

    What stands before it in the head (a dense layer of RoBERTa's, for one) keeps its weights.
    Drawn with torch's seed as transformers draws new heads: normal of ``initializer_range``, zero
    biases.

    Returns:
        The same model; its config still has the names of the old labels.
    """
    holder, attribute, old = last_projection(model)
    config: Any = model.config
    made = nn.Linear(old.in_features, labels, bias=old.bias is not None)
    made = made.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        made.weight.normal_(0.0, float(getattr(config, "initializer_range", 0.02)))
        if made.bias is not None:
            made.bias.zero_()
    setattr(holder, attribute, made)
    config.num_labels = labels
    if hasattr(model, "num_labels"):
        cast(Any, model).num_labels = labels
    return model
