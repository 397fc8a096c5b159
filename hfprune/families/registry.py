"""Which adapter serves which ``config.model_type``.

To add a family to hfprune: write one adapter file beside this one and name its class in
``BUILT_IN``. From outside: :func:`register_family`, or an entry point of ``hfprune.families``.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, TypeVar

from torch import nn

from hfprune.core.errors import ExtensionError, UnsupportedModelError
from hfprune.core.registry import Registry
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

AdapterT = TypeVar("AdapterT", bound=type[Adapter])

BUILT_IN: Final[tuple[type[Adapter], ...]] = (
    BertAdapter,
    DistilBertAdapter,
    AlbertAdapter,
    MPNetAdapter,
    DebertaV2Adapter,
    ModernBertAdapter,
    GPT2Adapter,
    LlamaAdapter,
    ViTAdapter,
)


def _check(model_type: str, adapter: Any) -> None:
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise ExtensionError(
            f"the family {model_type!r} is given {adapter!r}; expected a class that derives from "
            "hfprune.families.Adapter (PreNormAdapter and PostNormAdapter do)"
        )
    if inspect.isabstract(adapter):
        missing = ", ".join(sorted(adapter.__abstractmethods__))
        raise ExtensionError(f"the adapter {adapter.__name__} lacks {missing}: define them")
    if model_type not in getattr(adapter, "model_types", ()):
        raise ExtensionError(
            f"the adapter {adapter.__name__} is registered for the model type {model_type!r}, "
            "which its model_types do not name: add it there"
        )


FAMILIES: Final = Registry[type[Adapter]]("family", "families", check=_check)
"""Classes of adapters by model type."""


def register_family(adapter: AdapterT, *, replace: bool = False) -> AdapterT:
    """Teach hfprune to prune another family; also a class decorator.

    Args:
        adapter: a class without arguments to its constructor. It serves all its ``model_types``,
            as ``config.json`` spells them.
        replace: whether it may take the place of another adapter.

    Returns:
        The class.

    Raises:
        ExtensionError: for what is no adapter or lacks a method, and for a model type that has an
            adapter already.
    """
    model_types = getattr(adapter, "model_types", ())
    if not isinstance(model_types, tuple) or not model_types:
        raise ExtensionError(
            f"{adapter!r} names no model_types: expected a tuple of values of model_type in "
            'config.json, for example model_types = ("bert",)'
        )
    for model_type in model_types:
        FAMILIES.register(model_type, adapter, replace=replace)
    return adapter


for _adapter in BUILT_IN:
    register_family(_adapter)


def supported_model_types() -> tuple[str, ...]:
    """All supported ``model_type`` values, sorted."""
    return tuple(sorted(FAMILIES.names()))


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a family.

    Raises:
        UnsupportedModelError: naming the supported families.
    """
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"hfprune does not know how to prune model type {model_type!r}; supported: "
            f"{', '.join(supported_model_types())}"
        )
    return FAMILIES.get(model_type)()


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
