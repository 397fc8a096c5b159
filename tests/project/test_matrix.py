"""The matrix of families, methods and tasks: a few cases always, all of them as slow tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matrix import EXPORTS, STATED, STEPS, TASKS, cases, check

pytest.importorskip("optimum.onnxruntime")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/matrix.md"
# One family a task, of unlike build; the others run with the slow tests.
ALWAYS = (
    ("roberta", "token_classification"),
    ("deit", "image_classification"),
    ("distilbert", "sentence_embedding"),
)


def go_through(family: str, task: str) -> None:
    for step, said in check(family, task).items():
        stated = STATED.get((family, task, step))
        if stated is None:
            assert said == "yes", f"{step}: {said}"
        else:
            assert stated in said, step


@pytest.mark.parametrize(("family", "task"), ALWAYS)
def test_a_case(family: str, task: str) -> None:
    go_through(family, task)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "task"), [case for case in cases() if case not in ALWAYS])
def test_every_case(family: str, task: str) -> None:
    go_through(family, task)


def test_the_document_holds_every_case_and_its_stated_errors() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    sections = dict(re.findall(r"## `(\w+)`\n(.*?)(?=\n## |\Z)", text, flags=re.DOTALL))
    errors = dict(re.findall(r"^(\d+)\. (.*)$", text, flags=re.MULTILINE))
    assert tuple(sections) == TASKS
    found = {}
    for task, section in sections.items():
        header, _, *lines = [line for line in section.splitlines() if line.startswith("|")]
        assert [cell.strip() for cell in header.split("|")[2:-1]] == list(STEPS)
        for line in lines:
            family, *cells = [cell.strip() for cell in line.split("|")[1:-1]]
            found[family.strip("`"), task] = dict(zip(STEPS, cells, strict=True))
    assert list(found) == list(cases()), "run scripts/make_matrix.py"
    for (family, task), steps in found.items():
        for step, cell in steps.items():
            stated = STATED.get((family, task, step))
            if stated is None:
                assert cell == "yes", (family, task, step)
            else:
                assert stated in errors[cell.removeprefix("no [").removesuffix("]")]


def test_what_is_stated_belongs_to_a_case() -> None:
    assert {(family, task) for family, task, _ in STATED} <= set(cases())
    assert {step for _, _, step in STATED} <= set(EXPORTS), "every method works for every family"
