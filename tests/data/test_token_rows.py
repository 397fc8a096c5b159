"""Token ids as arrays: what a list of lists says, in a thirtieth of the memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfprune.data.token_rows import TokenRows

FEATURES = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("int32"))})


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), max_size=12), st.data())
def test_rows_are_those_of_the_data_set(rows: list[list[int]], draw: Any) -> None:
    data = datasets.Dataset.from_dict({"input_ids": rows}, features=FEATURES)
    order = draw.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    for some, expected in (
        (data, rows),
        (data.select(order), [rows[place] for place in order]),
        (datasets.concatenate_datasets([data, data]), rows + rows),
    ):
        found = TokenRows(some)
        assert len(found) == len(expected)
        assert [row.tolist() for row in found] == expected
        assert [found[place].tolist() for place in range(len(found))] == expected
        assert found.lengths.tolist() == list(map(len, expected))
        assert [row.tolist() for row in found[1:3]] == expected[1:3]


def test_out_of_range_is_an_index_error() -> None:
    found = TokenRows(datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]]}, features=FEATURES))
    assert found[-1].tolist() == [3]
    with pytest.raises(IndexError):
        found[2]


def test_memory_is_that_of_the_numbers() -> None:
    rows, length = 20_000, 30
    ids = np.arange(rows * length, dtype=np.int32)
    starts = np.arange(0, rows * length + 1, length, dtype=np.int32)
    import pyarrow as pa

    table = pa.table({"input_ids": pa.ListArray.from_arrays(starts, ids)})
    data = datasets.Dataset(table)
    tracemalloc.start()
    try:
        found = TokenRows(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.starts[-1] == rows * length
    assert peak < 3 * 4 * rows * length  # lists would take some 36 bytes a number
