"""Parquet files, with the class names that the ``datasets`` library keeps in them."""

from __future__ import annotations

from hfprune.core.errors import DataError
from hfprune.data.readers.named import declared_classes
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table


def read_parquet(file: RowsFile) -> Table:
    """Read the wanted columns."""
    import datasets
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    with file.binary() as raw:
        try:
            with pyarrow.parquet.ParquetFile(raw) as parquet:
                there = list(parquet.schema_arrow.names)
                file.check_columns(there)
                wanted, total = list(file.wanted), parquet.metadata.num_rows
                if file.most is None or file.most >= total or not wanted:
                    table = parquet.read(columns=wanted)
                else:
                    batches = parquet.iter_batches(max(file.most, 1), columns=wanted)
                    table = pyarrow.Table.from_batches([next(batches)])
        except pyarrow.ArrowException as error:
            raise DataError(f"{file.where}: not a valid Parquet file: {error}") from error
    # The datasets library keeps class names in the schema's metadata.
    features = datasets.Features.from_arrow_schema(table.schema)
    return Table(
        names=there,
        columns={column: table.column(column).to_pylist() for column in file.wanted},
        # Without a column there is nothing to count in the table itself.
        size=table.num_rows if wanted else min(total, file.most or total),
        classes={
            column: names
            for column in file.wanted
            if (names := declared_classes(features[column])) is not None
        },
    )
