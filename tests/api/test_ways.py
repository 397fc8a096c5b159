"""Recipe, Trainer and compress make the same: two cases always, all of them as slow tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ways import CASES, TRAINING, WAYS, made, prepare

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/ways.md"
# One training, and several stages that begin with other tokens.
ALWAYS = (("sparsity", "gates"), ("vocabulary and sparsity", "gates"))
Case = tuple[str, str]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    prepare(folder)
    return folder


def go_through(case: Case, ways: tuple[str, ...], inputs: Path, folder: Path) -> None:
    found = {}
    for way in ways:
        (folder / way).mkdir()
        found[way] = made(way, case, inputs, folder / way)
        assert found[way], "models were made"
        assert found[way] == found["recipe"], way


@pytest.mark.parametrize("case", ALWAYS, ids=" ".join)
def test_the_trainer_makes_what_the_recipe_makes(case: Case, inputs: Path, tmp_path: Path) -> None:
    go_through(case, WAYS[:2], inputs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_case_every_way(case: Case, inputs: Path, tmp_path: Path) -> None:
    go_through(case, WAYS, inputs, tmp_path)


@pytest.mark.slow
def test_a_recipe_stops_early_only_where_it_evaluates(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial of a candidate evaluates nothing, which transformers' callback does not allow."""
    monkeypatch.setitem(TRAINING, "early_stopping_patience", 1)
    go_through(("sparsity", "reconstruction"), WAYS[:1], inputs, tmp_path)


def test_the_document_holds_every_case() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    header, _, *rows = [line for line in lines if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"\|", line)[1:-1]] for line in (header, *rows)]
    assert cells[0] == ["target", "method", *WAYS]
    assert [(target, method) for target, method, *_ in cells[1:]] == list(CASES), (
        "run scripts/make_ways.py"
    )
    for _, _, *made_by in cells[1:]:
        assert made_by == ["made", "the same", "the same"]
