"""Which columns a task reads."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


def label_columns(config: DataConfig) -> list[str]:
    columns = config.label_column
    return [columns] if isinstance(columns, str) else list(columns)


def negative_columns(config: DataConfig) -> list[str]:
    columns = config.negative_column or []
    return [columns] if isinstance(columns, str) else list(columns)


def wanted_columns(config: DataConfig, task: Task) -> dict[str, str]:
    """Return the columns to read, each with the recipe key that names it."""
    wanted = {config.text_column: "data.text_column"}
    if task == "image_classification":
        wanted = {config.image_column: "data.image_column"}
    if config.text_pair_column is not None:
        wanted[config.text_pair_column] = "data.text_pair_column"
    if task == "sentence_embedding":
        return wanted
    if task == "reranking" and config.negative_column is not None:
        return wanted | dict.fromkeys(negative_columns(config), "data.negative_column")
    wanted.update(dict.fromkeys(label_columns(config), "data.label_column"))
    return wanted


def check_columns(where: str, names: Sequence[str], wanted: Mapping[str, str]) -> None:
    """Raise DataError for the first wanted column that is not there."""
    for column, key in wanted.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{where} has no column {column!r}, which {key} asks for. Its columns: "
                f"{', '.join(map(repr, names)) or 'none'}.{hint}"
            )
