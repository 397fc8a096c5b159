"""An uneven model without hfprune: a file of code beside it, which builds its layers.

transformers runs code of a folder only for those who tell it to trust that code, so the file is
short, is written only when it is asked for, and says what it does. It makes the layers of the class
of transformers smaller; all that differs from family to family stands in it as a table.
"""

from __future__ import annotations

import pprint
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.files import atomic_write_json, atomic_write_text
from hfprune.core.kinds import kind_of_model, takes_images
from hfprune.core.reading import read_json
from hfprune.families import BlockView, adapter_of, layer_views
from hfprune.families.parts import PartsAdapter
from hfprune.models.saved import load_saved
from hfprune.pruning.layout import loads_alone
from hfprune.pruning.surgery import CODE_MODULE, CODE_PREFIX, RECORD_KEY, hint_of

# What stands where a block stood, by the class of ours that stands there.
_STAND_INS: Final = {
    "PassInput": "stream",
    "PassInputTuple": "stream, None",
    "PassResidual": "second",
    "PassZero": "zero",
    "PassZeroTuple": "zero, None",
    "PassZeroOfQuery": "zero, None",
}

_CODE: Final = '''"""@DOC@

Written by hfprune. It builds the @BASE@ of transformers and makes its layers
as small as `config.hfprune` says: how many heads and neurons each keeps, 0 where a block was
removed. It reads nothing but the config, imports nothing but torch and transformers, and computes
nothing else than that class.
"""

import torch
from torch import nn
from transformers import @BASE@

LAYERS = "@LAYERS@"
# Of each block: projections that lose rows (rows a unit), the one that loses columns (columns a
# unit), attributes that count units (each times so much), and what stands there once it is removed.
BLOCKS = @BLOCKS@


class StandIn(nn.Module):
    """Stands where a block was removed; `name` is that of the one number that was saved for it."""

    def __init__(self, name, gives):
        super().__init__()
        holder, self.gives = self, gives
        *parents, leaf = name.split(".")
        for part in parents:
            holder.add_module(part, nn.Module())
            holder = getattr(holder, part)
        holder.register_buffer(leaf, torch.zeros(1))

    def forward(self, *args, **kwargs):
        stream = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))
        if self.gives == "second":  # the residual stream, which the family passes along
            return args[1] if len(args) > 1 else kwargs["input_tensor"]
        value = stream.new_zeros(()) if self.gives.startswith("zero") else stream
        return (value, None) if self.gives.endswith("None") else value


def fit(layer, block, units):
    """Give one block of a layer so many heads or neurons; the weights are read in later."""
    if units == 0:
        for name, (marker, gives) in block["stand_ins"].items():
            setattr(layer, name, StandIn(marker, gives))
        for name in block["dropped"]:
            setattr(layer, name, nn.Identity())
        return
    for name, size in block["rows"].items():
        projection = layer.get_submodule(name)
        projection.out_features = size * units
        projection.weight = nn.Parameter(projection.weight.detach()[: size * units].clone())
        if projection.bias is not None:
            projection.bias = nn.Parameter(projection.bias.detach()[: size * units].clone())
    for name, size in block["columns"].items():
        projection = layer.get_submodule(name)
        projection.in_features = size * units
        projection.weight = nn.Parameter(projection.weight.detach()[:, : size * units].clone())
    for name, size in block["counts"].items():
        path, _, attribute = name.rpartition(".")
        setattr(layer.get_submodule(path), attribute, size * units)


class Pruned@BASE@(@BASE@):
    """@BASE@ with layers of uneven sizes."""

    def __init__(self, config, *args, **kwargs):
        if str(config._attn_implementation).startswith("none"):  # a note to those without this file
            config._attn_implementation = None
        super().__init__(config, *args, **kwargs)
        kept = zip(config.hfprune["heads"], config.hfprune["neurons"])
        for layer, sizes in zip(self.get_submodule(LAYERS), kept):
            for block, units in zip(BLOCKS, sizes):
                fit(layer, block, units)


Pruned@BASE@.register_for_auto_class("@AUTO@")  # save_pretrained takes this file along
'''


