"""Texts to predict on: from the command line, a file or standard input, one after the other."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

from hfprune.core.errors import DataError
from hfprune.data.readers.delimited import (
    long_cells,
    needed_cells,
    options_of,
    parted_by,
    why_not_csv,
    wrong_width,
)

# What is read as a file of rows where a text could stand.
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
STDIN = "-"
_WITH_COLUMNS = SUFFIXES[1:]


class Row(NamedTuple):
    """A text, or the two of a pair; for images the path of one."""

    text: str
    pair: str | None = None


def is_file_of_rows(argument: str) -> bool:
    """Whether an argument names a file of rows that is there; else it is a text."""
    return argument == STDIN or (argument.lower().endswith(SUFFIXES) and _is_file(argument))


def check_no_file(argument: str) -> None:
    """Refuse a text that can only be meant as the name of a file: it would be answered as a text.

    Raises:
        DataError: such a file is not read, or not there.
    """
    endings = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    if _is_file(argument):
        raise DataError(
            f"{argument} is a file, and files of rows end in {endings}, unpacked: save it as one, "
            "or send its texts to standard input, one a line"
        )
    if argument.lower().endswith(SUFFIXES) and not any(map(str.isspace, argument)):
        raise DataError(f"there is no file {argument}; a text by this name goes to standard input")


def check_columns(
    given: Sequence[str], *, streamed: bool, column: str | None, pair_column: str | None
) -> None:
    """Refuse names of columns where there are none: they would count for nothing.

    Args:
        given: texts, or the name of a file.
        streamed: whether it is such a name.
        column, pair_column: as they were asked for.

    Raises:
        DataError: for texts of the command line, or ``column`` for a text a line. A second column
            says that such a line holds two.
    """
    if not streamed and (column or pair_column):
        option = "--column" if column else "--pair-column"
        raise DataError(
            f"{option} is for files of rows, and {given[0]!r:.80} is read as a text: leave it out, "
            "or name a file; second texts of the command line come with --pair"
        )
    if streamed and column and Path(given[0]).suffix.lower() not in _WITH_COLUMNS:
        raise DataError(
            f"--column {column} is for files with columns ({', '.join(_WITH_COLUMNS)}), and "
            f"{'standard input' if given[0] == STDIN else given[0]} holds a text a line: leave it "
            "out"
        )


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero in it
        return False


def given_rows(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Row]:
    """Rows of texts, each with its pair if there are pairs; one text goes with every pair.

    Raises:
        DataError: of several texts as many pairs are needed.
    """
    if not pairs:
        return [Row(text) for text in texts]
    if len(texts) == 1:
        return [Row(texts[0], pair) for pair in pairs]
    if len(pairs) != len(texts):
        raise DataError(
            f"there are {len(texts)} texts and {len(pairs)} second texts: give one --pair for each"
        )
    return [Row(text, pair) for text, pair in zip(texts, pairs, strict=True)]


def check_single(rows: Iterable[Row], what: str, call: str) -> None:
    """Refuse second texts to a model that reads texts one by one: they would count as none.

    Args:
        rows: of one batch.
        what: the model does with a text.
        call: what to type for two texts.

    Raises:
        DataError: a row has two texts.
    """
    both = next((row for row in rows if row.pair is not None), None)
    if both is not None:
        raise DataError(
            f"the model {what}, and {both.text!r:.80} came with a second text, {both.pair!r:.80}: "
            f'give two texts as two arguments ({call} "a text" "another text"), or of a file one '
            "column of texts, without --pair-column (in Python: Row(text) for each)"
        )


def read_rows(
    source: TextIO, name: str, *, column: str = "text", pair_column: str | None = None
) -> Iterator[Row]:
    """Rows of an open file as they come, so that a stream needs no memory.

    ``.csv`` and ``.tsv`` have a line of names first; ``.jsonl`` holds an object (or a text) a line;
    anything else is a text a line, two with a tab between them where there are pairs. Empty lines
    are left out.

    Args:
        source: of text.
        name: of the file, which says what it holds.
        column, pair_column: where the texts are; the second for pairs.

    Raises:
        DataError: with the line, for what cannot be read so.
    """
    suffix = Path(name).suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _delimited(source, name, "," if suffix == ".csv" else "\t", column, pair_column)
        return
    for number, line in enumerate(source, 1):
        line = line.strip("\r\n")
        if not line.strip():
            continue
        if suffix in (".jsonl", ".ndjson"):
            yield _of_json(line, f"{name}, line {number}", column, pair_column)
        elif pair_column is None:
            yield Row(line)
        else:
            first, tab, second = line.partition("\t")
            if not tab:
                raise DataError(
                    f"{name}, line {number}: expected two texts with a tab between them, got "
                    f"{line!r:.80}"
                )
            yield Row(first, second)


def readable(rows: Iterable[Row], name: str) -> Iterator[Row]:
    """Rows as they come, with an error of ours where their file cannot be read any further.

    Raises:
        DataError: the bytes are not UTF-8, or the system gives them no more.
    """
    try:
        yield from rows
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: Exception) -> DataError:
    """The error of a file that cannot be read, with what to do about it."""
    if isinstance(error, UnicodeDecodeError):
        return DataError(f"{name} cannot be read: {error}; save it in UTF-8")
    return DataError(f"{name} cannot be read: {error}; look at its permissions and its disk")


def _delimited(
    source: Iterable[str], name: str, delimiter: str, column: str, pair_column: str | None
) -> Iterator[Row]:
    """As the rows that were trained on are read: a row is never cut, nor joined with others."""
    lines = iter(source)
    first = next(lines, "")
    if delimiter == ",":
        delimiter = parted_by(first)
    with long_cells():
        reader = csv.reader(chain([first], lines), **options_of(delimiter))
        try:
            header = next(reader, [])
            if not header:
                raise DataError(
                    f"{name} begins with {'an empty line' if first else 'nothing'}, expected the "
                    f"names of its columns, such as {column}: write them above the rows"
                )
            places = [_place(header, name, each) for each in (column, pair_column) if each]
            needed = needed_cells(header)
            for cells in filter(None, reader):  # a blank line gives none
                if not needed <= len(cells) <= len(header):
                    where = f"{name}, line {reader.line_num}"
                    raise wrong_width(where, cells, header, delimiter)
                yield Row(*(cells[place] for place in places))
        except csv.Error as error:
            raise DataError(
                f"{name}, line {reader.line_num}: not valid CSV: {why_not_csv(error)}"
            ) from error


def _place(header: Sequence[str], name: str, column: str) -> int:
    times = header.count(column)
    if times == 0:
        raise DataError(
            f"{name} has no column {column!r}, only {', '.join(map(repr, header))}: name the "
            "column of the texts (--column, --pair-column)"
        )
    if times > 1:
        raise DataError(
            f"{name}: the column {column!r} stands {times} times in the header line: which one is "
            "meant? Rename the others"
        )
    return header.index(column)


def _of_json(line: str, where: str, column: str, pair_column: str | None) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a JSON value, got {line!r:.80} ({error})") from error
    if isinstance(value, str) and pair_column is None:
        return Row(value)
    found = []
    for wanted in filter(None, (column, pair_column)):
        text = value.get(wanted) if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise DataError(
                f"{where}: expected an object with a text under {wanted!r}, got {line!r:.80}; name "
                "the column of the texts (--column, --pair-column)"
            )
        found.append(text)
    return Row(*found)
