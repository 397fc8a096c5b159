"""The splits of a data set, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.candidates import each_once
from hfprune.data.checks import check_rows
from hfprune.data.readers.files import read_file
from hfprune.data.readers.named import read_named
from hfprune.data.readers.paths import check_once, files_of
from hfprune.data.readers.table import Rows, joined_rows
from hfprune.data.task_data import SPLITS

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


def read_splits(config: DataConfig, task: Task, most: int | None = None) -> dict[str, Rows]:
    """Read every split that the recipe names; train is always among them.

    Args:
        config, task: The recipe's.
        most: Only so many rows of each file, from its beginning; ``None``: all.
    """
    named = {
        "train": config.train_file,
        "validation": config.validation_file,
        "test": config.test_file,
    }
    splits = {
        "train": config.train_split,
        "validation": config.validation_split,
        "test": config.test_split,
    }
    files = {name: files_of(name, paths) for name in SPLITS if (paths := named[name]) is not None}
    for name, paths in files.items():
        check_once(name, paths)
    _check_apart(files)
    rows = {}
    for name in SPLITS:
        split = splits[name]
        if name in files:
            rows[name] = read_files(name, files[name], config, task, most)
        elif split is not None and config.name is not None:
            table = read_named(name, split, config.name, config, task)
            found = check_rows(name, f"{config.name}, split {split!r}", table, config, task)
            rows[name] = each_once(found, config)
    if "train" not in rows:
        raise DataError("no data: give either data.name or data.train_file")
    return rows


def read_files(
    split: str, files: Sequence[str], config: DataConfig, task: Task, most: int | None = None
) -> Rows:
    """Read the files of one split; their rows follow one another."""
    found = joined_rows(
        [
            check_rows(split, file, read_file(split, file, config, task, most), config, task)
            for file in files
        ]
    )
    return each_once(found, config)


def _check_apart(files: dict[str, list[str]]) -> None:
    """Refuse a file that is of two splits."""
    taken: dict[Path, str] = {}
    for name, paths in files.items():
        for file in paths:
            path = Path(file).resolve()
            if taken.get(path, name) != name:
                raise DataError(
                    f"data.{taken[path]}_file and data.{name}_file are one file, {file!r}: a score "
                    f"on rows that were learned from says nothing. Leave data.{name}_file out to "
                    f"hold {name} rows out of train"
                )
            taken[path] = name
