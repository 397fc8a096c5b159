"""A reader from outside: rows as sections of an INI file, one key a column.

The package says, in pyproject.toml::

    [project.entry-points."hfprune.readers"]
    ini = "hfprune_ini:read_ini"

Then recipes take ``data.train_file: reviews.ini``, packed (``reviews.ini.gz``) too, and
``data.format: ini`` for files of another name::

    [1]
    text = a fine film
    label = good
"""

from __future__ import annotations

import configparser

from hfprune.core.errors import DataError
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table


def read_ini(file: RowsFile) -> Table:
    """A section a row; a column that a section lacks is empty there."""
    rows = configparser.ConfigParser(interpolation=None)
    rows.optionxform = str  # type: ignore[assignment, method-assign]  # keep capitals of columns
    try:
        with file.text() as text:
            rows.read_file(text)
    except configparser.Error as error:
        why = " ".join(str(error).split())
        raise DataError(f"{file.where}: not an INI file: {why}") from error
    names = list(dict.fromkeys(key for section in rows.sections() for key in rows[section]))
    if names:
        file.check_columns(names)
    columns = {name: [rows[s].get(name) for s in rows.sections()] for name in file.wanted}
    return Table(names, columns, len(rows.sections()))
