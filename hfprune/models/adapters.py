"""Models with PEFT adapters (LoRA and its kin): merged before they are pruned, or refused.

An adapter adds its product to a projection that pruning slices. So it has to be multiplied into the
weights first, which peft does.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import CheckpointError, MissingExtraError

ADAPTER_CONFIG: Final = "adapter_config.json"


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def check_adapter(folder: str | Path) -> None:
    """Refuse an adapter that cannot be merged here.

    Raises:
        MissingExtraError: for a folder with an adapter, without peft; says how to merge it.
    """
    if is_adapter(folder) and find_spec("peft") is None:
        raise MissingExtraError(
            f"{folder} holds a PEFT adapter ({ADAPTER_CONFIG}), not a whole model. Install peft, "
            "and hfprune merges it; or merge it yourself and give the merged folder: "
            f"peft.AutoPeftModel.from_pretrained({str(folder)!r}).merge_and_unload()"
            '.save_pretrained("merged")'
        )


def base_of_adapter(folder: str | Path) -> str:
    """The name or path of the model that an adapter was made for.

    Raises:
        CheckpointError: if its config does not say.
    """
    path = Path(folder) / ADAPTER_CONFIG
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} names no base model: {error!r}") from error


def load_merged(folder: str | Path, auto_class: Any, **options: Any) -> Any:
    """The base model of an adapter with the adapter multiplied in: a plain transformers model.

    Args:
        folder: as peft's ``save_pretrained`` leaves it; its config names the base model.
        auto_class: the class of transformers that loads the base model.
        **options: of its ``from_pretrained``.

    Raises:
        MissingExtraError: without peft.
        CheckpointError: if peft cannot load or merge it.
    """
    check_adapter(folder)
    from peft import PeftModel

    base = base_of_adapter(folder)
    try:
        model = auto_class.from_pretrained(base, **options)
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # peft and transformers raise many unrelated classes
        raise CheckpointError(
            f"{folder}: the PEFT adapter cannot be merged: {type(error).__name__}: {error}"
        ) from error
