"""Token ids as arrays: what a list of lists says, in a thirtieth of the memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfprune.data.flags import flags_from_columns, flags_from_lists
from hfprune.data.readers.table import Rows
from hfprune.data.task_data import TaskData
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


def of_labels(labels: Any, task: Any) -> TaskData:
    data = datasets.Dataset.from_dict({"labels": labels})
    return TaskData(task, data, data, data, {}, {}, [], 8, {}, {})


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("multi_label_classification", [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
        ("multi_label_classification", [[1, 0], [0, 0], [1, 1]]),
        ("multi_label_classification", [[True, False], [False, False]]),
        ("single_label_classification", [3, 0, 2]),
        ("regression", [0.25, -1.0]),
    ],
)
def test_labels_are_as_numpy_has_them(task: Any, labels: Any) -> None:
    found = of_labels(labels, task).label_array("test")
    np.testing.assert_array_equal(found, np.asarray(labels))
    assert found.dtype == np.asarray(labels).dtype


def test_flags_of_many_rows_and_classes_take_eight_bytes_each() -> None:
    rows, classes = 400, 1_000
    drawn = np.random.default_rng(0).integers(0, 2, (rows, classes))
    names = [f"c{number}" for number in range(classes)]
    by_column = {name: drawn[:, place].astype(str).tolist() for place, name in enumerate(names)}
    lists = drawn.tolist()

    def read(labels: dict[str, list[Any]]) -> Rows:
        return Rows("train", "rows.csv", [""] * rows, None, labels, {})

    tracemalloc.start()
    try:
        one = flags_from_columns(read(by_column), names)
        held = [tracemalloc.get_traced_memory()[0]]
        other = flags_from_lists(read({"labels": lists}), "labels", classes)
        held.append(tracemalloc.get_traced_memory()[0] - held[0])
        data = of_labels(np.asarray(one, np.float32), "multi_label_classification")
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        array = data.label_array("test")
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert one == other == lists
    np.testing.assert_array_equal(array, drawn)
    assert max(held) < 9 * rows * classes
    assert peak < 20 * rows * classes, "32 bytes each as lists of Python's numbers"
