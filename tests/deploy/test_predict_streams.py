"""Files and streams of ``hfprune predict``: bytes that are no text, closed pipes, columns."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_tiny_classifier, tiny_tokenizer
from typer.testing import CliRunner

import hfprune.cli
from hfprune.cli.predict import _streamed
from hfprune.core.errors import DataError
from hfprune.deploy.predict.answers import answer, as_line
from hfprune.deploy.predict.rows import Row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("out") / "out"
    save_tiny_classifier("bert", place)
    tiny_tokenizer().save_pretrained(place)
    return place


def call(*arguments: str, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(hfprune.cli.app, ["predict", *arguments], input=stdin)


def said(result: Any) -> str:
    return result.output + (result.stderr if "stderr" not in result.output else "")


def test_what_fails_behind_the_rows_is_not_the_files_fault(tmp_path: Path) -> None:
    """Nobody reads on (`| head`): that is an OSError too, and no reason to save it in UTF-8."""
    file = tmp_path / "rows.txt"
    file.write_text("one\ntwo\n")

    def until_nobody_reads() -> None:
        with _streamed(str(file), "text", None) as rows:
            assert next(iter(rows)) == Row("one")
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        until_nobody_reads()


def test_who_closes_the_pipe_has_what_was_wanted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("good\nbad\n")

    def closed(text: str, **more: Any) -> None:
        if "err" not in more:
            raise BrokenPipeError

    monkeypatch.setattr("hfprune.cli.predict.say", closed)
    # By its module: the package names its application so as well.
    monkeypatch.setattr(import_module("hfprune.cli.app"), "_close_stdout", lambda: None)
    done = call(str(folder), str(file))
    assert (done.exit_code, done.exception) == (0, None)


@pytest.mark.parametrize("name", ["standard input", "rows.txt", "rows.csv", "rows.jsonl"])
def test_bytes_that_are_no_text(folder: Path, tmp_path: Path, name: str) -> None:
    content = b"text\ngood\n\xff\xa8 bad\n" if name.endswith("csv") else b'"good"\n"\xff\xa8"\n'
    if name == "standard input":
        failed = call(str(folder), "-", stdin=content)
    else:
        (tmp_path / name).write_bytes(content)
        failed = call(str(folder), str(tmp_path / name))
    assert failed.exit_code == 1, failed.exception
    told = " ".join(said(failed).split())
    assert f"{name} cannot be read: 'utf-8' codec can't decode byte 0xff" in told
    assert "save it in UTF-8" in told


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"cannot be read: .*look at its permissions"),
        _streamed(str(tmp_path), "text", None),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["good", "--column", "a"], "--column is for files of rows, and 'good' is read as a text"),
        (["good", "--pair-column", "a"], "--pair-column is for files of rows, and 'good' is"),
        (["-", "--column", "a"], "--column a is for files with columns (.csv, .tsv, .jsonl,"),
    ],
)
def test_a_column_where_there_are_none_is_refused(
    folder: Path, arguments: list[str], message: str
) -> None:
    failed = call(str(folder), *arguments, stdin=b"good\n")
    assert failed.exit_code == 1
    assert message in " ".join(said(failed).split())


def test_a_label_with_a_line_break_makes_no_second_answer() -> None:
    told = answer(np.array([1.0, 0.0]), "single_label_classification", ["a\ngood 1.000  x", "b"])
    assert as_line({"text": "one\ntwo", **told}) == "a good 1.000  x 0.731  one two"


def test_two_texts_a_line_are_asked_for_by_a_second_column(folder: Path) -> None:
    done = call(str(folder), "-", "--pair-column", "other", "--json", stdin=b"good\tbad\n")
    assert done.exit_code == 0, said(done)
    assert '"text_pair": "bad"' in done.stdout
