"""Files that a script generates and the repository keeps: written, or compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hfprune.core.files import atomic_write_text

ROOT = Path(__file__).resolve().parent.parent


def keep(texts: Mapping[Path, str], *, check: bool, remark: str) -> int:
    """Write the files whose text is another now, each whole or not at all; or only name them.

    Args:
        texts: what each file, somewhere in the repository, shall hold.
        check: write nothing.
        remark: follows the name of a stale file: what it is not, and what to run.

    Returns:
        Exit code: 1 if something was only named.
    """
    stale = False
    for path, text in texts.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        shown = path.relative_to(ROOT)
        if check:
            print(f"{shown} {remark}")
            stale = True
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, text)
            print(f"wrote {shown}")
    return int(stale)
