"""Labels as they were written -> class numbers, flags or floats, and the names of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.candidates import scaled
from hfprune.data.class_names import (
    Numbering,
    hidden_label,
    names_of,
    null_label,
    settled_names,
)
from hfprune.data.flags import flags_from_columns, flags_from_lists, flags_width
from hfprune.data.readers.columns import label_columns
from hfprune.data.readers.table import Rows, show

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


ONE_LABEL = ("single_label_classification", "image_classification")


def encode_labels(
    rows: dict[str, Rows], config: DataConfig, task: Task
) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the label names and, by split, the labels in the form that :class:`TaskData` tells."""
    column = label_columns(config)[0]
    if task == "regression":
        return [], {name: _targets(split, column) for name, split in rows.items()}
    if task == "sentence_embedding":  # the dense model's embeddings, once there is one
        return [], {name: [None] * len(split.texts) for name, split in rows.items()}
    if task == "reranking":
        return [], scaled(rows, config)
    if task == "multi_label_classification":
        return _several(rows, config, column)
    if task == "token_classification":
        return _tags(rows, config, column)
    found = {name: names_of(split, column, config.label_names) for name, split in rows.items()}
    label_names = settled_names(rows, found, config, column)
    numbering = Numbering(label_names, rows, found, config, column)
    numbers = {}
    for name in rows:  # train first
        numbers[name] = numbering.numbers(name, found[name])
        if name == "train":
            _check_two_classes(rows[name], column, numbers[name], label_names)
    return label_names, numbers


def _tags(
    rows: dict[str, Rows], config: DataConfig, column: str
) -> tuple[list[str], dict[str, list[Any]]]:
    """Class numbers of every word."""
    listed = {name: _listed_names(split, column, config) for name, split in rows.items()}
    flat = {name: [tag for tags in some for tag in tags] for name, some in listed.items()}
    label_names = settled_names(rows, flat, config, column)
    numbering = Numbering(label_names, rows, flat, config, column)
    return label_names, {
        name: [numbering.of_row(name, row, tags) for row, tags in enumerate(listed[name])]
        for name in rows
    }


def _several(
    rows: dict[str, Rows], config: DataConfig, column: str
) -> tuple[list[str], dict[str, list[Any]]]:
    """Flags of every class: from columns of 0/1, from lists of 0/1, or from lists of classes."""
    if isinstance(config.label_column, list):
        label_names = list(config.label_names or config.label_column)
        # One name a column, in the columns' order; the columns' own names in another order say
        # which order the labels shall have.
        same = set(label_names) == set(config.label_column)
        columns = label_names if same else config.label_column
        return label_names, {
            name: flags_from_columns(split, columns) for name, split in rows.items()
        }
    width = flags_width(rows, column, config.label_names)
    if width is not None:
        label_names = list(config.label_names or map(str, range(width)))
        return label_names, {
            name: flags_from_lists(split, column, width) for name, split in rows.items()
        }
    listed = {name: _listed_names(split, column, config) for name, split in rows.items()}
    for name, split in rows.items():
        _check_repeated(split, column, listed[name])
    flat = {name: [one for names in some for one in names] for name, some in listed.items()}
    label_names = settled_names(rows, flat, config, column)
    numbering = Numbering(label_names, rows, flat, config, column)
    return label_names, {
        name: [
            _multi_hot(numbering.of_row(name, row, names), split, column, row, label_names)
            for row, names in enumerate(listed[name])
        ]
        for name, split in rows.items()
    }


def _check_two_classes(
    train: Rows, column: str, numbers: Sequence[int], label_names: Sequence[str]
) -> None:
    only = set(numbers)
    if len(only) == 1:
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: every row ({len(numbers)} in all) "
            f"has the label {label_names[only.pop()]!r}; a classifier needs at least two classes"
        )


def _targets(rows: Rows, column: str) -> list[float]:
    """Return the numbers to predict."""
    targets = []
    for row, value in enumerate(rows.labels[column]):
        if value is None or value == "":
            raise null_label(rows, row, column)
        number: float | None = None
        if (isinstance(value, int | float) and not isinstance(value, bool)) or isinstance(
            value, str
        ):
            number = _as_float(value)
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


def _as_float(value: Any) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # an integer beyond what a float holds
        return math.inf


def _listed_names(rows: Rows, column: str, config: DataConfig) -> list[list[str]]:
    """Return the names of each row of a column of lists, not yet checked against the known ones."""
    values = rows.labels[column]
    for row, value in enumerate(values):
        if value is None:
            raise null_label(rows, row, column)
        if value == -1:
            raise hidden_label(rows, row, column)
        if not isinstance(value, list):
            raise DataError(
                f"{rows.where(row, column)}: expected a list of labels, got {show(value)}; use "
                "JSON Lines or Parquet for lists, or one 0/1 column a label (data.label_column as "
                "a list)"
            )
    places = [row for row, value in enumerate(values) for _ in value]
    flat = iter(names_of(rows, column, config.label_names, [v for some in values for v in some],
                         places))  # fmt: skip
    return [[next(flat) for _ in value] for value in values]


def _check_repeated(rows: Rows, column: str, listed: Sequence[Sequence[str]]) -> None:
    for row, names in enumerate(listed):
        if len(set(names)) < len(names):
            raise _repeated(rows, row, column, max(names, key=list(names).count))


def _repeated(rows: Rows, row: int, column: str, name: str) -> DataError:
    return DataError(
        f"{rows.where(row, column)}: the class {name!r} stands more than once in "
        f"{show(rows.labels[column][row])}: list each class of a row once. If these are flags, 0 "
        "or 1 for every class, all rows need one length and data.label_names as many names"
    )


def _multi_hot(
    numbers: Sequence[int], rows: Rows, column: str, row: int, label_names: Sequence[str]
) -> list[float]:
    flags = [0.0] * len(label_names)
    for number in numbers:
        if flags[number]:  # two spellings of one class: its name and its number
            raise _repeated(rows, row, column, label_names[number])
        flags[number] = 1.0
    return flags
