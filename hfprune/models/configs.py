"""A model's ``config.json``, looked at before anything is built from it.

It is a text from elsewhere that says how much memory to take and which classes to make. So its raw
values are checked first (in milliseconds), flags of old configs that change what a forward pass
returns are set back, and no code that it names is run unless the caller trusts it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig

from hfprune.core.errors import CheckpointError
from hfprune.core.machine import memory_bytes
from hfprune.core.reading import read_json
from hfprune.core.text import one_line
from hfprune.families import position_limit
from hfprune.models.fetching import fetch
from hfprune.models.folders import check_place
from hfprune.models.whole import LOADING
from hfprune.pruning.surgery import RECORD_KEY, forget_hint_

# What a forward pass returns; hfprune reads results by name, and asks for more where it needs it.
PLAIN_OUTPUTS: Final[Mapping[str, bool]] = {
    "torchscript": False,
    "return_dict": True,
    "output_attentions": False,
    "output_hidden_states": False,
}
MOST_LAYERS: Final = 1000
MOST_OF_ANYTHING: Final = 2**31

# The names of one size in the configs of the families.
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_hidden_groups")
_WIDTHS = ("hidden_size", "dim", "n_embd", "d_model")
_INNER = ("intermediate_size", "hidden_dim", "n_inner")
_ROWS = ("vocab_size", "max_position_embeddings", "n_positions", "type_vocab_size", "num_labels")
_OTHERS = (
    *("num_attention_heads", "n_heads", "n_head", "num_key_value_heads", "head_dim"),
    *("embedding_size", "image_size", "patch_size", "num_channels"),
)


def load_config(
    place: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **changes: Any,
) -> Any:
    """The config of a folder or a name on the Hub, with plain outputs.

    Args:
        changes: values that replace those of the file.

    Raises:
        CheckpointError: there is no such folder, or the config holds what no model can have.
        OSError, ValueError: what transformers raises where it cannot find or read it.
    """
    check_place(str(place))
    raw = read_raw(place, revision)
    check_raw(raw, _named(place))
    flags = {name: value for name, value in PLAIN_OUTPUTS.items() if raw.get(name, value) != value}
    return forget_hint_(
        AutoConfig.from_pretrained(
            str(place), revision=revision, trust_remote_code=trust_remote_code, **flags, **changes
        )
    )


def longest_input(config: Any) -> int | None:
    """The most tokens that a model of a config takes; ``None`` where positions set no limit.

    Told by the stock class, made of one layer on no device: families count positions differently.
    """
    small = forget_hint_(copy.deepcopy(config))
    small.num_hidden_layers = 1
    if getattr(small, RECORD_KEY, None) is not None:
        setattr(small, RECORD_KEY, None)
    try:
        with LOADING, torch.device("meta"):
            return position_limit(AutoModel.from_config(small, trust_remote_code=False))
    except Exception:  # whatever nonsense a config holds: the graph itself will say
        return None


def plain_outputs_(config: Any) -> None:
    """Set back what would change what a forward pass returns. In place."""
    for name, value in PLAIN_OUTPUTS.items():
        if getattr(config, name, value) != value:
            setattr(config, name, value)


def read_raw(place: str | Path, revision: str | None) -> dict[str, Any]:
    """What ``config.json`` says, as it stands there."""
    if not Path(place).is_dir():
        fetch(str(place), revision, weights=False)
        found, _ = PretrainedConfig.get_config_dict(str(place), revision=revision)
        return dict(found)
    file = Path(place) / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{place} holds no config.json; give a folder that save_pretrained or a run wrote"
        )
    value = read_json(file)
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold a JSON object, got {one_line(repr(value), 80)}")
    return value


def check_raw(raw: Mapping[str, Any], where: str) -> None:
    """Refuse values that no model has.

    Args:
        raw: what ``config.json`` holds.
        where: it, for the error.

    Raises:
        CheckpointError: ``model_type`` or ``architectures`` are no names, a size is no count, or
            the model that they describe would not fit into this machine's memory.
    """
    kind, names = raw.get("model_type"), raw.get("architectures")
    if kind is not None and not isinstance(kind, str):
        raise CheckpointError(f"{where}: model_type must be a name, got {kind!r:.80}")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise CheckpointError(
            f"{where}: architectures must name one model class of transformers, in a list, got "
            f"{one_line(repr(names), 80)}"
        )
    for name in (*_LAYERS, *_WIDTHS, *_INNER, *_ROWS, *_OTHERS):
        value = raw.get(name)
        values = value if isinstance(value, list) else [value]
        most = MOST_LAYERS if name in _LAYERS else MOST_OF_ANYTHING
        for one in values:
            if one is None or (type(one) is int and 0 <= one <= most):
                continue
            raise CheckpointError(
                f"{where}: {name} must be a count of at most {most:,}, got {one!r:.40}"
            )
    count, memory = parameters_about(raw), memory_bytes()
    if 2 * count > memory:  # two bytes each at the least
        raise CheckpointError(
            f"{where} describes a model of about {count / 1e9:,.0f} billion parameters, which take "
            f"{2 * count / 2**30:,.0f} GiB; this machine has {memory / 2**30:,.0f} GiB of memory"
        )


def parameters_about(raw: Mapping[str, Any]) -> int:
    """How many parameters a config asks for, to within a factor of two or so."""

    def of(names: tuple[str, ...], default: int) -> int:
        found = [int(raw[name]) for name in names if type(raw.get(name)) is int]
        return max(found, default=default)

    width = of(_WIDTHS, 0)
    inner = of(_INNER, 4 * width)
    # Where layers share their weights, as many as there are groups of them.
    layers = of(("num_hidden_groups",), 0) or of(_LAYERS, 12)
    rows = sum(int(raw[name]) for name in _ROWS if type(raw.get(name)) is int)
    return layers * (4 * width**2 + 2 * width * inner) + rows * width


def _named(place: str | Path) -> str:
    return str(Path(place) / "config.json") if Path(place).is_dir() else f"the config of {place}"
