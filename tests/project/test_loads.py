"""What loads what: the table of the docs against its names, and the readers that are here."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from loads import (
    FASTAPI,
    HTTP,
    LAYOUTS,
    NODE,
    NOT_RUN,
    READERS,
    STATED,
    Place,
    file_name,
    installed,
    interpreter,
    prepare,
    read,
    service_of_the_docs,
    table,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/loads.md"
# HFPRUNE_NODE: a folder in which @huggingface/transformers was installed by npm.
HERE = Place(node=Path(os.environ["HFPRUNE_NODE"]) if "HFPRUNE_NODE" in os.environ else None)
# One layout of each kind; all of them are slow, a process each.
ALWAYS = (
    ("uneven", "ONNX Runtime alone"),
    ("remote-code", "transformers 4.57"),
    ("remote-code", "transformers 5"),
    ("tei", "Optimum ORT"),
)
FILES = {"PyTorch", "float32", "int8", "OpenVINO"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("loads")
    return folder, prepare(folder)


def go_through(case: tuple[str, str], written: tuple[Path, dict[str, Any]]) -> None:
    layout, reader = case
    if interpreter(reader, HERE) is None:
        pytest.skip(f"{reader} is not installed here")
    folder, truth = written
    said = read(reader, folder / file_name(layout), truth[layout], HERE)
    if case in STATED:
        assert STATED[case] in said
    else:
        assert not said or set(said.split(", ")) <= FILES, said


@pytest.mark.slow
@pytest.mark.parametrize("case", ALWAYS, ids=" by ".join)
def test_a_reader(case: tuple[str, str], written: tuple[Path, dict[str, Any]]) -> None:
    go_through(case, written)
    if interpreter(case[1], HERE) is not None:
        folder, truth = written
        assert read(case[1], folder / file_name(case[0]), truth[case[0]], HERE), "it reads a file"


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [(a, b) for a in LAYOUTS for b in READERS if (a, b) not in ALWAYS], ids=" by ".join
)
def test_every_reader(case: tuple[str, str], written: tuple[Path, dict[str, Any]]) -> None:
    go_through(case, written)


def test_the_document_holds_every_layout_and_reader() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    header, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, *rows)]
    assert cells[0] == ["layout", *READERS]
    assert [layout for layout, *_ in cells[1:]] == list(LAYOUTS), "run scripts/make_loads.py"
    errors = dict(re.findall(r"^(\d+)\. `(.*)`$", text, flags=re.MULTILINE))
    for layout, *found in cells[1:]:
        for reader, said in zip(READERS, found, strict=True):
            if (layout, reader) in STATED:
                number = said.removeprefix("no [").removesuffix("]")
                assert STATED[layout, reader] in errors[number]
            else:
                assert said in ("-", NOT_RUN) or set(said.split(", ")) <= FILES, (layout, reader)


def test_the_table_of_made_up_results() -> None:
    cells = dict.fromkeys(((a, b) for a in LAYOUTS for b in READERS), "float32")
    for reader in ("transformers 4.57", "transformers 5"):
        cells["uneven", reader] = "ValueError: load it with `hfprune.from_pretrained(folder)` | a"
    cells["tei", NODE] = ""
    cells["plain", FASTAPI] = NOT_RUN
    text = table(cells, ["a 1", "b 2"])
    assert "| uneven | no [1] | no [1] | float32 |" in text
    assert "1. `ValueError: load it with 'hfprune.from_pretrained(folder)' \\| a`" in text
    assert "| - | float32 |" in text
    assert NOT_RUN in text
    assert text.endswith("Run with a 1, b 2.\n")


def test_a_reader_is_run_where_its_packages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import loads

    there = {"one": {"transformers": "4.57.6", "torch": "2"}, "two": {"transformers": "5.23.0"}}
    monkeypatch.setattr(loads, "installed", lambda python: there[python])
    place = Place(("two", "one"))
    assert interpreter("transformers 4.57", place) == "one"
    assert interpreter("transformers 5", place) is None  # without PyTorch
    assert interpreter(NODE, place) is None
    assert interpreter(NODE, Place(("one",), Path())) == "node"


def test_what_is_installed_here() -> None:
    assert installed(sys.executable)["pytest"] == pytest.__version__
    assert {HTTP, FASTAPI, NODE} < set(READERS)
    compile(service_of_the_docs(), "service.py", "exec")
