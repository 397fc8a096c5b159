"""Models with PEFT adapters (LoRA and its kin): merged before they are pruned, or refused.

An adapter adds its product to a projection that pruning slices. So it has to be multiplied into the
weights first, which peft does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from hfprune.core.errors import CheckpointError, MissingExtraError
from hfprune.core.reading import read_json
from hfprune.core.text import one_line
from hfprune.models.folders import check_files, check_place

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
    value = read_json(path)
    base = value.get("base_model_name_or_path") if isinstance(value, dict) else None
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{path} names no base model (base_model_name_or_path)")
    try:
        check_place(base)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} names the base model {base!r}: {error}; write the right path into it"
        ) from error
    return base


def adapter_weights(folder: str | Path) -> Mapping[str, Tensor]:
    """The tensors that an adapter saved, by name.

    Raises:
        MissingExtraError: without peft.
        CheckpointError: if there are none that can be read.
    """
    check_adapter(folder)
    check_files(folder)
    from peft import load_peft_weights

    try:
        return dict(load_peft_weights(str(folder), device="cpu"))
    except Exception as error:  # of safetensors, torch and the Hub's client
        raise CheckpointError(
            f"{folder} holds no weights of an adapter that can be read "
            f"(adapter_model.safetensors): {one_line(str(error))}"
        ) from error


def labels_of_adapter(weights: Mapping[str, Tensor]) -> int | None:
    """For how many labels the head is that was saved with an adapter; ``None``: none was."""
    heads = ("classifier", "score", "out_proj")
    for name, value in weights.items():
        *_, module, kind = name.split(".")
        if kind == "weight" and module in heads and value.ndim == 2:
            return int(value.shape[0])
    return None


def load_merged(folder: str | Path, auto_class: Any, **options: Any) -> tuple[Any, tuple[str, ...]]:
    """The base model of an adapter with the adapter multiplied in: a plain transformers model.

    Args:
        folder: as peft's ``save_pretrained`` leaves it; its config names the base model.
        auto_class: the class of transformers that loads the base model.
        **options: of its ``from_pretrained``.

    Returns:
        The model, and the names of weights that neither the base nor the adapter has: they are
        random.

    Raises:
        MissingExtraError: without peft.
        CheckpointError: if peft cannot load or merge it.
    """
    saved = adapter_weights(folder)
    from peft import PeftModel

    base = base_of_adapter(folder)
    check_files(base)
    try:
        model, found = auto_class.from_pretrained(base, output_loading_info=True, **options)
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # peft and transformers raise many unrelated classes
        raise CheckpointError(
            f"{folder}: the PEFT adapter cannot be merged: {type(error).__name__}: "
            f"{one_line(str(error))}"
        ) from error
    missing = [
        name
        for name in sorted(found["missing_keys"])
        if not any(key == name or key.endswith(f".{name}") for key in saved)
    ]
    return merged, tuple(missing)
