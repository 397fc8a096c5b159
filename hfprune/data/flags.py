"""Several labels a row as flags: 0 or 1 for every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hfprune.core.errors import DataError
from hfprune.data.class_names import hidden_label, null_label
from hfprune.data.readers.table import Rows, is_null, show

_TRUE = ("1", "1.0", "true")
_FALSE = ("0", "0.0", "false")


def flags_from_columns(rows: Rows, columns: Sequence[str]) -> list[list[float]]:
    """Return multi-hot labels from one 0/1 column a label."""
    by_column = []
    for column in columns:
        flags = []
        for row, value in enumerate(rows.labels[column]):
            if is_null(value) or value == "":
                raise null_label(rows, row, column)
            if value in (-1, "-1"):
                raise hidden_label(rows, row, column)
            text = str(value).lower()
            if isinstance(value, list) or text not in _TRUE + _FALSE:
                raise DataError(
                    f"{rows.where(row, column)}: expected 0 or 1 (or a boolean), got {show(value)}"
                )
            # Two numbers for all rows: a new one for each flag takes four times the memory.
            flags.append(1.0 if text in _TRUE else 0.0)
        by_column.append(flags)
    return [list(flags) for flags in zip(*by_column, strict=True)]


def flags_width(
    rows: Mapping[str, Rows], column: str, label_names: Sequence[str] | None
) -> int | None:
    """How many flags a row has, where a column of lists holds flags; None where it holds classes.

    Lists are flags where all rows of the first split have one length, hold only 0 and 1, and no
    classes are declared. Class numbers cannot look like that from three on, since one would be
    listed twice. Of one or two the names decide: ``[1]`` and ``[0, 1]`` are class numbers where
    ``label_names`` has another length; ``[0]`` and ``[1]`` without names are the classes 0 and 1.

    Raises:
        DataError: These are flags, but of more or fewer classes than ``label_names`` names.
    """
    split = next(iter(rows.values()))
    values = split.labels[column]
    if column in split.classes or not isinstance(values[0], list):
        return None
    width = len(values[0])
    if width == 0 or not all(_are_flags(value, width) for value in values):
        return None
    named = None if label_names is None else len(label_names)
    if width < 3 and named != width and not (width == 2 and named is None):
        return None
    if named not in (None, width):
        raise DataError(
            f"{split.where(0, column)}: every row holds {width} flags (0 or 1), data.label_names "
            f"{named} names: give one name for each flag, in their order"
        )
    return width


def flags_from_lists(rows: Rows, column: str, width: int) -> list[list[float]]:
    """Return multi-hot labels from a column of lists of flags."""
    found = []
    for row, value in enumerate(rows.labels[column]):
        if value is None:
            raise null_label(rows, row, column)
        if value == -1:
            raise hidden_label(rows, row, column)
        if not _are_flags(value, width):
            raise DataError(
                f"{rows.where(row, column)}: expected {width} flags, each 0 or 1, as in the other "
                f"rows, got {show(value)}"
            )
        found.append([1.0 if flag else 0.0 for flag in value])
    return found


def _are_flags(value: Any, width: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == width
        and all(isinstance(flag, bool | int | float) and flag in (0, 1) for flag in value)
    )
