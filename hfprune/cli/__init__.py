"""The ``hfprune`` command: what ``--help`` tells is in the docstrings and epilogs here.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 an error that was
explained, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

# In the order in which --help lists them; each module adds its command to the application.
from hfprune.cli import benchmark, evaluate, export, inspect, prune, push, recipe, report
from hfprune.cli.app import app

__all__ = [
    "app",
    "benchmark",
    "evaluate",
    "export",
    "inspect",
    "main",
    "prune",
    "push",
    "recipe",
    "report",
]


def main() -> None:
    """What the console command calls."""
    app()
