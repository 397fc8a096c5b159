"""Local files of rows, read straight into memory (no cache folder is touched)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.readers.columns import wanted_columns
from hfprune.data.readers.named import read_saved, saved_kind
from hfprune.data.readers.registry import reader_for
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


def read_file(
    split: str, path: str, config: DataConfig, task: Task, most: int | None = None
) -> Table:
    """Read one existing file, by ``data.format`` or its ending; or a folder of ``save_to_disk``.

    Args:
        split: For errors.
        path: Of the file.
        config, task: Say which columns are wanted.
        most: Only so many rows from the beginning, where the format's reader can stop there.

    Raises:
        DataError: No reader knows the file, or it cannot be read.
    """
    file = RowsFile(
        path=Path(path),
        where=f"{split} ({path})",
        wanted=wanted_columns(config, task),
        encoding=config.encoding,
        most=most,
    )
    return read_table(file, config.format)


def read_table(file: RowsFile, format: str | None) -> Table:
    """Read one existing file, whatever its columns are for.

    Args:
        file: What is wanted of it.
        format: The recipe's ``data.format``.

    Raises:
        DataError: As :func:`read_file`.
    """
    if saved_kind(file.path) is not None:
        return read_saved(file)
    table = _checked(file, reader_for(file.where, file.path, format)(file))
    if file.most is None and file.misread():
        table.notices.append(
            f"{file.where} is read as {file.encoding} (data.encoding), but is valid UTF-8 beyond "
            "ASCII: if its letters come out wrong, leave the option out"
        )
    return table


def column_names(path: str) -> list[str]:
    """The names of an existing file's columns, as its head has them; no rows are kept.

    Raises:
        DataError: As :func:`read_file`.
    """
    return read_table(RowsFile(Path(path), path, {}, most=1), None).names


def _checked(file: RowsFile, table: Table) -> Table:
    """Hold a reader, which may be other people's, to what it has to return."""
    if not isinstance(table, Table):
        raise DataError(
            f"{file.where}: its reader returned {type(table).__name__}; expected a "
            "hfprune.data.readers.table.Table (Table.of makes one of columns)"
        )
    if table.size == 0:
        return table
    for column in file.wanted:
        # Images may be kept apart from the other columns.
        found = table.columns.get(column, table.images)
        if found is None or len(found) != table.size:
            raise DataError(
                f"{file.where}: its reader returned "
                f"{'no column' if found is None else f'{len(found)} values of the column'} "
                f"{column!r}; expected {table.size}, one a row"
            )
    return table
