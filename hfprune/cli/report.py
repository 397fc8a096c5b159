"""``hfprune report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hfprune.cli.app import AsJson, Folder, app, explained, print_json, say


@app.command()
def report(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write; without: DIR/report.html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the HTML report of a finished run, and its figures as PNG, from metrics.json."""
    with explained("an earlier report may be left", as_json=as_json):
        from hfprune.report.html import write_report

        files, note = write_report(folder, output)
        if note is not None:
            say(note, err=True)
        if as_json:
            print_json({"report": str(files[0]), "figures": [str(file) for file in files[1:]]})
            return
        for file in files:
            say(str(file))
