"""Files that embeddings are tried on at the end are read before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from hfprune.cli import app
from hfprune.core.errors import DataError
from hfprune.data.uses import RETRIEVAL, SCORED_PAIRS, read_use
from hfprune.early import checks
from hfprune.early.checks import check_early
from hfprune.pipeline.run import run
from hfprune.recipe.sections.whole import Recipe


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def found(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"query": "good", "text": f"film {n}", "label": one} for n, one in enumerate(labels)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_model("bert").base_model.save_pretrained(tmp_path / "encodes")
    tiny_tokenizer().save_pretrained(tmp_path / "encodes")
    write(tmp_path / "texts.jsonl", [{"text": f"good film {n}"} for n in range(30)])
    write(tmp_path / "search.jsonl", found([1, 0, 0.5]))
    return tmp_path


def recipe(**evaluation: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name_or_path": "encodes"},
            "task": "sentence_embedding",
            "data": {"train_file": "texts.jsonl", "max_length": 16},
            "pruning": {"sparsity": 0.5},
            "evaluation": evaluation,
            "output_dir": "out",
        }
    )


@pytest.mark.parametrize(
    ("key", "file", "text"),
    [
        ("retrieval", "serch.jsonl",
         "evaluation.retrieval is 'serch.jsonl', but there is no such file. Did you mean "
         "'search.jsonl'? Name a file with the columns 'query', 'text' and 'label', or remove "
         "evaluation.retrieval"),
        ("retrieval", "encodes", "evaluation.retrieval is 'encodes', but that is a folder. Name"),
        ("retrieval", "texts.jsonl",
         "evaluation.retrieval (texts.jsonl) has no column 'query'. Wanted are 'query' and 'text', "
         "texts, and 'label', a number that says how relevant the text is; the file has 'text': "
         "rename its columns, or name another file in evaluation.retrieval"),
        ("scored_pairs", "search.jsonl",
         "evaluation.scored_pairs (search.jsonl) has no column 'sentence1'. Wanted are 'sentence1' "
         "and 'sentence2', texts, and 'score', a number that says how alike they are; the file has "
         "'query', 'text', 'label'"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_found_at_once(
    key: str, file: str, text: str, place: Path
) -> None:
    asked = recipe(**{key: file})
    for look in (check_early, run):
        with pytest.raises(DataError) as error:
            look(asked)
        assert text in str(error.value)
    (place / "r.yaml").write_text(json.dumps(recipe().model_dump(mode="json")))
    words = [["recipe", "check", "r.yaml"], ["prune", "r.yaml", "--dry-run"], ["prune", "r.yaml"]]
    for some in words:
        done = CliRunner().invoke(app, [*some, f"evaluation.{key}={file}"])
        assert done.exit_code == 1
        assert text in done.stderr


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (found([1, "yes"]), r"evaluation.retrieval \(f\), row 2, column 'label': expected a number,"
                            r" got 'yes'"),
        (found([1, -1]), r"row 2, column 'label': expected how relevant .* got -1"),
        (found([3, 0.5]), r"\(the highest here is 3\), got 0.5"),
        (found([0, 0.2]), r"no text has a label of 0.5 or more, so there is nothing to find"),
        ([{"query": "a", "text": None, "label": 1}], r"row 1, column 'text': there is no text"),
        ([], r"evaluation.retrieval \(f\) has no"),
    ],
)  # fmt: skip
def test_rows_to_search_are_checked(rows: list[dict[str, Any]], text: str, place: Path) -> None:
    write(place / "f.jsonl", rows)
    with pytest.raises(DataError, match=text.replace(r"\(f\)", r"\(f.jsonl\)")):
        check_early(recipe(retrieval="f.jsonl"))


def test_good_files_pass_and_numbers_are_read(place: Path) -> None:
    pairs = [{"sentence1": "good", "sentence2": "film", "score": n} for n in (-1, 2.5, "4")]
    file = write(place / "pairs.jsonl", pairs)
    assert read_use(SCORED_PAIRS, file)[1] == [-1, 2.5, 4]
    graded = write(place / "graded.jsonl", found([0, 2, 4]))
    assert read_use(RETRIEVAL, graded)[1] == [0, 0.5, 1]
    assert check_early(recipe(scored_pairs=file, retrieval="search.jsonl")) == ()


def test_of_large_files_the_head_is_read_at_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what is to be found may come later."""
    monkeypatch.setattr(checks, "_WHOLE_BYTES", 10)
    write(place / "sorted.jsonl", found([0] * 1200 + [1]))
    asked = recipe(retrieval="sorted.jsonl")
    assert check_early(asked) == ()
    write(place / "sorted.jsonl", found([0] * 1200 + ["x"]))
    assert check_early(asked) == ()
    with pytest.raises(DataError, match=r"row 1201, column 'label': expected a number"):
        run(asked)
