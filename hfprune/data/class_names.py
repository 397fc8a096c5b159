"""Names of classes: how a label is spelled, in which order, and which number it gets."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from hfprune.core.errors import DataError
from hfprune.data.readers.table import Rows, check_whole, is_null, show

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


# Longer ones are no class numbers, and Python refuses to read integers of thousands of digits.
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_WHOLE_FLOAT: Final = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))\.0*")


def spelled(text: str) -> str:
    """A label's one spelling: pandas writes whole numbers as ``1.0`` where a cell is missing.

    Leading zeros stay, since ``007`` is a code and no number.

    >>> spelled("1.0"), spelled("1."), spelled("-0.0"), spelled("007"), spelled("1.5")
    ('1', '1', '0', '007', '1.5')
    """
    whole = _WHOLE_FLOAT.fullmatch(text)
    if whole is None:
        return text
    return "0" if whole[1] == "-0" else whole[1]


def null_label(rows: Rows, row: int, column: str) -> DataError:
    """The error for a missing label."""
    return DataError(
        f"{rows.where(row, column)}: there is no label (empty or null); fill it or remove the row"
    )


def hidden_label(rows: Rows, row: int, column: str, remedy: str = "") -> DataError:
    """The error for the label -1."""
    return DataError(
        f"{rows.where(row, column)}: the label is -1, which marks hidden labels in published test "
        f"sets: choose another split, or leave data.{rows.split}_split out to hold rows out of "
        f"train{remedy}"
    )


def names_of(
    rows: Rows,
    column: str,
    label_names: Sequence[str] | None,
    values: Sequence[Any] | None = None,
    places: Sequence[int] | None = None,
) -> list[str]:
    """The name of every label of a column: text, the decimal form of a number, or as declared.

    Args:
        rows: A split.
        column: Of its labels.
        label_names: The recipe's.
        values: Labels to read in place of the column's own, with the row of each in ``places``.
    """
    if values is None:
        values = rows.labels[column]
    known: dict[tuple[type, Any], str] = {}
    found = []
    for place, value in enumerate(values):
        try:
            name = known.get((value.__class__, value))
        except TypeError:  # a list or the like, refused below
            name = None
        if name is None:
            row = place if places is None else places[place]
            name = _name_of(rows, row, column, value, label_names)
            known[value.__class__, value] = name
        found.append(name)
    return found


def _name_of(
    rows: Rows, row: int, column: str, value: Any, label_names: Sequence[str] | None
) -> str:
    given = label_names or ()
    if is_null(value) or value == "":
        raise null_label(rows, row, column)
    name = value if isinstance(value, str) and value in given else None
    if name is None and isinstance(value, str):
        name = spelled(value)
    if "-1" not in given and (value == -1 or name == "-1"):
        remedy = "" if column in rows.classes else ". If -1 is a class, name it in data.label_names"
        raise hidden_label(rows, row, column, remedy)
    if name is not None:
        check_whole(rows, row, column, name, "label")
        return name
    classes = rows.classes.get(column)
    if classes is not None and isinstance(value, int):
        if not 0 <= value < len(classes):
            raise DataError(
                f"{rows.where(row, column)}: the class number is {value}, but the data set "
                f"declares {len(classes)} classes: {listing(classes)}"
            )
        return classes[value]
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        raise DataError(
            f"{rows.where(row, column)}: the label is {value}, not a whole number; to predict "
            "numbers, set task: regression"
        )
    hint = "; for several labels a row, set task: multi_label_classification"
    raise DataError(
        f"{rows.where(row, column)}: expected a string, a whole number or a boolean, got "
        f"{show(value)}{hint if isinstance(value, list) else ''}"
    )


def settled_names(
    rows: Mapping[str, Rows], found: Mapping[str, Iterable[str]], config: DataConfig, column: str
) -> list[str]:
    """The names of the classes in the order of their numbers: the same in every process."""
    if config.label_names is not None:
        return list(config.label_names)
    train = rows["train"]
    if column in train.classes:
        return train.classes[column]
    names = set(found["train"])
    if not names:
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: no row has any label; give "
            "data.label_names if that is meant"
        )
    if all(map(_INTEGER.fullmatch, names)):
        # Some are equal as numbers: 1 and 01.
        return sorted(names, key=lambda name: (int(name), name))
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


class Numbering:
    """The number of each class, of names as they stand in the data.

    Numbers in the data are class numbers, counted from 0, where ``data.label_names`` names none.

    Args:
        label_names: In order.
        rows, found: The splits, and the names of all labels of each.
        config: The recipe's.
        column: Of the labels.

    Raises:
        DataError: The numbers in the data do not count from 0.
    """

    def __init__(
        self,
        label_names: Sequence[str],
        rows: Mapping[str, Rows],
        found: Mapping[str, Sequence[str]],
        config: DataConfig,
        column: str,
    ) -> None:
        self._names, self._rows, self._column = label_names, rows, column
        self._given = config.label_names is not None
        exact = {name: number for number, name in reversed([*enumerate(label_names)])}
        # `1` is the class that is spelled `1.0` here.
        self._known = {spelled(name): number for name, number in exact.items()} | exact
        self._numbers_count = self._given and not any(
            _INTEGER.fullmatch(spelled(name)) for name in label_names
        )
        if self._numbers_count:
            self._check_from_zero(found)

    def numbers(self, split: str, names: Sequence[str]) -> list[int]:
        """The class numbers of a split, one name a row; DataError for an unknown name."""
        return [self._number(split, row, name) for row, name in enumerate(names)]

    def of_row(self, split: str, row: int, names: Sequence[str]) -> list[int]:
        """The class numbers of the names of one row."""
        return [self._number(split, row, name) for name in names]

    def _number(self, split: str, row: int, name: str) -> int:
        number = self._known.get(name)
        if number is None:
            number = self._unknown(split, row, name)
            self._known[name] = number
        return number

    def _unknown(self, split: str, row: int, name: str) -> int:
        rows, names, column = self._rows[split], self._names, self._column
        if self._numbers_count and column not in rows.classes:
            number = {"False": 0, "True": 1}.get(name)
            if number is None and _INTEGER.fullmatch(name):
                number = int(name)
            if number is not None and 0 <= number < len(names):
                return number
        near = difflib.get_close_matches(name, names, n=1)
        if self._given:
            known, remedy = (
                "data.label_names holds",
                "correct the label or add it to data.label_names",
            )
        elif column in rows.classes:
            known, remedy = "train declares", "use splits of one data set"
        else:
            known, remedy = "train holds", "add such rows to train, or give data.label_names"
        raise DataError(
            f"{rows.where(row, column)}: the label {name!r} is unknown; {known} "
            f"{listing(names)}: {remedy}" + (f". Did you mean {near[0]!r}?" if near else "")
        )

    def _check_from_zero(self, found: Mapping[str, Sequence[str]]) -> None:
        """Refuse numbers that seem to count from 1: every class would be taken for the next one."""
        plain = {name: names for name, names in found.items()
                 if self._column not in self._rows[name].classes}  # fmt: skip
        others = {one for names in plain.values() for one in names}.difference(self._names)
        numbers = sorted(int(name) for name in others if _INTEGER.fullmatch(name))
        count = len(self._names)
        if not numbers or numbers[0] < 1 or numbers[-1] > count or len(numbers) < len(others):
            return  # right, or refused row by row; booleans have no first number
        first, zero = self._rows[next(iter(plain))], repr(self._names[0])
        told = (
            f"{first.split} ({first.source}), column {self._column!r}: the labels are numbers from "
            f"{numbers[0]} to {numbers[-1]}, and 0 never occurs; but numbers count from 0: 0 is "
            f"{zero}, {count - 1} is {self._names[-1]!r} (data.label_names). If 1 means {zero}, "
            "subtract 1 from each, or write names in place of numbers"
        )
        if numbers[-1] == count:
            raise DataError(told)
        if "train" in self._rows:
            raise DataError(f"{told}. If {zero} just has no rows, write names too")
        first.notices.append(told)  # rows to evaluate on may well lack a class


def listing(names: Sequence[str]) -> str:
    """Names for an error, cut where there are many."""
    shown = ", ".join(map(repr, names[:20]))
    return shown if len(names) <= 20 else f"{shown}, ... ({len(names)} in all)"
