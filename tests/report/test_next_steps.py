"""What is told at the end of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hfprune.report.next_steps import predict_line


@pytest.mark.parametrize(
    ("task", "family", "expected"),
    [
        ("single_label_classification", None, "predict 'runs/a b' 'a text of your own'"),
        ("regression", {"4x": 0, "8x": 0}, "predict 'runs/a b/8x' 'a text of your own'"),
        ("image_classification", None, "predict 'runs/a b' photo.jpg"),
        ("token_classification", None, "'Ada Lovelace was born in London.'"),
    ],
)
def test_the_command_that_asks_the_model(task: str, family: Any, expected: str) -> None:
    results: Any = SimpleNamespace(task=task, family=family)
    line = predict_line("runs/a b", results)
    assert line.startswith("try it: hfprune predict ")
    assert line.endswith(expected)
