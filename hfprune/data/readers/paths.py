"""What ``data.train_file`` and its kin name: a file, several, or a pattern of names."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Sequence
from pathlib import Path

from hfprune.core.errors import DataError
from hfprune.data.readers.named import saved_kind


def listed(named: str | Sequence[str] | None) -> list[str]:
    """No name, one or several, as a list."""
    return [named] if isinstance(named, str) else list(named or ())


def files_of(split: str, named: str | Sequence[str]) -> list[str]:
    """The files that a recipe names for a split; those of a pattern in the order of their names.

    Raises:
        DataError: A file does not exist, or a pattern fits none.
    """
    found: list[str] = []
    for name in listed(named):
        if any(mark in name for mark in "*?[") and not Path(name).exists():
            matches = sorted(glob.glob(name, recursive=True))
            files = [match for match in matches if Path(match).is_file()]
            if not files:
                raise DataError(
                    f"{split} ({name}): no file fits this pattern (data.{split}_file), looked for "
                    f"from {str(Path().resolve())!r}"
                )
            found += files
        else:
            _check_there(split, name)
            found.append(name)
    return found


def check_once(split: str, files: Sequence[str]) -> None:
    """Refuse a file that is named twice for a split that is learned from or chosen by.

    Raises:
        DataError: One is, under whatever names.
    """
    taken: dict[Path, str] = {}
    for file in files:
        path = Path(file).resolve()
        if path in taken:
            raise DataError(
                f"data.{split}_file names {file!r} twice"
                + ("" if taken[path] == file else f", also as {taken[path]!r}")
                + ": its rows would count twice; name it once"
            )
        taken[path] = file


def _check_there(split: str, file: str) -> None:
    path, where = Path(file), f"{split} ({file})"
    if path.is_file() or saved_kind(path) is not None:
        return
    if path.is_dir():
        inside = next((entry.suffix for entry in sorted(path.iterdir()) if entry.is_file()), ".csv")
        raise DataError(
            f"{where} is a folder (data.{split}_file): name its files, {str(path / '*')!r} with "
            f"an ending such as {inside or '.csv'}, or give it as data.name to let the datasets "
            "library load it"
        )
    raise DataError(f"{where}: there is no such file (data.{split}_file).{nearly(path)}")


def nearly(path: Path) -> str:
    """A question whether a file beside is meant, spelled nearly so; empty where there is none."""
    if not path.parent.is_dir():
        return ""
    beside = sorted(entry.name for entry in path.parent.iterdir())
    matches = difflib.get_close_matches(path.name, beside, n=1)
    return f" Did you mean {str(path.with_name(matches[0]))!r}?" if matches else ""
