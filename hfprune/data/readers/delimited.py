"""CSV and tab-separated files, row by row.

By hand and not by ``datasets`` or pandas: these read the whole file to guess types (``007`` becomes
7, an empty cell NaN), and say neither row nor column of what they refuse. Python's own module reads
as fast as a disk gives, and keeps the wanted columns only.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from hfprune.core.errors import DataError
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table

# What fits a C long on every platform.
_LONGEST_CELL = 2**31 - 1


def read_csv(file: RowsFile) -> Table:
    """Read comma-separated values: a cell in double quotes may hold commas, quotes, line breaks.

    Spreadsheets of many countries part cells by semicolons: that is read too, and told.
    """
    with file.text(newline=_line_ends(file)) as text:
        by_semicolons = parted_by(next(text, "")) == ";"
    table = _read(file, ";" if by_semicolons else ",")
    if by_semicolons:
        table.notices.append(f"{file.where}: cells are parted by ';', as its header line shows")
    return table


def parted_by(header: str) -> str:
    """What parts the cells of a CSV file, by its first line: a semicolon where no comma does.

    >>> parted_by("text;label"), parted_by("text,a;b"), parted_by("'text'"), parted_by('"a;b"')
    (';', ',', ',', ',')
    """
    try:
        commas, semicolons = (len(next(csv.reader([header], delimiter=one), [])) for one in ",;")
    except csv.Error:
        return ","
    return ";" if commas == 1 < semicolons else ","


def read_tsv(file: RowsFile) -> Table:
    """Read tab-separated values: a line is a row, and a quote is a character like any other."""
    return _read(file, "\t")


def options_of(delimiter: str) -> dict[str, Any]:
    """How Python's module reads cells parted so: quotes mean something where commas part them."""
    if delimiter == "\t":
        return {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    return {"delimiter": delimiter, "strict": True}


def needed_cells(header: Sequence[str]) -> int:
    """The fewest cells of a row: columns without a name may be left out, as nobody asks for them.

    >>> needed_cells(["text", "label", ""])
    2
    """
    return max((place for place, name in enumerate(header) if name), default=-1) + 1


def why_not_csv(error: csv.Error) -> str:
    """What is wrong with a line, in words for who wrote it."""
    told = str(error)
    if told.startswith("new-line character"):
        return "a carriage return (\\r) stands in a cell without double quotes"
    return told


def _read(file: RowsFile, delimiter: str) -> Table:
    with file.text(newline=_line_ends(file)) as text, long_cells():
        reader = csv.reader(text, **options_of(delimiter))
        try:
            header = next(reader, [])
            _check_header(file, header)
            needed = needed_cells(header)
            places = [header.index(column) for column in file.wanted]
            columns: list[list[str]] = [[] for _ in places]
            number = 0
            for number, cells in enumerate(islice(_rows(reader), file.most), start=1):
                if len(cells) != len(header) and not needed <= len(cells) <= len(header):
                    where = f"{file.where}, row {number} (line {reader.line_num})"
                    raise wrong_width(where, cells, header, delimiter)
                for values, place in zip(columns, places, strict=True):
                    values.append(cells[place])
        except csv.Error as error:
            raise DataError(
                f"{file.where}, line {reader.line_num}: not valid CSV: {why_not_csv(error)}"
            ) from error
    table = Table(header, dict(zip(file.wanted, columns, strict=True)), number)
    if delimiter == "\t":
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
        for mark, remedy in (("\t", "say data.format: tsv"), ("|", "save it with commas")):
            if mark in header[0]:
                raise DataError(
                    f"{error} The header is one cell that holds {mark!r}, so the file may not be "
                    f"parted by commas: {remedy}"
                ) from None
        raise


def _times(count: int) -> str:
    return {2: "twice"}.get(count, f"{count} times")


def wrong_width(
    where: str, cells: Sequence[str], header: Sequence[str], delimiter: str
) -> DataError:
    """What to tell of a row of more or fewer cells than the header line has.

    Args:
        where: names the file and the row.
    """
    if delimiter == "\t":
        remedy = (
            "in a .tsv a line is a row and quotes are plain text, so no text holds a tab or a line "
            "break; write such texts to a .csv or .jsonl"
        )
    else:
        remedy = (
            f"a text that holds {delimiter!r}, a quote or a line break must stand in double quotes"
        )
    return DataError(f"{where} has {len(cells)} cells, the header has {len(header)}: {remedy}")


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
def long_cells() -> Iterator[None]:
    """Read cells of any length: the module's limit is one setting for the whole process."""
    previous = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(previous)
