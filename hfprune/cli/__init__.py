"""The ``hfprune`` command: what ``--help`` tells is in the docstrings and epilogs here.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 an error that was
explained, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from hfprune.cli.app import app
from hfprune.core.waiting import is_waiting

__all__ = ["app", "main"]

# In the order in which --help lists them; each module adds its command to the application.
for _command in (
    "prune", "recipe", "predict", "export", "evaluate", "inspect", "benchmark", "cascade",
    "push", "report",
):  # fmt: skip
    import_module(f"hfprune.cli.{_command}")


def main() -> None:
    """What the console command calls.

    Where a request to the Hub was given up, Python would wait at its end for the threads that are
    still at it; the process then ends without them.
    """
    try:
        app()
    except SystemExit as end:
        if not is_waiting():
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
