"""Which adapter serves which ``config.model_type``.

To add a family: write one adapter file beside this one and add its class to ``ADAPTERS``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hfprune.core.errors import UnsupportedModelError
from hfprune.families.albert import AlbertAdapter
from hfprune.families.base import Adapter, BlockView, LayerView
from hfprune.families.bert import BertAdapter
from hfprune.families.blocks import KINDS, BlockKey
from hfprune.families.deberta import DebertaV2Adapter
from hfprune.families.distilbert import DistilBertAdapter
from hfprune.families.gpt2 import GPT2Adapter
from hfprune.families.llama import LlamaAdapter
from hfprune.families.modernbert import ModernBertAdapter
from hfprune.families.mpnet import MPNetAdapter
from hfprune.families.vit import ViTAdapter

ADAPTERS: tuple[Adapter, ...] = (
    BertAdapter(),
    DistilBertAdapter(),
    AlbertAdapter(),
    MPNetAdapter(),
    DebertaV2Adapter(),
    ModernBertAdapter(),
    GPT2Adapter(),
    LlamaAdapter(),
    ViTAdapter(),
)
_BY_TYPE = {model_type: adapter for adapter in ADAPTERS for model_type in adapter.model_types}


def supported_model_types() -> tuple[str, ...]:
    """All supported ``model_type`` values, sorted."""
    return tuple(sorted(_BY_TYPE))


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a family.

    Raises:
        UnsupportedModelError: naming the supported families.
    """
    if model_type not in _BY_TYPE:
        raise UnsupportedModelError(
            f"hfprune does not know how to prune model type {model_type!r}; supported: "
            f"{', '.join(supported_model_types())}"
        )
    return _BY_TYPE[model_type]


def adapter_of(model: nn.Module) -> Adapter:
    """The adapter of a transformers model's family.

    Raises:
        UnsupportedModelError: for a module without a ``config.model_type``, for a family without
            an adapter, and for a model with PEFT adapters that are not merged.
    """
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if not isinstance(model_type, str):
        raise UnsupportedModelError(
            f"expected a transformers model with a config, got {type(model).__name__}"
        )
    if any(type(module).__module__.partition(".")[0] == "peft" for module in model.modules()):
        raise UnsupportedModelError(
            f"the {type(model).__name__} holds PEFT adapters (LoRA or the like), which add to "
            "projections that pruning slices; merge them first: model = model.merge_and_unload()"
        )
    return adapter_for(model_type)


def layer_views(model: nn.Module) -> tuple[LayerView, ...]:
    """The views of a transformers model's layers (of its groups, where layers share weights).

    Raises:
        UnsupportedModelError: for a family without an adapter, or a variant that it refuses.
    """
    return adapter_of(model).views(model)


def model_sizes(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """``(heads, neurons)`` of every layer now; 0 where a block has been removed."""
    return tuple(
        (view.attention.units if view.attention else 0, view.ffn.units if view.ffn else 0)
        for view in layer_views(model)
    )


def block_views(model: nn.Module) -> dict[BlockKey, BlockView]:
    """The blocks that a model still has, by address, layer by layer."""
    views: dict[BlockKey, BlockView] = {}
    for layer in layer_views(model):
        for kind in KINDS:
            view = layer.block(kind)
            if view is not None:
                views[view.key] = view
    return views


def position_limit(model: nn.Module) -> int | None:
    """The most tokens that learned position embeddings allow; ``None`` where there are none."""
    limits = [
        # RoBERTa and its kin start to count positions after the padding index.
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and name.rpartition(".")[2] in ("position_embeddings", "wpe")
    ]
    return min(limits, default=None)
