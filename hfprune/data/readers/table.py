"""Rows as they were read, before anything is made of them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Table:
    """Raw columns of one source.

    Attributes:
        names: All its columns, also those that nobody asked for.
        columns: The wanted ones: a list of ``size`` values each.
        size: How many rows there are.
        classes: The declared class names of a column, if any; its integers are then their numbers.
        images: Undecoded images, one column.
        notices: What a person should know of the source, a sentence each.
    """

    names: list[str]
    columns: dict[str, list[Any]]
    size: int
    classes: dict[str, list[str]] = field(default_factory=dict)
    images: Dataset | None = None
    notices: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]]) -> Table:
        """A table of columns of one length, as readers of others make it.

        Raises:
            DataError: The lengths differ.
        """
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns of a table have different lengths: {lengths}")
        size = next(iter(lengths.values()), 0)
        return cls(list(columns), {name: list(values) for name, values in columns.items()}, size)


@dataclass
class Rows:
    """One split's sources after the checks of their texts; labels raw, one list a label column.

    ``texts`` holds lists of words for tokens, and fingerprints where there are ``images``.
    ``origins`` holds, for every file of several, its first row and its name. ``written`` holds,
    where a row of a file became several, the number that each has in its file.
    """

    split: str
    source: str
    texts: list[Any]
    text_pairs: list[str] | None
    labels: dict[str, list[Any]]
    classes: dict[str, list[str]]
    images: Dataset | None = None
    notices: list[str] = field(default_factory=list)
    origins: list[tuple[int, str]] = field(default_factory=list)
    written: list[int] | None = None

    def select(self, places: Sequence[int]) -> Rows:
        """Some of the rows of texts, by their places, ascending; errors name them as before."""

        def some(values: Sequence[Any]) -> list[Any]:
            return [values[place] for place in places]

        return replace(
            self,
            texts=some(self.texts),
            text_pairs=None if self.text_pairs is None else some(self.text_pairs),
            labels={column: some(values) for column, values in self.labels.items()},
            origins=[(bisect_left(places, begin), name) for begin, name in self.origins],
            written=None if self.written is None else some(self.written),
        )

    def where(self, row: int, column: str) -> str:
        """Return how errors name a cell; ``row`` counts from 0 here and from 1 in the text."""
        source, number = self.source, row
        if self.origins:
            first, source = self.origins[bisect_right(self.origins, row, key=_first) - 1]
            number -= first
        if self.written is not None:
            number = self.written[row]
        return f"{self.split} ({source}), row {number + 1}, column {column!r}"


def _first(origin: tuple[int, str]) -> int:
    return origin[0]


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of several files of one split, in order.

    Raises:
        DataError: The files declare different classes.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    begin, origins = 0, []
    for part in parts:
        if part.classes != first.classes:
            raise DataError(
                f"{part.split} ({part.source}) declares other classes than {first.source}: "
                f"{part.classes or 'none'}, not {first.classes or 'none'}. Their numbers would "
                "mean different things: write names into the label column"
            )
        origins.append((begin, part.source))
        begin += len(part.texts)
    images = None
    if first.images is not None:
        import datasets

        images = datasets.concatenate_datasets([p.images for p in parts if p.images is not None])
    pairs = [part.text_pairs for part in parts]
    return Rows(
        split=first.split,
        source=f"{first.source} and {len(parts) - 1} more",
        texts=[text for part in parts for text in part.texts],
        text_pairs=None if pairs[0] is None else [text for some in pairs for text in some or ()],
        labels={
            column: [label for part in parts for label in part.labels[column]]
            for column in first.labels
        },
        classes=first.classes,
        images=images,
        notices=[notice for part in parts for notice in part.notices],
        origins=origins,
        written=None
        if first.written is None
        else [number for part in parts for number in part.written or ()],
    )


def is_null(value: Any) -> bool:
    # A missing string is a NaN in what pandas writes.
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_whole(rows: Rows, row: int, column: str, text: str, what: str) -> None:
    """Raise DataError for text that no file can hold: JSON may spell half a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{rows.where(row, column)}: the {what} holds half a character (a lone surrogate, "
            f"U+{ord(text[error.start]):04X}) at position {error.start}; remove it"
        ) from error


def show(value: Any) -> str:
    """Return a value and its type, short enough for an error."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
