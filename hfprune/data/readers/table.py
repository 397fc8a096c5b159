"""Rows as they were read, before anything is made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Table:
    """Raw columns of one source. ``classes`` holds the declared class names of a column, if any."""

    names: list[str]
    columns: dict[str, list[Any]]
    size: int
    classes: dict[str, list[str]] = field(default_factory=dict)
    images: Dataset | None = None


@dataclass
class Rows:
    """One source after the checks of its texts; labels still raw, one list a label column.

    ``texts`` holds lists of words for tokens, and fingerprints where there are ``images``.
    """

    split: str
    source: str
    texts: list[Any]
    text_pairs: list[str] | None
    labels: dict[str, list[Any]]
    classes: dict[str, list[str]]
    images: Dataset | None = None

    def where(self, row: int, column: str) -> str:
        """Return how errors name a cell; ``row`` counts from 0 here and from 1 in the text."""
        return f"{self.split} ({self.source}), row {row + 1}, column {column!r}"


def is_null(value: Any) -> bool:
    # A missing string is a NaN in what pandas writes.
    return value is None or (isinstance(value, float) and math.isnan(value))


def show(value: Any) -> str:
    """Return a value and its type, short enough for an error."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
