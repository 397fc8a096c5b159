"""Reading small files that came from elsewhere: bounded, and with errors that say what they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import CheckpointError, HFPruneError
from hfprune.core.text import one_line

# A config is a few kilobytes, the index of the largest sharded models some hundred.
MOST_JSON_BYTES: Final = 32 * 2**20
_POINTER: Final = b"version https://git-lfs.github.com/spec/"


def read_json(
    path: str | os.PathLike[str],
    error: type[HFPruneError] = CheckpointError,
    *,
    most: int = MOST_JSON_BYTES,
) -> Any:
    """The content of a JSON file.

    Args:
        path: UTF-8, of at most ``most`` bytes.
        error: the class of the error.

    Raises:
        HFPruneError: of the class ``error``: it is missing, too large, no JSON (nesting that is too
            deep included), or the pointer that git leaves where git-lfs is missing.
    """
    place = Path(path)
    try:
        size = place.stat().st_size
        if size > most:
            raise error(
                f"{place} cannot be read: it has {size:,} bytes, such a file has at most {most:,}"
            )
        if (pointer := pointer_problem(place)) is not None:
            raise error(f"{place} cannot be read: {pointer}")
        return json.loads(place.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise error(f"{place} cannot be read: {problem}; {place.name} is no JSON") from problem
    except RecursionError:
        raise error(f"{place} cannot be read: its values are nested too deeply") from None
    except (OSError, ValueError) as problem:
        raise error(f"{place} cannot be read: {one_line(str(problem), 200)}") from problem


def pointer_problem(path: str | os.PathLike[str]) -> str | None:
    """What to say of a file that git-lfs has not fetched yet; ``None`` where it is none.

    Without git-lfs a clone holds a text of three lines in the place of each large file.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(len(_POINTER))
    except OSError:
        return None
    if begin != _POINTER:
        return None
    return (
        "it is a pointer of git-lfs, not the file itself: run `git lfs pull` in its folder, or "
        "download it from the Hub"
    )
