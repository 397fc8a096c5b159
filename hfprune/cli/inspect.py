"""``hfprune inspect``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hfprune.cli.app import AsJson, app, example, explained, print_json
from hfprune.cli.limits import MOST_TOKENS


@app.command(
    epilog=example(
        "hfprune inspect runs/reviews",
        "hfprune inspect google-bert/bert-base-uncased --json",
    )
)
def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder of save_pretrained, or a Hub name.")
    ],
    sequence_length: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_TOKENS, help="Tokens of the input whose work is counted."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model is made of, what was pruned and what can be."""
    with explained("nothing was changed", as_json=as_json):
        from rich.console import Console as RichConsole

        from hfprune.models.inspection import inspect as look
        from hfprune.models.inspection import tables

        found = look(model, sequence_length=sequence_length)
        if as_json:
            print_json(found.to_dict())
            return
        # Lines of a file are not cut.
        console = RichConsole(highlight=False, width=None if sys.stdout.isatty() else 160)
        for shown in tables(found):
            console.print(shown)
