"""``hfprune push``."""

from __future__ import annotations

from typing import Annotated

import typer

from hfprune.cli.app import AsJson, Folder, Quiet, app, example, explained, print_json, say


@app.command(epilog=example("hfprune push runs/reviews --repo-id user/reviews --private"))
def push(
    folder: Folder,
    repo_id: Annotated[str, typer.Option(metavar="USER/NAME", help="Made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="To a private repository only.")] = (
        False
    ),
    revision: Annotated[str | None, typer.Option(help="Branch, made if it is not there.")] = None,
    timeout: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds to wait for an answer of the Hub.")
    ] = 60.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Upload a finished run to the Hub, with a model card made from its measurements."""
    with explained("nothing here was changed, run the same command again", as_json=as_json):
        from hfprune.publish.push import push as upload

        silent = quiet or as_json
        url = upload(
            folder,
            repo_id,
            private=private,
            revision=revision,
            timeout=timeout,
            note=None if silent else lambda text: say(text, err=True),
        )
        if as_json:
            print_json({"url": url})
        else:
            say(url)
