"""Training under FSDP2, of which each process holds a part of every weight.

The Trainer and accelerate shard, gather and step. What is here makes the weights whole where they
are written, chosen or handed back, so that checkpoints and models are those of one process: the
Trainer's own ways of doing it leave no file that ``from_pretrained`` reads (with sharded state
dicts), or wait for each other without end (with full ones).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor

from hfprune.core.errors import CheckpointError
from hfprune.families import adapter_of, supported_model_types

# What ``accelerate launch --use_fsdp`` tells the processes that it starts.
_ASKED = "ACCELERATE_USE_FSDP"
_ONE_LOADS = "FSDP_CPU_RAM_EFFICIENT_LOADING"
_LAUNCH = (
    "accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP "
    "--fsdp_cpu_ram_efficient_loading false"
)


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter of a model is spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def shard_by_layers_(accelerator: Any, model: Any) -> None:
    """Shard layers one by one, unless the launch or the arguments name other classes.

    transformers 5 names the module of all embeddings too, whose word embeddings accelerate shards
    once more, which fails. Of families that are not pruned it decides alone.
    """
    plugin = accelerator.state.fsdp_plugin
    known = model.config.model_type in supported_model_types()
    if plugin.transformer_cls_names_to_wrap is None and known:
        layers = adapter_of(model).layers(model)
        filled = {type(layer).__name__ for layer in layers if any(True for _ in layer.parameters())}
        plugin.transformer_cls_names_to_wrap = sorted(filled)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a sharded model, in every process, on the CPU. Every process must call it."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in model.state_dict().items()
    }


def load_whole_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a sharded model the weights that the first process has. Every process must call it."""
    everything = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, dict(weights), options=everything)


def weights_in(folder: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, in one file or several.

    Raises:
        CheckpointError: there are none as safetensors.
    """
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} holds no model*.safetensors, which a training under FSDP goes on from: "
            "resume from a checkpoint of hfprune, and leave save_safetensors on"
        )
    found: dict[str, Tensor] = {}
    for file in files:
        found |= load_file(file)
    return found


def asked_for_fsdp() -> bool:
    """Whether accelerate was told to launch this process for FSDP."""
    return os.environ.get(_ASKED, "").lower() in ("true", "1") and torch.distributed.is_available()


def why_not(version: int | None = None) -> str | None:
    """What stands in the way of a training under FSDP as it was launched; ``None``: nothing.

    Args:
        version: of FSDP; ``None``: as accelerate was told.
    """
    told = os.environ.get("FSDP_VERSION", "1") if version is None else version
    if str(told) != "2":
        return (
            f"FSDP version {told} flattens parameters, whose sizes hfprune goes by: launch with "
            f"version 2 ({_LAUNCH})"
        )
    if os.environ.get(_ONE_LOADS, "").lower() in ("true", "1"):
        return (
            "with cpu_ram_efficient_loading of FSDP only one process reads the weights of a model, "
            "and hfprune reads models outside of trainings too (teachers, what is scored): launch "
            f"with --fsdp_cpu_ram_efficient_loading false ({_LAUNCH})"
        )
    return None


def version_of(accelerator: Any) -> int:
    """Of FSDP, of an accelerator that uses it."""
    return int(getattr(accelerator.state.fsdp_plugin, "fsdp_version", 1))
