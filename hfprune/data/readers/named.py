"""Data sets by name: from the Hub, or folders that `datasets` loads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.readers.columns import check_columns, wanted_columns
from hfprune.data.readers.table import Table

if TYPE_CHECKING:
    from datasets import Dataset

    from hfprune.recipe.sections.data import DataConfig


def read_named(split: str, split_name: str, name: str, config: DataConfig, task: Task) -> Table:
    """Read one split of a data set by name, through the ``datasets`` library and its cache."""
    import datasets

    where = f"{split} ({name}, split {split_name!r})"
    with _progress_bars_on_terminals_only():
        try:
            data = datasets.load_dataset(
                name, config.config_name, split=split_name, revision=config.revision
            )
        except Exception as error:  # the library and the network raise many unrelated classes
            raise DataError(
                f"{where} could not be loaded: {type(error).__name__}: {error}. Check data.name, "
                "data.config_name, the split and the network, or give local files "
                "(data.train_file)"
            ) from error
    wanted = wanted_columns(config, task)
    if task != "image_classification":
        return _table_of(where, data, wanted)
    check_columns(where, data.column_names, wanted)
    column = config.image_column
    if not isinstance(data.features[column], datasets.Image):
        raise DataError(
            f"{where}, column {column!r}: expected images, the data set declares "
            f"{data.features[column]}; name the column of images in data.image_column"
        )
    table = _table_of(where, data, {c: key for c, key in wanted.items() if c != column})
    # Images stay where the data set keeps them until a batch is made.
    images = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    if column != IMAGE_COLUMN:
        images = images.rename_column(column, IMAGE_COLUMN)
    table.images = images
    return table


def _table_of(where: str, data: Dataset, wanted: dict[str, str]) -> Table:
    check_columns(where, data.column_names, wanted)
    return Table(
        names=list(data.column_names),
        columns={column: list(data[column][:]) for column in wanted},
        size=len(data),
        classes={
            column: names
            for column in wanted
            if (names := declared_classes(data.features[column])) is not None
        },
    )


def declared_classes(feature: Any) -> list[str] | None:
    """Return the class names of a ``ClassLabel``, or of a list of them; None for all else."""
    import datasets

    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


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
