"""CSV and tab-separated files, row by row.

By hand and not by ``datasets`` or pandas: these read the whole file to guess types (``007`` becomes
7, an empty cell NaN), and say neither row nor column of what they refuse. Python's own module reads
as fast as a disk gives, and keeps the wanted columns only.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from hfprune.core.errors import DataError
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table

# What fits a C long on every platform.
_LONGEST_CELL = 2**31 - 1


def read_csv(file: RowsFile) -> Table:
    """Read comma-separated values: a cell in double quotes may hold commas, quotes, line breaks."""
    return _read(file, {"delimiter": ",", "strict": True})


def read_tsv(file: RowsFile) -> Table:
    """Read tab-separated values: a line is a row, and a quote is a character like any other."""
    return _read(file, {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def _read(file: RowsFile, options: Mapping[str, Any]) -> Table:
    with file.text(newline=_line_ends(file)) as text, _long_cells():
        reader = csv.reader(text, **options)
        try:
            header = next(reader, [])
            _check_header(file, header)
            # Columns without a name may be left out of a row: nobody can have asked for them.
            needed = max((place for place, name in enumerate(header) if name), default=-1) + 1
            places = [header.index(column) for column in file.wanted]
            columns: list[list[str]] = [[] for _ in places]
            number = 0
            for number, cells in enumerate(islice(_rows(reader), file.most), start=1):
                if len(cells) != len(header) and not needed <= len(cells) <= len(header):
                    raise _wrong_width(file, number, reader.line_num, cells, header, options)
                for values, place in zip(columns, places, strict=True):
                    values.append(cells[place])
        except csv.Error as error:
            told = str(error)
            if told.startswith("new-line character"):
                told = "a carriage return (\\r) stands in a cell without double quotes"
            raise DataError(
                f"{file.where}, line {reader.line_num}: not valid CSV: {told}"
            ) from error
    table = Table(header, dict(zip(file.wanted, columns, strict=True)), number)
    if options["delimiter"] == "\t":
        table.notices += _quoted(file, table)
    return table


def _line_ends(file: RowsFile) -> str:
    r"""Where lines end: at ``\n``, or at ``\r`` alone if the first line does.

    Both at once would take a stray ``\r`` within a cell for the end of a row.
    """
    with file.text() as text:
        return "" if text.readline().endswith("\r") else "\n"


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    return (cells for cells in reader if cells)  # a blank line gives none


def _check_header(file: RowsFile, header: Sequence[str]) -> None:
    for name, count in Counter(header).items():
        if count > 1 and name in file.wanted:
            raise DataError(
                f"{file.where}: the column {name!r} stands {_times(count)} in the header line, and "
                f"{file.wanted[name]} asks for it: which one is meant? Rename the others"
            )
    try:
        file.check_columns(header)
    except DataError as error:
        if len(header) != 1:
            raise
        for mark, remedy in (
            ("\t", "say data.format: tsv"),
            (";", "save it with commas"),
            ("|", "save it with commas"),
        ):
            if mark in header[0]:
                raise DataError(
                    f"{error} The header is one cell that holds {mark!r}, so the file may not be "
                    f"parted by commas: {remedy}"
                ) from None
        raise


def _times(count: int) -> str:
    return {2: "twice"}.get(count, f"{count} times")


def _wrong_width(
    file: RowsFile,
    number: int,
    line: int,
    cells: Sequence[str],
    header: Sequence[str],
    options: Mapping[str, Any],
) -> DataError:
    delimiter = options["delimiter"]
    if delimiter == "\t":
        remedy = (
            "in a .tsv a line is a row and quotes are plain text, so no text holds a tab or a line "
            "break; write such texts to a .csv or .jsonl"
        )
    else:
        remedy = (
            f"a text that holds {delimiter!r}, a quote or a line break must stand in double quotes"
        )
    return DataError(
        f"{file.where}, row {number} (line {line}) has {len(cells)} cells, the header has "
        f"{len(header)}: {remedy}"
    )


def _quoted(file: RowsFile, table: Table) -> list[str]:
    """Tell of cells that a program seems to have quoted, as for a CSV: they are read as written."""
    found = []
    for column, values in table.columns.items():
        count = sum(
            len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', "")
            for text in values
        )
        if count:
            found.append(
                f"{file.where}, column {column!r}: {count} of {len(values)} cells stand in double "
                "quotes, which are part of the text in a .tsv; if a program put them there, say "
                "data.format: csv after saving with commas, or write the file without quoting"
            )
    return found


@contextmanager
def _long_cells() -> Iterator[None]:
    """Read cells of any length: the module's limit is one setting for the whole process."""
    previous = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(previous)
