"""Token ids of many rows as two arrays: a list of lists takes thirty times the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

_ROWS_AT_ONCE = 10_000


class TokenRows(Sequence[npt.NDArray[np.int64]]):
    """Rows of numbers of any length, read from a data set's own memory.

    Attributes:
        values: int64 or narrower, of floats float64, ``(tokens,)``, row after row.
        starts: int64 ``(rows + 1,)``, where each row begins, and the end.

    Args:
        dataset: a ``datasets.Dataset``.
        column: a column of lists of numbers.
    """

    def __init__(self, dataset: Any, column: str = "input_ids") -> None:
        import pyarrow.compute as compute  # type: ignore[import-untyped]

        parts, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        rows = dataset.select_columns(column).with_format("arrow")
        for table in rows.iter(_ROWS_AT_ONCE):
            lists = table.column(column).combine_chunks()
            parts.append(compute.list_flatten(lists).to_numpy(zero_copy_only=False))
            lengths.append(compute.list_value_length(lists).to_numpy(zero_copy_only=False))
        self.values: npt.NDArray[Any] = np.concatenate(parts)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.concatenate(lengths).cumsum()])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 ``(rows,)``."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, row: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, row: slice) -> list[npt.NDArray[Any]]: ...
    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        return self.values[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for begin, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            yield self.values[begin:end]
