"""Writing whole or not at all: what is on the disk after success, failure and in between."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfprune.core.errors import HFPruneError, OutputError
from hfprune.core.files import (
    atomic_directory,
    atomic_write_json,
    atomic_write_text,
    check_output_dir,
    sha256_file,
)


def fail(code: int) -> Any:
    def raise_it(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return raise_it


def write_and(action: Callable[[], object], target: Path, overwrite: bool = False) -> None:
    """Write a file ``new`` that holds 2, then do something, inside one atomic block."""
    with atomic_directory(target, overwrite) as folder:
        (folder / "new").write_text("2")
        action()


def tree(folder: Path) -> dict[str, str]:
    """Every file below ``folder``, hidden ones included, with its text."""
    return {
        str(file.relative_to(folder)): file.read_text(encoding="utf-8")
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# ---------------------------------------------------------------------------------------- files


def test_text_is_written_as_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.txt"
    atomic_write_text(file, "old, and longer")
    atomic_write_text(file, "n\u00e9w\n")
    assert file.read_bytes() == b"n\xc3\xa9w\n"
    assert tree(tmp_path) == {"new/folder/a.txt": "n\u00e9w\n"}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    atomic_write_text(tmp_path / "atomic", "x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run again"),
        (errno.EACCES, "no permission (Permission denied)"),
        (errno.EROFS, "no permission (Read-only file system)"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failed_write_keeps_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int, why: str
) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    monkeypatch.setattr(os, function, fail(code))
    with pytest.raises(OutputError) as caught:
        atomic_write_text(file, "new")
    monkeypatch.undo()
    assert tree(tmp_path) == {"a.json": "old"}
    assert str(caught.value).startswith(f"cannot write {str(file)!r}: {why}")
    assert str(caught.value).endswith("; the file already there is unchanged")


def test_an_interrupt_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_text(tmp_path / "a", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder, not a file"):
        atomic_write_text(tmp_path, "x")


def test_json_reads_back(tmp_path: Path) -> None:
    value = {"name": "caf\u00e9", "numbers": [1, 2.5, None, True]}
    atomic_write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert "caf\u00e9" in text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "Out of range float values are not JSON compliant"),
        ({"a": {1, 2}}, "Object of type set is not JSON serializable"),
        ("\ud800", "cannot be encoded as UTF-8"),
    ],
)
def test_what_is_not_json_is_refused_before_anything_is_written(
    tmp_path: Path, value: object, why: str
) -> None:
    with pytest.raises(OutputError, match=why):
        atomic_write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_that_of_the_standard_vectors(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_file(file) == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(OutputError, match=r"cannot read '.*missing': No such file or directory"):
        sha256_file(tmp_path / "missing")


# -------------------------------------------------------------------------------------- folders


def test_a_folder_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "demo"
    with atomic_directory(target) as folder:
        assert folder.parent == target.parent
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    assert tree(tmp_path) == {"runs/demo/sub/a": "1"}


def test_an_exception_removes_what_was_written(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(ZeroDivisionError):
        write_and(lambda: 1 / 0, target, overwrite=True)
    assert tree(tmp_path) == {"demo/old": "1"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_a_full_folder_is_refused_before_the_block_runs(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    ran = []
    with pytest.raises(OutputError) as caught, atomic_directory(tmp_path):
        ran.append(1)
    assert str(caught.value) == (
        f"{str(tmp_path)!r} is not empty: choose another output folder, or set overwrite to true "
        "to replace it"
    )
    assert isinstance(caught.value, HFPruneError)
    assert not ran


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
    assert tree(tmp_path) == {"demo/a": "1"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    (target / "old").write_text("1")
    with atomic_directory(target, overwrite=True) as folder:
        (folder / "new").write_text("2")
        assert tree(target) == {"old": "1"}
    assert tree(tmp_path) == {"demo/new": "2"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_a_failed_move_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    (target / "old").write_text("1")
    rename = os.rename

    def fail_into_place(source: Path, place: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, place)

    monkeypatch.setattr(os, "rename", fail_into_place)
    with pytest.raises(OutputError) as caught, atomic_directory(target, overwrite=True) as folder:
        (folder / "new").write_text("2")
    assert tree(target) == {"old": "1"}
    assert tree(folder) == {"new": "2"}
    assert f"{str(target)!r} is unchanged" in str(caught.value)
    assert f"the finished output is kept in {str(folder)!r}" in str(caught.value)


def test_a_target_filled_meanwhile_is_not_touched_and_the_work_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "demo"

    def intrude() -> None:
        target.mkdir()
        (target / "theirs").write_text("1")

    with pytest.raises(OutputError) as caught:
        write_and(intrude, target)
    assert tree(target) == {"theirs": "1"}
    (kept,) = tmp_path.glob(".demo.*.tmp")
    assert tree(kept) == {"new": "2"}
    assert str(caught.value) == (
        f"{str(target)!r} was filled by something else meanwhile; the finished output is kept in "
        f"{str(kept)!r}: move it to a free name"
    )


def test_a_full_disk_inside_the_block_says_what_was_kept(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(OutputError) as caught, atomic_directory(target, overwrite=True):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == (
        f"cannot write {str(target)!r}: the disk is full; free some space and run again; "
        f"{str(target)!r} is unchanged"
    )
    assert tree(tmp_path) == {"demo/old": "1"}


def test_an_old_folder_that_cannot_be_deleted_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    (target / "old").write_text("1")
    monkeypatch.setattr(shutil, "rmtree", fail(errno.EBUSY))
    with pytest.warns(UserWarning, match=r"is left in '.*\.old' \(Device or resource busy\)"):
        write_and(lambda: None, target, overwrite=True)
    assert tree(target) == {"new": "2"}


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_process_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    (target / "old").write_text("1")
    code = (
        "import os, signal, sys\n"
        "from hfprune.core.files import atomic_directory\n"
        "with atomic_directory(sys.argv[1], overwrite=True) as folder:\n"
        "    (folder / 'new').write_text('2')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=root, check=False)
    assert done.returncode == -9
    assert tree(target) == {"old": "1"}


def test_the_early_check_changes_nothing(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "a" / "b", overwrite=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("1")
    check_output_dir(tmp_path / "full", overwrite=True)
    assert tree(tmp_path) == {"full/x": "1"}
    assert not (tmp_path / "a").exists()


def test_the_early_check_refuses_what_would_fail_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    with pytest.raises(OutputError, match="a file has that name"):
        check_output_dir(file, overwrite=True)
    with pytest.raises(OutputError, match="is a file, not a folder"):
        check_output_dir(file / "below", overwrite=False)
    with pytest.raises(OutputError, match="has no name"):
        check_output_dir("", overwrite=False)
    with pytest.raises(OutputError, match="is not a usable path: embedded null byte"):
        check_output_dir("a\0b", overwrite=False)
    # Root may write anywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match=f"no permission to write in '{tmp_path}'"):
        check_output_dir(tmp_path / "new", overwrite=False)


@pytest.mark.parametrize("where", [".", "..", "home"])
def test_precious_folders_are_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "x").write_text("1")
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    (tmp_path / "home" / "me").mkdir(parents=True)
    place = str(tmp_path / "home") if where == "home" else where
    with pytest.raises(OutputError, match="will not be overwritten"):
        check_output_dir(place, overwrite=True)
