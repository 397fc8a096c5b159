"""The splits of a data set, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.checks import check_rows
from hfprune.data.readers.columns import wanted_columns
from hfprune.data.readers.files import read_file
from hfprune.data.readers.named import read_named
from hfprune.data.readers.table import Rows
from hfprune.data.task_data import SPLITS

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


def read_splits(config: DataConfig, task: Task) -> dict[str, Rows]:
    """Read every split that the recipe names; train is always among them."""
    files = {
        "train": config.train_file,
        "validation": config.validation_file,
        "test": config.test_file,
    }
    splits = {
        "train": config.train_split,
        "validation": config.validation_split,
        "test": config.test_split,
    }
    taken: dict[Path, str] = {}
    for name, file in files.items():
        path = None if file is None else Path(file).resolve()
        if path in taken:
            raise DataError(
                f"data.{taken[path]}_file and data.{name}_file are one file, {file!r}: a score on "
                f"rows that were learned from says nothing. Leave data.{name}_file out to hold "
                f"{name} rows out of train"
            )
        if path is not None:
            taken[path] = name
    wanted = wanted_columns(config, task)
    rows = {}
    for name in SPLITS:
        file, split = files[name], splits[name]
        if file is not None:
            rows[name] = check_rows(name, file, read_file(name, file, wanted), config, task)
        elif split is not None and config.name is not None:
            table = read_named(name, split, config.name, config, task)
            rows[name] = check_rows(name, f"{config.name}, split {split!r}", table, config, task)
    if "train" not in rows:
        raise DataError("no data: give either data.name or data.train_file")
    return rows
