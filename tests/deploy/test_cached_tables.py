"""The cache of latency tables: what lies there may be anything, and may not be writable."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model, tiny_tokenizer

from hfprune.deploy.speed import table as tables
from hfprune.deploy.speed.table import latency_table
from hfprune.pruning.cost import LatencyTable

GOOD = LatencyTable(
    batch_size=1,
    sequence_length=8,
    threads=1,
    baseline_ms=5.0,
    fixed_ms=1.0,
    attention=((0, 0.0), (2, 0.5), (4, 1.0)),
    ffn=((0, 0.0), (24, 0.5), (48, 0.75)),
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a table was measured."""
    calls: list[int] = []
    monkeypatch.setattr(tables, "_measure", lambda *arguments: calls.append(1) or GOOD)
    return calls


def ask(cache: Path) -> LatencyTable:
    return latency_table(
        tiny_model("bert"), tiny_tokenizer(), None,
        batch_size=1, sequence_length=8, threads=1, cache=cache,
    )  # fmt: skip


def changed(**values: Any) -> str:
    return json.dumps({**GOOD.to_dict(), **values})


HOSTILE = {
    "NaN": changed(fixed_ms=float("nan")),
    "infinite": changed(baseline_ms=float("inf")),
    "zero": changed(fixed_ms=0.0),
    "negative": changed(attention=[[0, 0.0], [4, -1.0]]),
    "slower than the dense model": changed(fixed_ms=6.0),
    "NaN in a line": changed(ffn=[[0, 0.0], [24, float("nan")], [48, 1.0]]),
    "of another model": changed(ffn=[[0, 0.0], [3072, 1.0]]),
    "not rising": changed(attention=[[0, 0.0], [2, 2.0], [4, 1.0]]),
    "twice the same": changed(attention=[[0, 0.0], [4, 1.0], [4, 1.0]]),
    "no beginning": changed(attention=[[1, 0.0], [4, 1.0]]),
    "one entry": changed(attention=[[0, 0.0]]),
    "no entry": changed(attention=[]),
    "numbers for pairs": changed(attention=[1, 2, 3]),
    "a text": changed(attention="high"),
    "half of a last layer": changed(last_attention=[[0, 0.0], [4, 1.0]]),
    "another batch": changed(batch_size=32),
    "another version": changed(format_version=1),
    "a list": "[]",
    "nothing": "",
    "brackets": "[" * 200_000,
    "deep": "[" * 100_000 + "]" * 100_000,
    "huge numbers": changed(batch_size=10**400).replace("1.0", "1e999"),
    "no UTF-8": "\udcff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_have_been_measured_is_measured_anew(
    name: str, tmp_path: Path, measured: list[int]
) -> None:
    assert ask(tmp_path) == GOOD
    (file,) = tmp_path.iterdir()
    assert ask(tmp_path) == GOOD
    assert measured == [1], "the second time from the cache"
    file.write_bytes(HOSTILE[name].encode("utf-8", "surrogateescape"))
    assert ask(tmp_path) == GOOD
    assert measured == [1, 1]
    assert ask(tmp_path) == GOOD
    assert measured == [1, 1], "what was damaged has been replaced"


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, measured: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    caplog.set_level(logging.WARNING)
    assert ask(tmp_path / "file") == GOOD
    assert "not kept for later runs" in caplog.text
    assert ask(tmp_path / "file") == GOOD
    assert measured == [1, 1]
