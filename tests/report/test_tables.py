"""The tables at the end of a run and of a search, cell by cell."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from first_results import first_format
from rich.console import Console as RichConsole
from rich.table import Table

from hfprune.core.records import QuantizationRecord
from hfprune.core.results import RunResults
from hfprune.report.console import Console
from hfprune.report.tables import quantization_table, summary_table

CANDIDATE = {
    "settings": {}, "ms": {"1x32": 1.5}, "speedup": 1.0, "metric": 0.75, "drop": 0.0,
    "agreement": 0.9375, "file_bytes": 10_500_000, "refused": "slower",
}  # fmt: skip
RECORD: dict[str, Any] = {
    "metric": "accuracy", "chosen": {"per_channel": True}, "within": True, "float_metric": 0.875,
    "not_tried": 2, "seconds": 11.4,
    "candidates": [
        CANDIDATE,
        CANDIDATE | {"settings": {"per_channel": True, "graph": "lean"}, "refused": None,
                     "ms": {"1x32": 1.0, "8x128": 20.0}},
        dict.fromkeys(CANDIDATE) | {"settings": {"graph": "x"}, "ms": {}, "refused": "fails"},
    ],
}  # fmt: skip


def cells(table: Table) -> list[list[str]]:
    """The heads, then the rows."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_the_summary_of_the_first_format() -> None:
    table = summary_table(RunResults.model_validate(first_format()))
    assert table.title == "encoder weights removed: 85.0%"
    assert table.caption == (
        "accuracy on 120 test samples, 95% interval; speed-up over dense ONNX, 2 thread(s), batch "
        "x length, median of 30 interleaved rounds; one seed (13)"
    )
    rows = cells(table)
    assert rows[0] == ["model", "accuracy", "interval", "MB", "1x32", "8x128"]
    assert len(rows) == 7
    assert rows[2] == [
        "dense ONNX", "0.8125", "0.750-0.875", "85.0", "81.00 ms 2.0x", "177.00 ms 2.0x",
    ]  # fmt: skip


def test_the_summary_of_a_family_says_which_lost_what() -> None:
    values = first_format()
    kept = values.pop("pruning")
    values["family"] = {"4x": kept, "12x": kept | {"sparsity": 0.975}}
    table = summary_table(RunResults.model_validate(values))
    assert table.title == "encoder weights removed: 4x 85.0%, 12x 97.5%"


def test_candidates_with_what_was_measured() -> None:
    table = quantization_table("6x", QuantizationRecord.model_validate(RECORD))
    assert table.title == "int8 of the 6x model"
    assert str(table.caption).startswith("accuracy on validation rows, float32 0.8750; speed-up ")
    assert str(table.caption).endswith("11 s, 2 candidates not tried for want of time")
    assert cells(table) == [
        ["settings", "1x32", "8x128", "speed-up", "accuracy", "agree", "MB", "verdict"],
        ["plain", "1.50", "-", "1.00", "0.7500", "0.938", "10.5", "slower"],
        ["per_channel: True, graph: lean", "1.00", "20.00", "1.00", "0.7500", "0.938", "10.5",
         "chosen"],
        ["graph: x", "-", "-", "-", "-", "-", "-", "fails"],
    ]  # fmt: skip


def test_where_they_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    results = RunResults.model_validate(first_format())
    console = Console()
    console._rich = RichConsole(file=io.StringIO(), highlight=False)
    console.summary(results)
    console.quantization("6x", QuantizationRecord.model_validate(RECORD))
    out, err = capsys.readouterr()
    assert "encoder weights removed" in out
    assert "encoder weights removed" not in err
    assert "int8 of the 6x model" in err
    quiet = Console(quiet=True)
    quiet.summary(results)
    quiet.quantization("6x", QuantizationRecord.model_validate(RECORD))
    assert capsys.readouterr() == ("", "")
    assert not sys.stdout.isatty()
