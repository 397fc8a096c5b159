"""Save and load shrunk models: safetensors, and the kept sizes in ``config.json``.

Any way of saving works (``model.save_pretrained``, ``Trainer.save_model``), since the sizes ride in
the config. Loading builds the class of transformers, gives each layer its size, then reads every
tensor strictly: nothing missing, nothing extra, nothing of another shape. A checkpoint of a
training that prunes holds the dense weights and the plan so far, which is carried out when it is
loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfprune.core.errors import CheckpointError, PlanError, UnsupportedModelError
from hfprune.core.reading import pointer_problem, read_json
from hfprune.core.text import one_line
from hfprune.families import adapter_of, model_sizes
from hfprune.models.configs import check_raw, read_raw
from hfprune.models.fetching import fetch
from hfprune.models.folders import check_place
from hfprune.models.whole import load_whole, put_
from hfprune.pruning.state import STATE_NAME, read_state
from hfprune.pruning.surgery import (
    CODE_PREFIX,
    RECORD_KEY,
    forget_hint_,
    read_record,
    resize_,
    shrink_,
)

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w][\w.-]*\.safetensors", re.ASCII)


def from_pretrained(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Any:
    """Load a model that hfprune shrank, exactly as it was saved (bit-equal logits).

    Of a checkpoint that `HFPruneTrainer` wrote while it pruned, the model as it was pruned then.

    Args:
        name_or_path: a directory made by ``save_pretrained``, a checkpoint, or a Hub repository.
        revision, token, cache_dir, local_files_only: as in transformers.

    Returns:
        A model of its class in transformers, with smaller layers: which plain ``from_pretrained``
        does not build. In eval mode, on the CPU, in the saved dtype.

    Raises:
        CheckpointError: if there is no such directory or repository, it holds neither a record of
            kept sizes nor the plan of a training, or any tensor is missing, extra, damaged, of
            another shape, or of whole numbers where floats belong. Also if another thread, loading
            with transformers, kept all parameters empty: none is ever given away like that.
    """
    folder = _locate(name_or_path, revision, token, cache_dir, local_files_only)
    return load_whole(lambda: _load(folder), str(folder)).eval()


def load_shrunk(folder: Path, model_class: Any) -> Any:
    """As :func:`from_pretrained` of a folder, as a class that need not be one of transformers."""
    return load_whole(lambda: _load(folder, model_class), str(folder)).eval()


def _load(folder: Path, model_class: Any = None) -> Any:
    config = _read_config(folder)
    sizes = read_record(config, str(folder / "config.json"))
    if sizes is None and not was_pruned(config, folder):
        raise CheckpointError(
            f"{folder / 'config.json'} has no {RECORD_KEY!r} record, so hfprune did not shrink "
            "this model; load it with transformers"
        )
    model = _build(model_class or _model_class(config, folder), config, folder)
    try:
        if sizes is not None:
            resize_(model, sizes)
    except PlanError as error:
        raise CheckpointError(
            f"{folder / 'config.json'}: the {RECORD_KEY!r} record does not fit the model: {error}"
        ) from error
    load_weights_(model, folder)
    try:
        adapter_of(model).check(model)  # some families keep indices among their weights
    except UnsupportedModelError as error:
        raise CheckpointError(f"the tensors in {folder} are damaged: {error}") from error
    if (folder / STATE_NAME).is_file():
        shrink_(model, read_state(folder, model_sizes(model)).plan)
    return model


def was_pruned(config: Any, folder: str | Path) -> bool:
    """Whether :func:`from_pretrained` loads it and transformers would not, or loads it as dense.

    Args:
        config: of the model.
        folder: that it lies in; a name on the Hub will do where the config says all.
    """
    recorded = getattr(config, RECORD_KEY, None) is not None
    return recorded or (Path(folder) / STATE_NAME).is_file()


def _build(model_class: Any, config: Any, folder: Path) -> Any:
    try:
        if _lacks_pooler(model_class, folder):
            return model_class(config, add_pooling_layer=False)
        return model_class(config)
    except Exception as error:  # whatever nonsense sizes in a config lead to, memory included
        raise CheckpointError(
            f"{folder / 'config.json'} describes no {model_class.__name__} that can be built: "
            f"{type(error).__name__}: {one_line(str(error))}"
        ) from error


def _lacks_pooler(model_class: Any, folder: Path) -> bool:
    """Whether an encoder was saved without the pooler that its class has if nothing is said."""
    if "add_pooling_layer" not in inspect.signature(model_class).parameters:
        return False
    return not any(name.startswith("pooler.") for name in _read_tensors(folder))


def load_weights_(model: nn.Module, folder: Path) -> None:
    """Read a directory's safetensors into a model of the same sizes, strictly. In place.

    Raises:
        CheckpointError: naming missing, unexpected and mismatched tensors; the model is untouched.
    """
    adapter = adapter_of(model)
    tensors = {
        adapter.tensor_name(model, name): value for name, value in _read_tensors(folder).items()
    }
    expected = model.state_dict()
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    missing = sorted(set(expected) - set(tensors) - tied)
    unexpected = sorted(set(tensors) - set(expected))
    mismatched = [
        f"{name} (file {tuple(tensors[name].shape)}, model {tuple(expected[name].shape)})"
        for name in sorted(set(tensors) & set(expected))
        if tensors[name].shape != expected[name].shape
    ]
    retyped = [
        f"{name} (file {tensors[name].dtype}, model {expected[name].dtype})"
        for name in sorted(set(tensors) & set(expected))
        if not _castable(tensors[name].dtype, expected[name].dtype)
    ]
    problems = [
        f"{label}: {_abbreviate(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", mismatched),
            ("of another kind of number", retyped),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"the tensors in {folder} do not fit the sizes recorded in its config.json; "
            + "; ".join(problems)
        )
    floats = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if len(floats) == 1:
        model.to(dtype=floats.pop())
    own = model.state_dict()
    # Copies: a tensor of safetensors is a view of the file, which may be replaced.
    put_(model, {name: value.to(own[name].dtype, copy=True) for name, value in tensors.items()})
    if isinstance(model, PreTrainedModel):
        model.tie_weights()


def _castable(found: torch.dtype, expected: torch.dtype) -> bool:
    """Whether a tensor of the file may become one of the model: floats floats, others the same."""
    if expected.is_floating_point:
        return found in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return found == expected


def _abbreviate(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _locate(
    name_or_path: str | Path,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    name = str(name_or_path)
    try:
        check_place(name)
    except CheckpointError as error:
        raise CheckpointError(f"there is no directory {name}: {error}") from error
    from huggingface_hub import snapshot_download

    if not local_files_only:
        fetch(name, revision, token=token, cache_dir=cache_dir)
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=["config.json", "*.safetensors", INDEX_NAME, STATE_NAME],
            )
        )
    except Exception as error:
        raise CheckpointError(
            f"{name!r} is neither a directory here nor a repository that could be fetched: "
            f"{type(error).__name__}: {one_line(str(error))}"
        ) from error


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    check_raw(read_raw(folder, None), str(folder / "config.json"))
    try:
        # Not None, which would ask on the terminal whether to run code that comes with the model.
        return forget_hint_(
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
    except Exception as error:
        raise CheckpointError(
            f"{folder / 'config.json'} cannot be read: {one_line(str(error))}"
        ) from error


def _model_class(config: Any, folder: Path) -> Any:
    import transformers

    names = getattr(config, "architectures", None) or []
    name = str(names[0]) if len(names) == 1 else ""
    if getattr(config, RECORD_KEY, None) is not None:
        # Saved by the file of code beside it, whose class computes what this one does.
        name = name.removeprefix(CODE_PREFIX)
    found = getattr(transformers, name, None)
    # Only classes of whole models say which config they are made of.
    if not (
        isinstance(found, type)
        and issubclass(found, transformers.PreTrainedModel)
        and isinstance(config, found.config_class or ())
    ):
        raise CheckpointError(
            f"{folder / 'config.json'}: architectures must name one model class of transformers "
            f"for {config.model_type!r} models, got {names!r:.120}"
        )
    return found


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    files = [folder / WEIGHTS_NAME]
    if not files[0].is_file():
        index = folder / INDEX_NAME
        if not index.is_file():
            raise CheckpointError(
                f"{folder} holds neither {WEIGHTS_NAME} nor {INDEX_NAME}: save the model with "
                "safetensors (safe_serialization=True, of a Trainer save_safetensors=True)"
            )
        files = _sharded_files(index)
    tensors: dict[str, Tensor] = {}
    for file in files:
        if (pointer := pointer_problem(file)) is not None:
            raise CheckpointError(f"{file} cannot be read: {pointer}")
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                for name in names:
                    tensors[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is damaged or cannot be read: {one_line(str(error))}"
            ) from error
    return tensors


def _sharded_files(index: Path) -> list[Path]:
    value = read_json(index)
    mapping = value.get("weight_map") if isinstance(value, Mapping) else None
    if not isinstance(mapping, Mapping):
        raise CheckpointError(f"{index} cannot be read: it maps no tensors to files (weight_map)")
    shards = list(mapping.values())
    plain = [n for n in shards if isinstance(n, str) and _SHARD.fullmatch(n)]
    if not shards or len(plain) < len(shards):
        shown = one_line(repr(shards[:3]), 120)
        raise CheckpointError(f"{index}: shards must be plain file names beside it, got {shown}")
    return [index.parent / name for name in sorted(set(plain))]
