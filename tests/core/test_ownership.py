"""What hfprune may delete: its own, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hfprune.core.errors import OutputError
from hfprune.core.ownership import (
    MARKER,
    MOST_NAME,
    ROOM,
    check_apart,
    check_name,
    foreign_files,
    is_marked,
    make_marked,
    remove_marked,
    require_ours,
    require_replaceable,
)

RESULTS = json.dumps({"format_version": 1, "recipe_sha256": "0"})


def test_only_marked_folders_are_removed(tmp_path: Path) -> None:
    make_marked(tmp_path / "ours", output="out")
    (tmp_path / "ours" / "deep").mkdir()
    (tmp_path / "ours" / "deep" / "file").touch()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    assert is_marked(tmp_path / "ours")
    assert not is_marked(tmp_path / "link"), "a link is somebody's own"
    for name in ("theirs", "link", "missing"):
        remove_marked(tmp_path / name)
    assert (tmp_path / "theirs" / "thesis.tex").is_file()
    assert (tmp_path / "ours" / "deep" / "file").is_file()
    remove_marked(tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"made_by": "somebody"}'])
def test_a_marker_of_another_kind_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / MARKER).write_text(content)
    assert not is_marked(tmp_path)
    with pytest.raises(OutputError, match="was not made by this version of hfprune"):
        require_ours(tmp_path, "the work of a run")


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").touch()
    make_marked(tmp_path / "ours")
    (tmp_path / "ours" / "data").symlink_to(tmp_path / "data")
    remove_marked(tmp_path / "ours")
    assert (tmp_path / "data" / "rows.csv").is_file()


def test_an_output_is_replaced_only_if_all_of_it_is_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    require_replaceable(out)
    out.mkdir()
    require_replaceable(out)
    (out / "thesis.tex").touch()
    with pytest.raises(OutputError, match="holds no results of hfprune"):
        require_replaceable(out)
    (out / "metrics.json").write_text(RESULTS)
    with pytest.raises(OutputError, match=r"hfprune did not write \(thesis\.tex\)"):
        require_replaceable(out)
    (out / "thesis.tex").unlink()
    for name in (
        "model.safetensors", "onnx/model.onnx", "figures/a.png", "tokenizer.json",
        "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
        "1_Pooling/config.json", "2_Dense/model.safetensors", "onnx/1_Pooling/config.json",
    ):  # fmt: skip
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()
    require_replaceable(out)
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").touch()
    with pytest.raises(OutputError, match=r"\(\.git\)"):
        require_replaceable(out)


def test_members_of_a_family_are_ours_and_their_neighbours_not(tmp_path: Path) -> None:
    for place in ("", "2x", "5x"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "metrics.json").write_text(RESULTS)
    (tmp_path / "2x" / "onnx").mkdir()
    (tmp_path / "2x" / "onnx" / "model.onnx").touch()
    assert foreign_files(tmp_path) == []
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").touch()
    (tmp_path / "5x" / "mine.txt").touch()
    assert foreign_files(tmp_path) == ["5x/mine.txt", "notes/config.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no folder of its own"),
        (".", "no folder of its own"),
        ("..", "no folder of its own"),
        ("/", "no folder of its own"),
        ("a" * 252, f"has a name of 252 bytes; .* at most {MOST_NAME - ROOM} can"),
        ("\u00e9" * 120, "has a name of 240 bytes"),
    ],
)
def test_names_that_will_not_do(name: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        check_name(Path(name))


def test_inputs_are_compared_by_real_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "rows.csv").touch()
    (tmp_path / "link").symlink_to(tmp_path / "m")
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "rows.csv").touch()
    for output, value in (
        (tmp_path / "m", "m"),
        (Path("link"), "m"),
        (Path("m"), str(tmp_path / "link")),
        (Path("m"), "m/rows.csv"),
        (Path("m"), "./link/rows.csv"),
    ):
        with pytest.raises(OutputError, match=f"key '{value}' lies in '{tmp_path / 'm'}'"):
            check_apart(output, {"key": value}, [])
    with pytest.raises(OutputError, match="lies in .*out.work"):
        check_apart(Path("out"), {"key": "out.work/rows.csv"}, [Path("out.work")])
    check_apart(Path("out"), {"key": "m", "other": None, "hub": "user/name"}, [Path("out.work2")])
    check_apart(Path("m/out"), {"key": "m"}, [])
