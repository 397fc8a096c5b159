"""Rows as people have them in memory -> a file that a recipe reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hfprune.core.errors import DataError
from hfprune.core.files import atomic_write_text
from hfprune.core.tasks import Task

Rows: TypeAlias = Any
"""A path, a ``datasets.Dataset``, a pandas ``DataFrame``, a mapping of columns, or mappings."""


def columns_of(
    task: Task, text: str, pair: str | None, label: str, data: Any
) -> tuple[str, str | None, list[str]]:
    """The columns of the text and of a second one, and all that rows must have.

    Of reranking the text is the query: ``text`` and ``None``, which are not given, stand for
    ``query`` and ``text`` (``positive`` where ``data`` names a ``negative_column``, which is then
    needed in place of labels). Embeddings need texts alone.

    >>> columns_of("reranking", "text", None, "label", None)
    ('query', 'text', ['query', 'text', 'label'])
    """
    if task == "sentence_embedding":
        return text, None, [text]
    if task != "reranking":
        return text, pair, [text, *([pair] if pair else []), label]
    given = data if isinstance(data, Mapping) else {}
    negatives = given.get("negative_column")
    if pair is None:
        pair = "text" if negatives is None else "positive"
    if text == "text":
        text = "query"
    if negatives is None:
        return text, pair, [text, pair, label]
    return text, pair, [text, pair, *([negatives] if isinstance(negatives, str) else negatives)]


def as_file(rows: Rows, file: Path, *, what: str, needed: Sequence[str]) -> str:
    """The path of a file of these rows.

    Args:
        rows: a path comes back as it is; anything else is written.
        file: where to write, as JSON Lines.
        what: how the rows are called in errors.
        needed: columns that they must have; others are left out.

    Raises:
        DataError: for anything else, and rows without a column that is needed.
    """
    if isinstance(rows, str | Path):
        return str(rows)
    names, values_of = _columns(rows, what)
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{what} has no column {' and no '.join(map(repr, missing))}; it has "
            f"{', '.join(names) or 'none'}: name the columns with text_column, "
            "text_pair_column and label_column"
        )
    kept = {name: values_of(name) for name in needed}
    lengths = {len(values) for values in kept.values()}
    if len(lengths) != 1:
        told = ", ".join(f"{name} {len(values)}" for name, values in kept.items())
        raise DataError(f"{what} has columns of different lengths: {told}")
    lines = [
        json.dumps(dict(zip(kept, values, strict=True)), ensure_ascii=False, default=_plain)
        for values in zip(*kept.values(), strict=True)
    ]
    atomic_write_text(file, "\n".join(lines) + "\n")
    return str(file)


def _columns(rows: Any, what: str) -> tuple[list[str], Callable[[str], Sequence[Any]]]:
    """The names of the columns, and what reads one: others may hold images or vectors."""
    if hasattr(rows, "features") and hasattr(rows, "column_names"):  # datasets.Dataset
        return list(rows.column_names), lambda name: _named(rows[name], rows.features[name])
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas.DataFrame
        own = {str(name): name for name in rows.columns}
        return list(own), lambda name: rows[own[name]].tolist()
    if isinstance(rows, Mapping):
        for name, values in rows.items():
            if isinstance(values, str):  # of which a list would be made of its characters
                raise DataError(
                    f"{what} has the text {values!r:.80} for the column {name!r}; expected a list "
                    "of values, one a row"
                )
        mine = {str(name): values for name, values in rows.items()}
        return list(mine), lambda name: list(mine[name])
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows) and rows:
        names = dict.fromkeys(str(name) for row in rows for name in row)
        return list(names), lambda name: [row.get(name) for row in rows]
    raise DataError(
        f"{what} is a {type(rows).__name__}; expected a path, a datasets.Dataset, a pandas "
        "DataFrame, a dict of columns or a list of dicts"
    )


def _named(values: Any, feature: Any) -> list[Any]:
    """Class numbers as the names that the data set gives them."""
    names = getattr(feature, "names", None)
    inner = getattr(getattr(feature, "feature", None), "names", None)
    if names is not None:
        return [None if value is None or value < 0 else names[value] for value in values]
    if inner is not None:
        return [[inner[value] for value in row] for row in values]
    return list(values)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise DataError(f"a value of type {type(value).__name__} cannot be written as JSON")
