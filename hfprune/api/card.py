"""hfprune's model card with what a user says of it: `create_model_card`'s arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from huggingface_hub import ModelCard

from hfprune.core.errors import TrainingError

# As of Trainer.create_model_card.
KNOWN: Final = (
    "language",
    "license",
    "tags",
    "model_name",
    "finetuned_from",
    "tasks",
    "dataset_tags",
    "dataset",
    "dataset_args",
)


def edited(card: str, about: Mapping[str, Any]) -> str:
    """A card with further metadata; as it is where nothing is said.

    Args:
        about: values by the names in :data:`KNOWN`; ``None`` is nothing.

    Raises:
        TrainingError: for other names.
    """
    unknown = [name for name in about if name not in KNOWN]
    if unknown:
        raise TrainingError(
            f"create_model_card has no argument {unknown[0]!r}; it has {', '.join(KNOWN)}"
        )
    said = {name: value for name, value in about.items() if value is not None}
    if not said:
        return card
    found = ModelCard(card)
    data: Any = found.data
    for name, key in (
        ("language", "language"),
        ("license", "license"),
        ("model_name", "model_name"),
        ("finetuned_from", "base_model"),
    ):
        if name in said:
            setattr(data, key, said[name])
    if "tasks" in said:
        data.pipeline_tag = _listed(said["tasks"])[0]
    if "tags" in said:
        data.tags = list(dict.fromkeys([*(data.tags or []), *_listed(said["tags"])]))
    if "dataset_tags" in said:
        data.datasets = _listed(said["dataset_tags"])
    for result in data.eval_results or []:
        if "dataset_tags" in said:
            result.dataset_type = _listed(said["dataset_tags"])[0]
        if "dataset" in said:
            result.dataset_name = _listed(said["dataset"])[0]
        if "dataset_args" in said:
            result.dataset_config = _listed(said["dataset_args"])[0]
    return str(found)


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
