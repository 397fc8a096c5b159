"""Labels as they were written -> class numbers, flags or floats, and the names of the classes."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.readers.columns import label_columns
from hfprune.data.readers.table import Rows, is_null, show

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


ONE_LABEL = ("single_label_classification", "image_classification")
_INTEGER = re.compile(r"-?[0-9]+")
_TRUE = ("1", "1.0", "true")
_FALSE = ("0", "0.0", "false")


def encode_labels(
    rows: dict[str, Rows], config: DataConfig, task: Task
) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the label names and, by split, the labels in the form that :class:`TaskData` tells."""
    if task == "regression":
        column = label_columns(config)[0]
        return [], {name: _targets(split, column) for name, split in rows.items()}
    if task == "multi_label_classification" and isinstance(config.label_column, list):
        label_names = list(config.label_names or config.label_column)
        # One name a column, in the columns' order; the columns' own names in another order say
        # which order the labels shall have.
        same = set(label_names) == set(config.label_column)
        columns = label_names if same else config.label_column
        return label_names, {name: _flags(split, columns) for name, split in rows.items()}
    column = label_columns(config)[0]
    if task == "token_classification":
        tags = {
            name: _listed_names(split, column, config.label_names) for name, split in rows.items()
        }
        label_names = _label_names(rows, tags, config, column)
        return label_names, {
            name: [
                [_number_of(split, row, column, tag, label_names, config) for tag in row_tags]
                for row, row_tags in enumerate(tags[name])
            ]
            for name, split in rows.items()
        }
    if task == "multi_label_classification":
        found = {
            name: _listed_names(split, column, config.label_names) for name, split in rows.items()
        }
        label_names = _label_names(rows, found, config, column)
        return label_names, {
            name: _multi_hot(split, column, found[name], label_names, config)
            for name, split in rows.items()
        }
    single = {
        name: [
            [_name_of(split, row, column, value, config.label_names)]
            for row, value in enumerate(split.labels[column])
        ]
        for name, split in rows.items()
    }
    label_names = _label_names(rows, single, config, column)
    numbers = {}
    for name, split in rows.items():  # train first
        numbers[name] = [
            _number_of(split, row, column, values[0], label_names, config)
            for row, values in enumerate(single[name])
        ]
        if name == "train":
            _check_two_classes(split, column, numbers[name], label_names)
    return label_names, numbers


def _check_two_classes(
    train: Rows, column: str, numbers: Sequence[int], label_names: Sequence[str]
) -> None:
    only = set(numbers)
    if len(only) == 1:
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: every row ({len(numbers)} in all) "
            f"has the label {label_names[only.pop()]!r}; a classifier needs at least two classes"
        )


def _null_label(rows: Rows, row: int, column: str) -> DataError:
    return DataError(
        f"{rows.where(row, column)}: there is no label (empty or null); fill it or remove the row"
    )


def _hidden_label(rows: Rows, row: int, column: str, remedy: str = "") -> DataError:
    return DataError(
        f"{rows.where(row, column)}: the label is -1, which marks hidden labels in published test "
        f"sets: choose another split, or leave data.{rows.split}_split out to hold rows out of "
        f"train{remedy}"
    )


def _name_of(
    rows: Rows, row: int, column: str, value: Any, label_names: Sequence[str] | None
) -> str:
    """Return a label's name: its text, the decimal form of a whole number, or its declared name."""
    if is_null(value) or value == "":
        raise _null_label(rows, row, column)
    if value in (-1, "-1") and "-1" not in (label_names or ()):
        remedy = "" if column in rows.classes else ". If -1 is a class, name it in data.label_names"
        raise _hidden_label(rows, row, column, remedy)
    classes = rows.classes.get(column)
    if classes is not None and isinstance(value, int):
        if not 0 <= value < len(classes):
            raise DataError(
                f"{rows.where(row, column)}: the class number is {value}, but the data set "
                f"declares {len(classes)} classes: {_listing(classes)}"
            )
        return classes[value]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        raise DataError(
            f"{rows.where(row, column)}: the label is {value}, not a whole number; to predict "
            "numbers, set task: regression"
        )
    expected = "a string, a whole number or a boolean"
    hint = "; for several labels a row, set task: multi_label_classification"
    raise DataError(
        f"{rows.where(row, column)}: expected {expected}, got {show(value)}"
        f"{hint if isinstance(value, list) else ''}"
    )


