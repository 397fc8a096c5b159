"""The rows of files, read from the beginning: names, values, and how many there are in all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import DataError
from hfprune.data.readers.named import read_saved, saved_kind, saved_size
from hfprune.data.readers.paths import files_of
from hfprune.data.readers.registry import reader_for
from hfprune.data.readers.source import PACKED, RowsFile
from hfprune.data.readers.table import Table

# What is read for a proposal; a second or less.
MOST: Final = 50_000
_CONLL: Final = ("words", "tags")


@dataclass(frozen=True)
class Head:
    """The first rows of a file, all columns.

    Attributes:
        file: as it was named.
        columns: values by name, in the file's order; columns without a name, or whose name stands
            twice, are left out.
        size: rows read.
        total: rows in all; an estimate where ``whole`` is false.
        whole: whether all rows were read.
        notices: what the reader tells of the file.
    """

    file: str
    columns: dict[str, list[Any]]
    size: int
    total: int
    whole: bool
    notices: tuple[str, ...] = field(default=())


def read_head(
    file: str, *, format: str | None = None, encoding: str | None = None, most: int = MOST
) -> Head:
    """Read the first rows of a file with all its columns.

    Args:
        file: CSV, TSV, JSON Lines, Parquet, CoNLL, packed or not, or what a plug-in reads.
        format, encoding: as in a recipe's ``data``.
        most: rows to read.

    Raises:
        DataError: it is not there, holds no rows, or cannot be read.
    """
    name = files_of("train", file)[0]
    path = Path(name)

    def read(wanted: Sequence[str]) -> Table:
        source = RowsFile(
            path, f"train ({name})", dict.fromkeys(wanted, "the command"), encoding, most + 1
        )
        if saved_kind(path) is not None:
            return read_saved(source)
        return reader_for(source.where, path, format)(source)

    if (format or _ending(path)).lower() == "conll":
        table = read(_CONLL)
    else:
        names = read(()).names
        counted = Counter(names)
        table = read([each for each in names if each.strip() and counted[each] == 1])
    if table.size == 0:
        raise DataError(f"{name} has no rows")
    columns = {each: list(table.columns[each][:most]) for each in table.columns}
    for each, classes in table.classes.items():
        columns[each] = [_named(value, classes) for value in columns.get(each, [])]
    whole = table.size <= most
    size = min(table.size, most)
    total = size if whole else _total(path, columns, size, table.size)
    return Head(name, columns, size, total, whole, tuple(table.notices))


def _ending(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return plain.suffix.removeprefix(".")


def _named(value: Any, classes: Sequence[str]) -> Any:
    """A declared class by its name; hidden ones (-1) stay numbers."""
    if isinstance(value, list):
        return [_named(one, classes) for one in value]
    return classes[value] if type(value) is int and 0 <= value < len(classes) else value


def _total(path: Path, columns: dict[str, list[Any]], size: int, read: int) -> int:
    """How many rows a file of which a part was read has, about: by the bytes of those rows."""
    if _ending(path) == "parquet" and path.suffix.lower() not in PACKED:
        import pyarrow.parquet  # type: ignore[import-untyped]

        return int(pyarrow.parquet.ParquetFile(path).metadata.num_rows)
    if saved_kind(path) is not None:
        return saved_size(path)
    if read > size + 1 or not path.is_file():
        return read  # a reader that reads all
    shown = min(size, 2000)
    if "json" in _ending(path):
        rows = ({name: values[row] for name, values in columns.items()} for row in range(shown))
        written = [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
    else:
        written = [
            ",".join(str(values[row]) for values in columns.values()) for row in range(shown)
        ]
    text = sum(len(row.encode("utf-8", "replace")) + 1 for row in written)
    # Text packs to about a third.
    packed = 3 if path.suffix.lower() in PACKED else 1
    return max(size, round(packed * path.stat().st_size / max(1.0, text / shown)))
