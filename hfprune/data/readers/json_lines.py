"""JSON Lines, or one JSON array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TextIO

from hfprune.core.errors import DataError
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table, show


def read_json(file: RowsFile) -> Table:
    """Read an object a line, or all of them as one array; blank lines count for nothing."""
    names: dict[str, None] = {}
    columns: dict[str, list[Any]] = {column: [] for column in file.wanted}
    size = 0
    # Only "\n" ends a line: JSON text may hold U+2028 and the like inside one.
    with file.text(newline="\n") as text:
        for size, record in enumerate(islice(_records(file, text), file.most), start=1):
            if not isinstance(record, dict):
                raise DataError(
                    f"{file.where}, row {size}: expected an object with a key a column, got "
                    f"{show(record)}"
                )
            names.update(dict.fromkeys(record))
            for column, values in columns.items():
                values.append(record.get(column))
    if size:
        file.check_columns(list(names))
    return Table(list(names), columns, size)


def _records(file: RowsFile, text: TextIO) -> Iterator[Any]:
    lines = enumerate(text, start=1)
    for number, line in lines:
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            yield from _array(file, line + text.read())
        else:
            yield _parsed(file, number, line)
            yield from _remaining(file, lines)
        return


def _remaining(file: RowsFile, lines: Iterable[tuple[int, str]]) -> Iterator[Any]:
    for number, line in lines:
        if line.strip():
            yield _parsed(file, number, line)


def _parsed(file: RowsFile, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file.where}, line {number}: not valid JSON: {error}. Each line must be one object"
        ) from error


def _array(file: RowsFile, text: str) -> list[Any]:
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.where}: not valid JSON: {error}") from error
    found: list[Any] = records
    return found
