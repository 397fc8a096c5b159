"""What scripts share: arguments told by their docstring, errors in a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable


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
