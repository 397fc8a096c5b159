"""The page of what is never done names tests that exist; the table of errors is the source's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from hfprune.core import errors
from scripts import make_errors

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
LINES = [line for line in re.findall(r"^\| .+$", PAGE, re.MULTILINE) if "| what" not in line]


def test_the_page_has_lines() -> None:
    assert len(LINES) >= 20
    assert {heading for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)} >= {
        "Never run", "Never read", "Never sent",
    }  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[2:42])
def test_each_line_names_a_test_that_exists(line: str) -> None:
    (named,) = re.findall(r"`(tests/[\w/]+\.py::\w+)`", line)
    file, _, name = named.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name.startswith("test_")


def test_the_table_of_errors_is_the_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_errors.main(["--check"]) == 0, capsys.readouterr().out


def test_every_class_of_errors_says_cause_and_way_out() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) >= 11
    for kind in kinds:
        assert issubclass(kind, errors.HFPruneError)
        assert {"cause", "way_out"} <= set(vars(kind)), kind.__name__
        assert kind.cause.endswith(".")
        assert kind.way_out.endswith(".")


def test_a_message_that_is_new_makes_the_table_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    found = make_errors.messages()
    assert any("git" in text for texts in found.values() for text in texts)
    found["HubError"] = found["HubError"] | {"something new went wrong; try again"}
    monkeypatch.setattr(make_errors, "messages", lambda: found)
    assert "| something new went wrong | try again |" in list(make_errors.table())
    assert make_errors.main(["--check"]) == 1


@pytest.mark.parametrize(
    ("message", "said", "remedy"),
    [
        ("the disk is full; free some space", "the disk is full", "free some space"),
        ("there is no such folder: give the right one", "there is no such folder",
         "give the right one"),
        ("nothing to change here", "nothing to change here", ""),
        ("expected \0: \0", "expected \0: \0", ""),
    ],
)  # fmt: skip
def test_what_to_change_stands_last(message: str, said: str, remedy: str) -> None:
    assert make_errors.parts(message) == (said, remedy)
