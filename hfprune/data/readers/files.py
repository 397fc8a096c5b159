"""Local files: CSV, JSON Lines, CoNLL and Parquet, with errors that name file, row and column."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfprune.core.errors import DataError
from hfprune.data.readers.columns import check_columns
from hfprune.data.readers.named import declared_classes
from hfprune.data.readers.table import Table, show


def read_file(split: str, file: str, wanted: dict[str, str]) -> Table:
    """Read a local file by its extension, straight into memory (no cache folder is touched)."""
    path = Path(file)
    where = f"{split} ({file})"
    readers: dict[str, Callable[[str, Path, dict[str, str]], Table]] = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json,
        ".parquet": _read_parquet,
        ".conll": _read_conll,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{where}: the extension {path.suffix!r} is not known; expected one of "
            f"{', '.join(readers)}"
        )
    if not path.is_file():
        near = ""
        if path.parent.is_dir():
            matches = difflib.get_close_matches(
                path.name, sorted(entry.name for entry in path.parent.iterdir()), n=1
            )
            near = f" Did you mean {str(path.with_name(matches[0]))!r}?" if matches else ""
        raise DataError(f"{where}: there is no such file (data.{split}_file).{near}")
    return reader(where, path, wanted)


def _read_text(where: str, path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where} is not UTF-8: byte 0x{content[error.start]:02x} on line {line}, at byte "
            f"{error.start} of the file, cannot be read. Save the file as UTF-8"
        ) from error


def _read_csv(where: str, path: Path, wanted: dict[str, str]) -> Table:
    text = _read_text(where, path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # The module's limit of 131,072 characters a cell is one setting for the whole process.
    previous_limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(reader, [])
        repeated = [name for name, count in Counter(header).items() if count > 1]
        if repeated:
            raise DataError(f"{where}: the column {repeated[0]!r} stands twice in the header line")
        check_columns(where, header, wanted)
        places = {column: header.index(column) for column in wanted}
        columns: dict[str, list[Any]] = {column: [] for column in wanted}
        size = 0
        for cells in reader:
            if not cells:
                continue  # a blank line
            size += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{where}, row {size} (line {reader.line_num}) has {len(cells)} cells, the "
                    f"header has {len(header)}: a text that holds {delimiter!r}, a quote or a line "
                    "break must stand in double quotes"
                )
            for column, place in places.items():
                columns[column].append(cells[place])
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: not valid CSV: {error}") from error
    finally:
        csv.field_size_limit(previous_limit)
    return Table(header, columns, size)


def _read_json(where: str, path: Path, wanted: dict[str, str]) -> Table:
    """Read JSON Lines, or one JSON array of objects."""
    text = _read_text(where, path)
    records: list[Any] = []
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from error
    else:
        # Not splitlines(): JSON text may hold U+2028 and the like inside a line.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except ValueError as error:
                    raise DataError(
                        f"{where}, line {number}: not valid JSON: {error}. Each line must be one "
                        "object"
                    ) from error
    names: dict[str, None] = {}
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(
                f"{where}, row {number}: expected an object with a key a column, got {show(record)}"
            )
        names.update(dict.fromkeys(record))
    if records:
        check_columns(where, list(names), wanted)
    return Table(
        list(names), {column: [r.get(column) for r in records] for column in wanted}, len(records)
    )


def _read_conll(where: str, path: Path, wanted: dict[str, str]) -> Table:
    """Read words and their tags, a word a line; the columns get the names that the recipe uses."""
    words, tags, bad = read_conll(_read_text(where, path))
    if bad is not None:
        raise DataError(
            f"{where}, line {bad}: expected a word and its tag, parted by a blank or tab; a blank "
            "line ends a sentence"
        )
    columns = dict(zip(wanted, (words, tags), strict=False))
    return Table(list(columns), columns, len(words))


def _read_parquet(where: str, path: Path, wanted: dict[str, str]) -> Table:
    import datasets
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_columns(where, file.schema_arrow.names, wanted)
            table = file.read(columns=list(wanted))
    except pyarrow.ArrowException as error:
        raise DataError(f"{where}: not a valid Parquet file: {error}") from error
    # The datasets library keeps class names in the schema's metadata.
    features = datasets.Features.from_arrow_schema(table.schema)
    return Table(
        names=table.column_names,
        columns={column: table.column(column).to_pylist() for column in wanted},
        size=table.num_rows,
        classes={
            column: names
            for column in wanted
            if (names := declared_classes(features[column])) is not None
        },
    )


def read_conll(text: str) -> tuple[list[list[str]], list[list[str]], int | None]:
    """Sentences of a CoNLL-like file: a word a line, its tag last; a blank line ends a sentence.

    Columns are parted by blanks or tabs; those between the word and the tag are passed over, and
    so are comments of CoNLL-U (``# ``) and the ``-DOCSTART-`` lines of CoNLL 2003.

    Returns:
        Words, tags, and the number of the first line (from 1) that has no tag, ``None`` if all do.

    >>> read_conll("Ada NNP B-PER\\nslept VBD O\\n\\nYes UH O\\n")
    ([['Ada', 'slept'], ['Yes']], [['B-PER', 'O'], ['O']], None)
    """
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if not fields:
            if words[-1]:
                words.append([])
                tags.append([])
            continue
        if fields[0] == "-DOCSTART-" or (fields[0] == "#" and not words[-1]):
            continue
        if len(fields) < 2:
            return words, tags, number
        words[-1].append(fields[0])
        tags[-1].append(fields[-1])
    if not words[-1]:
        words.pop()
        tags.pop()
    return words, tags, None