def _label_names(
    rows: dict[str, Rows],
    found: dict[str, list[list[str]]],
    config: DataConfig,
    column: str,
) -> list[str]:
    """Settle the label names; ``found`` holds, by split, the names of each row."""
    if config.label_names is not None:
        return list(config.label_names)
    train = rows["train"]
    if column in train.classes:
        return train.classes[column]
    names = {name for row_names in found["train"] for name in row_names}
    if not names:
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: no row has any label; give "
            "data.label_names if that is meant"
        )
    if all(map(_INTEGER.fullmatch, names)):
        return sorted(names, key=int)
    if all(map(_is_number, names)) and not all(float(name).is_integer() for name in names):
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: the labels are numbers such as "
            f"{min(names)}, not classes; to predict numbers, set task: regression"
        )
    return sorted(names)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number_of(
    rows: Rows, row: int, column: str, name: str, label_names: Sequence[str], config: DataConfig
) -> int:
    """Return the class number of a name, or raise DataError if it is none of the known ones."""
    if name in label_names:
        return label_names.index(name)
    given = config.label_names is not None
    if given and column not in rows.classes and not any(map(_INTEGER.fullmatch, label_names)):
        number = {"False": 0, "True": 1}.get(name)
        if number is None and _INTEGER.fullmatch(name):
            number = int(name)
        if number is not None and 0 <= number < len(label_names):
            return number
    near = difflib.get_close_matches(name, label_names, n=1)
    if given:
        known, remedy = "data.label_names holds", "correct the label or add it to data.label_names"
    elif column in rows.classes:
        known, remedy = "train declares", "use splits of one data set"
    else:
        known, remedy = "train holds", "add such rows to train, or give data.label_names"
    raise DataError(
        f"{rows.where(row, column)}: the label {name!r} is unknown; {known} "
        f"{_listing(label_names)}: {remedy}" + (f". Did you mean {near[0]!r}?" if near else "")
    )


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return shown if len(names) <= 20 else f"{shown}, ... ({len(names)} in all)"


def _targets(rows: Rows, column: str) -> list[float]:
    """Return the numbers to predict."""
    targets = []
    for row, value in enumerate(rows.labels[column]):
        if value is None or value == "":
            raise _null_label(rows, row, column)
        number: float | None = None
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        elif isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                number = None
        if number is None:
            raise DataError(
                f"{rows.where(row, column)}: expected a number to predict, got {show(value)}; for "
                "classes, set task: single_label_classification"
            )
        if not math.isfinite(number):
            raise DataError(
                f"{rows.where(row, column)}: the number to predict is {number}, not a finite one; "
                "correct it or remove the row"
            )
        targets.append(number)
    return targets


def _flags(rows: Rows, columns: Sequence[str]) -> list[list[float]]:
    """Return multi-hot labels from one 0/1 column a label."""
    by_column = []
    for column in columns:
        flags = []
        for row, value in enumerate(rows.labels[column]):
            if is_null(value) or value == "":
                raise _null_label(rows, row, column)
            if value in (-1, "-1"):
                raise _hidden_label(rows, row, column)
            text = str(value).lower()
            if isinstance(value, list) or text not in _TRUE + _FALSE:
                raise DataError(
                    f"{rows.where(row, column)}: expected 0 or 1 (or a boolean), got {show(value)}"
                )
            flags.append(float(text in _TRUE))
        by_column.append(flags)
    return [list(flags) for flags in zip(*by_column, strict=True)]


def _listed_names(rows: Rows, column: str, label_names: Sequence[str] | None) -> list[list[str]]:
    """Return the names of each row of a column of lists, not yet checked against the known ones."""
    found = []
    for row, values in enumerate(rows.labels[column]):
        if values is None:
            raise _null_label(rows, row, column)
        if values == -1:
            raise _hidden_label(rows, row, column)
        if not isinstance(values, list):
            raise DataError(
                f"{rows.where(row, column)}: expected a list of labels, got {show(values)}; use "
                "JSON Lines or Parquet for lists, or one 0/1 column a label (data.label_column as "
                "a list)"
            )
        found.append([_name_of(rows, row, column, value, label_names) for value in values])
    return found


def _multi_hot(
    rows: Rows,
    column: str,
    found: Sequence[Sequence[str]],
    label_names: Sequence[str],
    config: DataConfig,
) -> list[list[float]]:
    labels = []
    for row, names in enumerate(found):
        flags = [0.0] * len(label_names)
        for name in names:
            flags[_number_of(rows, row, column, name, label_names, config)] = 1.0
        labels.append(flags)
    return labels
