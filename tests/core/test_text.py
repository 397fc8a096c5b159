"""Text from outside: what a terminal or a page would obey is shown by its number."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hfprune.core.text import cell, one_line, visible, visible_json

HOSTILE = "\x1b]0;title\x07 \x1b[2J \x9b31m \r\u202egnp.exe \ud800"


def test_control_characters_are_shown_by_their_numbers() -> None:
    assert visible("a\tb\nc \u00e9\u4e2d\U0001f600") == "a\tb\nc \u00e9\u4e2d\U0001f600"
    assert visible("\x1b[31m") == r"\x1b[31m"
    assert visible("\x07\x9b\r\x7f") == r"\x07\x9b\x0d\x7f"
    assert visible("\u202e\u2066\u2028\ud800") == r"\u202e\u2066\u2028\ud800"


@given(st.text(st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert {unicodedata.category(one) for one in shown if one not in "\n\t"}.isdisjoint(
        {"Cc", "Cs", "Zl", "Zp"}
    )
    shown.encode("utf-8")
    assert visible(shown) == shown, "once is enough"


def test_one_line_is_short_and_one() -> None:
    assert one_line("a\n  b\t\x1b c") == r"a b \x1b c"
    assert len(one_line("x" * 1000)) == 300
    assert one_line("x" * 1000, 50).endswith("xx...")


def test_json_means_the_same() -> None:
    value = {"label": HOSTILE, "plain": "\u00e9\n"}
    text = visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert visible(text) == text
    assert "\u00e9" in text


def test_cells_are_no_markup() -> None:
    console = Console(record=True, width=80)
    for label in ("[/INST]", "[bold]loud[/bold]", "[link=https://x]y[/link]", ":smile:", HOSTILE):
        console.print(cell(label))
    said = console.export_text()
    for label in ("[/INST]", "[bold]loud[/bold]", "[link=https://x]y[/link]", ":smile:"):
        assert label in said
    assert "\x1b" not in said
    assert "\x07" not in said
