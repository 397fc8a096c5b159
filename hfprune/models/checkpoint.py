"""Save and load shrunk models: safetensors, and the kept sizes in ``config.json``.

Any way of saving works (``model.save_pretrained``, ``Trainer.save_model``), since the sizes ride in
the config. Loading builds the stock class, gives each layer its size, then reads every tensor
strictly: nothing missing, nothing extra, nothing of another shape. A checkpoint of a training that
prunes holds the dense weights and the plan so far, which is carried out when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfprune.core.errors import CheckpointError, PlanError, UnsupportedModelError
from hfprune.families import adapter_of, model_sizes
from hfprune.pruning.state import STATE_NAME, read_state
from hfprune.pruning.surgery import RECORD_KEY, read_record, resize_, shrink_

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


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
        The stock ``transformers`` model, in eval mode, on the CPU, in the saved dtype.

    Raises:
        CheckpointError: if there is no such directory or repository, it holds neither a record of
            kept sizes nor the plan of a training, or any tensor is missing, extra, damaged or of
            another shape.
    """
    folder = _locate(name_or_path, revision, token, cache_dir, local_files_only)
    config = _read_config(folder)
    sizes = read_record(config, str(folder / "config.json"))
    if sizes is None and not was_pruned(config, folder):
        raise CheckpointError(
            f"{folder / 'config.json'} has no {RECORD_KEY!r} record, so hfprune did not shrink "
            "this model; load it with transformers"
        )
    model = _build(_model_class(config, folder), config, folder)
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
    return model.eval()


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
        return model_class(config)
    except Exception as error:  # whatever nonsense sizes in a config lead to, memory included
        raise CheckpointError(
            f"{folder / 'config.json'} describes no {model_class.__name__} that can be built: "
            f"{type(error).__name__}: {error}"
        ) from error


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
    problems = [
        f"{label}: {_abbreviate(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", mismatched),
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
    model.load_state_dict(tensors, strict=False)
    if isinstance(model, PreTrainedModel):
        model.tie_weights()


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
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise CheckpointError(f"there is no directory {name}")
    from huggingface_hub import snapshot_download

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
            f"{type(error).__name__}: {error}"
        ) from error


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; pass a directory of save_pretrained")
    try:
        # Not None, which would ask on the terminal whether to run code that comes with the model.
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {error}") from error


def _model_class(config: Any, folder: Path) -> Any:
    import transformers

    names = getattr(config, "architectures", None) or []
    found = getattr(transformers, names[0], None) if len(names) == 1 else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise CheckpointError(
            f"{folder / 'config.json'}: architectures must name one model class of transformers, "
            f"got {names!r}"
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
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                for name in names:
                    tensors[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or cannot be read: {error}") from error
    return tensors


def _sharded_files(index: Path) -> list[Path]:
    try:
        mapping = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(mapping.values())) if isinstance(mapping, Mapping) else None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} cannot be read: {error}") from error
    if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise CheckpointError(
            f"{index}: shards must be plain file names beside it, got {names!r:.120}"
        )
    return [index.parent / name for name in names]
