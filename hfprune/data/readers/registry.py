"""Which reader reads which file; what others add goes the same way as hfprune's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from hfprune.core.errors import DataError
from hfprune.core.registry import Registry
from hfprune.data.readers.conll import read_conll_file
from hfprune.data.readers.delimited import read_csv, read_tsv
from hfprune.data.readers.json_lines import read_json
from hfprune.data.readers.parquet import read_parquet
from hfprune.data.readers.source import PACKED, RowsFile
from hfprune.data.readers.table import Table

Reader: TypeAlias = Callable[[RowsFile], Table]


def _check(name: str, reader: object) -> None:
    if not callable(reader):
        raise DataError(
            f"the reader {name!r} is no function but {type(reader).__name__}; expected one that "
            "takes a RowsFile and returns a Table"
        )


READERS: Registry[Reader] = Registry("reader", "readers", check=_check, error=DataError)


def register_reader(suffix_or_name: str, reader: Reader, *, replace: bool = False) -> None:
    """Let recipes read another kind of file.

    The reader is chosen for files with this ending, and wherever a recipe says ``data.format:
    NAME``. An installed package registers its readers by entry points of the group
    ``hfprune.readers``, named by the ending without its dot.

    Args:
        suffix_or_name: The ending of files, as ``.xlsx`` or ``xlsx``; case does not count.
        reader: Takes a :class:`~hfprune.data.readers.source.RowsFile` and returns a
            :class:`~hfprune.data.readers.table.Table` with all columns of ``file.wanted``. It
            raises :class:`~hfprune.core.errors.DataError`, naming ``file.where`` and the row, for
            what it cannot read; ``file.text()`` and ``file.binary()`` unpack and decode.
        replace: Whether it may take the place of another reader of that name.

    Raises:
        DataError: ``reader`` cannot be called.
        ExtensionError: The name is not one word, or is another reader's.
    """
    READERS.register(_name(suffix_or_name), reader, replace=replace)


def reader_for(where: str, path: Path, format: str | None = None) -> Reader:
    """The reader of a file, by the recipe's ``data.format`` or else by the file's ending.

    Raises:
        DataError: No reader is known by that name.
    """
    if format is not None:
        name = _name(format)
        if name not in READERS:
            raise DataError(
                f"data.format is {format!r}, which no reader reads. {READERS.suggest(name)}"
            )
        return READERS.get(name)
    plain = path.with_suffix("") if path.suffix.lower() in PACKED else path
    ending = plain.suffix.lower()
    if _name(ending) not in READERS:
        more = "; unpack it first" if ending in (".zip", ".7z", ".rar", ".tar", ".zst") else ""
        raise DataError(
            f"{where}: the extension {ending!r} is not known; expected one of "
            f"{', '.join(f'.{name}' for name in READERS)} (and these packed: "
            f"{', '.join(PACKED)}), or name what the file holds in data.format{more}"
        )
    return READERS.get(_name(ending))


def _name(suffix_or_name: str) -> str:
    return suffix_or_name.lower().removeprefix(".")


for _suffix, _reader in (
    (".csv", read_csv),
    (".tsv", read_tsv),
    (".json", read_json),
    (".jsonl", read_json),
    (".ndjson", read_json),
    (".parquet", read_parquet),
    (".conll", read_conll_file),
):
    register_reader(_suffix, _reader)
