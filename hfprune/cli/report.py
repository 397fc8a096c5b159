"""``hfprune report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hfprune.cli.app import AsJson, app, example, explained, print_json, say


@app.command(
    epilog=example(
        "hfprune report runs/reviews", "hfprune report runs/first runs/second runs/third"
    )
)
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="What runs wrote; several are compared on one page."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; without: DIR/report.html, of several ./comparison.html."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the HTML report of a finished run with its figures as PNG, or compare several runs."""
    with explained("an earlier report may be left", as_json=as_json):
        if len(folders) > 1:
            from hfprune.report.compare import write_comparison

            file = write_comparison(folders, output)
            if as_json:
                print_json({"report": str(file), "figures": []})
            else:
                say(str(file))
            return
        from hfprune.report.html import write_report

        files, note = write_report(folders[0], output)
        if note is not None:
            say(note, err=True)
        if as_json:
            print_json({"report": str(files[0]), "figures": [str(file) for file in files[1:]]})
            return
        for file in files:
            say(str(file))
