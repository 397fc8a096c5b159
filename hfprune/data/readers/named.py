"""Data sets that the ``datasets`` library reads: from the Hub, folders, and what it has saved.

What it alone can read goes through it: its cache, its formats, its declared classes. Local files of
rows do not; see :mod:`hfprune.data.readers.delimited`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.readers.columns import check_columns, wanted_columns
from hfprune.data.readers.hub import load_named
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table

if TYPE_CHECKING:
    from datasets import Dataset

    from hfprune.recipe.sections.data import DataConfig


def read_named(split: str, split_name: str, name: str, config: DataConfig, task: Task) -> Table:
    """Read one split of a data set by name, through the ``datasets`` library and its cache."""
    where = f"{split} ({name}, split {split_name!r})"
    if Path(name).is_file():
        raise DataError(
            f"{where}: data.name is a file; files are read by data.train_file, "
            "data.validation_file and data.test_file"
        )
    if saved_kind(Path(name)) is not None:
        data = _saved_split(where, Path(name), split, split_name)
    else:
        data = _loaded(where, split_name, name, config)
    return table_of(where, data, wanted_columns(config, task))


def saved_kind(folder: Path) -> str | None:
    """What ``save_to_disk`` wrote a folder from: ``Dataset``, ``DatasetDict`` or neither."""
    if (folder / "dataset_dict.json").is_file():
        return "DatasetDict"
    both = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return "Dataset" if both else None


def read_saved(file: RowsFile) -> Table:
    """Read a folder that ``Dataset.save_to_disk`` wrote, given as a file of rows."""
    if saved_kind(file.path) == "DatasetDict":
        raise DataError(
            f"{file.where} is a folder of several splits (DatasetDict.save_to_disk): give it as "
            "data.name, with data.train_split and the others"
        )
    data = _from_disk(file.where, file.path)
    if file.most is not None and file.most < len(data):
        data = data.select(range(file.most))
    return table_of(file.where, data, file.wanted)


def saved_size(folder: Path) -> int:
    """How many rows a folder that ``Dataset.save_to_disk`` wrote has; none is read."""
    return len(_from_disk(str(folder), folder))


def table_of(where: str, data: Dataset, wanted: Mapping[str, str]) -> Table:
    """The wanted columns of a data set; a column of images stays where the data set keeps it.

    Raises:
        DataError: A column is not there, or the column of images holds none.
    """
    import datasets

    check_columns(where, data.column_names, wanted)
    of_images = [column for column, key in wanted.items() if key == "data.image_column"]
    plain = [column for column in wanted if column not in of_images]
    table = Table(
        names=list(data.column_names),
        columns={column: list(data[column][:]) for column in plain},
        size=len(data),
        classes={
            column: names
            for column in plain
            if (names := declared_classes(data.features[column])) is not None
        },
    )
    for column in of_images:
        if not isinstance(data.features[column], datasets.Image):
            raise DataError(
                f"{where}, column {column!r}: expected images, the data set declares "
                f"{data.features[column]}; name the column of images in data.image_column"
            )
        # Images are read when a batch is made.
        images = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        if column != IMAGE_COLUMN:
            images = images.rename_column(column, IMAGE_COLUMN)
        table.images = images
    return table


def declared_classes(feature: Any) -> list[str] | None:
    """Return the class names of a ``ClassLabel``, or of a list of them; None for all else."""
    import datasets

    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _loaded(where: str, split_name: str, name: str, config: DataConfig) -> Dataset:
    with _progress_bars_on_terminals_only():
        try:
            return load_named(name, config.config_name, split_name, config.revision)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except Exception as error:  # the library and the network raise many unrelated classes
            raise DataError(
                f"{where} could not be loaded: {type(error).__name__}: {error}. Check data.name, "
                "data.config_name, the split and the network, or give local files "
                "(data.train_file)"
            ) from error


def _saved_split(where: str, folder: Path, split: str, split_name: str) -> Dataset:
    """One split of a folder that ``save_to_disk`` wrote."""
    data = _from_disk(where, folder)
    if saved_kind(folder) == "DatasetDict":
        if split_name not in data:
            raise DataError(
                f"{where}: the folder holds no such split, only {', '.join(map(repr, data))}: "
                f"correct data.{split}_split"
            )
        return data[split_name]
    if split != "train":
        raise DataError(
            f"{where}: the folder holds one data set without splits (Dataset.save_to_disk): leave "
            f"data.{split}_split out to hold rows out of it"
        )
    return data


def _from_disk(where: str, folder: Path) -> Any:
    import datasets

    with _progress_bars_on_terminals_only():
        try:
            return datasets.load_from_disk(str(folder))
        except Exception as error:  # the library raises many unrelated classes
            raise DataError(
                f"{where}: the folder that save_to_disk wrote cannot be read: "
                f"{type(error).__name__}: {error}. Save the data set anew"
            ) from error


@contextmanager
def _progress_bars_on_terminals_only() -> Iterator[None]:
    import datasets

    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