def modeling_file(model: Any) -> str:
    """The text of a file of code that builds models of this one's class and sizes.

    Args:
        model: of which only the class and the config count, dense or shrunk.

    Raises:
        UnsupportedModelError: for a family whose layers need more than smaller matrices.
    """
    adapter = adapter_of(model)
    name, kind = type(model).__name__, str(model.config.model_type)
    refused = UnsupportedModelError(
        f"no file of code is written for {kind!r} models, whose layers need more than smaller "
        "matrices: load them with hfprune.from_pretrained, deploy their ONNX files, or prune with "
        "pruning.layout: uniform, which needs neither"
    )
    shared = adapter.stock is None or adapter.stock.layers is None
    if shared or takes_images(model) or not isinstance(adapter, PartsAdapter):
        raise refused
    with torch.device("meta"):
        stock = type(model)(model.config)
    view = layer_views(stock)[0]
    layer = adapter.layers(stock)[0]
    blocks = [_block(layer, block) for block in (view.attention, view.ffn) if block is not None]
    if len(blocks) != 2 or any(block is None for block in blocks):
        raise refused
    layers = _path_of(stock, adapter.layer_list(stock))
    doc = f"How to build this {name} without hfprune: it runs with trust_remote_code set to true."
    text = _CODE.replace("@DOC@", doc).replace("@BASE@", name).replace("@LAYERS@", layers)
    text = text.replace("@AUTO@", _auto_class_of(model))
    return text.replace("@BLOCKS@", pprint.pformat(blocks, width=92, sort_dicts=False))


def write_modeling_file(folder: str | Path) -> Path:
    """Write the file into a folder of an uneven model and name it in its config.

    Args:
        folder: of a shrunk model; its ``config.json`` is changed.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: for a model that transformers loads without it.
        UnsupportedModelError: as :func:`modeling_file`.
    """
    place = Path(folder)
    model = load_saved(str(place))
    if loads_alone(model) or getattr(model.config, RECORD_KEY, None) is None:
        raise CheckpointError(
            f"transformers loads the model in {folder} by itself, so it needs no file of code"
        )
    text = modeling_file(model)
    file = place / f"{CODE_MODULE}.py"
    atomic_write_text(file, text)
    config = read_json(place / "config.json")
    own = f"{CODE_PREFIX}{type(model).__name__}"
    config["auto_map"] = {_auto_class_of(model): f"{CODE_MODULE}.{own}"}
    for key in ("_attn_implementation", "attn_implementation"):
        config[key] = f"{hint_of(model)} or with trust_remote_code set to true"
    atomic_write_json(place / "config.json", config)
    return file


def _auto_class_of(model: Any) -> str:
    """The class of transformers that loads models like this by their config."""
    headless = getattr(model, "base_model", model) is model
    return "AutoModel" if headless else str(kind_of_model(model).auto_class)


def _block(layer: nn.Module, view: BlockView) -> dict[str, Any] | None:
    """What the code must know of a block; ``None`` for one that it cannot say."""
    projections = [*(producer.module for producer in view.producers), view.consumer]
    if not all(isinstance(module, nn.Linear) for module in projections):
        return None
    gives = [_STAND_INS.get(type(skip.replacement).__name__) for skip in view.skips]
    counts = _counts(layer, view)
    if counts is None or None in gives:
        return None
    return {
        "rows": {_path_of(layer, p.module): p.parts * p.unit_size for p in view.producers},
        "columns": {_path_of(layer, view.consumer): view.unit_size},
        "counts": counts,
        "stand_ins": {
            skip.attribute: (next(iter(skip.replacement.state_dict())), given)
            for skip, given in zip(view.skips, gives, strict=True)
        },
        "dropped": [name for _, name in view.discards],
    }


def _counts(layer: nn.Module, view: BlockView) -> dict[str, int] | None:
    """Attributes of the layer's modules that hold numbers of units, and how many times that.

    Found by telling the layer that two units are left. ``None``: it then needs more than numbers.
    """
    before = _numbers(layer)
    tensors, hooks = set(layer.state_dict()), _hooks(layer)
    view.set_units([0, 1])
    if set(layer.state_dict()) != tensors or _hooks(layer) != hooks:
        return None
    after = _numbers(layer)
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    if any(value % 2 for value in changed.values()):
        return None
    return {name: value // 2 for name, value in changed.items()}


def _numbers(layer: nn.Module) -> dict[str, int]:
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if type(value) is int
    }


def _hooks(layer: nn.Module) -> int:
    modules: Sequence[nn.Module] = list(layer.modules())
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in modules)


def _path_of(model: nn.Module, wanted: nn.Module) -> str:
    for path, module in model.named_modules():
        if module is wanted:
            return str(path)
    raise UnsupportedModelError(f"{type(wanted).__name__} is no part of {type(model).__name__}")
