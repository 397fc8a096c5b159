"""What scripts share: arguments told by their docstring, errors in a line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the script, its lines as they are written."""
    first, _, rest = (document or "").partition("\n")
    return argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def carry_out(
    work: Callable[[argparse.Namespace], int],
    options: argparse.Namespace,
    *,
    again: str = "start again",
) -> int:
    """The exit status of a script: that of ``work``, 1 for what was wrong, 130 for Ctrl-C.

    ``again`` says what to do to go on after that.
    """
    from hfprune.core.errors import HFPruneError

    try:
        return work(options)
    except HFPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {again} to go on", file=sys.stderr)
        return 130


def require_same(file: Path, asked: Mapping[str, Any], *, begun: bool) -> None:
    """Note what results in a folder are of, at the first time; afterwards refuse all else.

    Args:
        file: of the note, which lies among the results.
        asked: JSON values by name.
        begun: whether there are results.

    Raises:
        OutputError: the results there are of something else; names what differs.
    """
    from hfprune.core.errors import OutputError
    from hfprune.core.files import atomic_write_json

    if not (begun and file.is_file()):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(file, dict(asked))
        return
    known = json.loads(file.read_text(encoding="utf-8"))
    differs = [name for name, value in asked.items() if known.get(name) != value]
    if differs:
        told = ", ".join(f"{name} {known.get(name)} (now {asked[name]})" for name in differs)
        raise OutputError(
            f"{file.parent} holds results of another comparison: {told}; ask for the same as "
            "before, or name another folder in --output"
        )


def require_known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that an option cannot take.

    Raises:
        RecipeError: names them, and those that there are.
    """
    from hfprune.core.errors import RecipeError

    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(
            f"{option} names {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(map(repr, known))}"
        )
