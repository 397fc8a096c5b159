"""``hfprune cascade``."""

from __future__ import annotations

from typing import Annotated

import typer

from hfprune.cli.app import AsJson, Folder, Quiet, app, example, explained, print_json, say
from hfprune.cli.limits import CASCADE_DROP, MOST_THREADS


@app.command(
    epilog=example("hfprune cascade runs/family", "hfprune cascade runs/family --max-drop 0.005")
)
def cascade(
    folder: Folder,
    fast: Annotated[
        str | None, typer.Option(help="Member that is asked first, such as 8x; the last one.")
    ] = None,
    slow: Annotated[
        str | None, typer.Option(help="Member that is asked when it is unsure; the first one.")
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="What of the slow member's first metric it may cost, as expected.",
        ),
    ] = CASCADE_DROP,
    at_least: Annotated[
        float | None,
        typer.Option(
            help="What that metric is to reach on the validation rows, in place of --max-drop."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="Of one text.")] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Let the fast member of a family answer when it is sure, and a slow one else.

    The threshold is chosen on the validation rows of the recipe, by what the slow member's
    probabilities expect; what comes of it is measured on the test rows, one text at a time, and
    written to cascade.json, which `hfprune predict` serves.
    """
    with explained("nothing was changed, run the same command again", as_json=as_json):
        from hfprune.deploy.predict.cascading import make_cascade
        from hfprune.report.console import Console

        with Console(quiet=quiet or as_json).progress("cascade") as progress:
            found = make_cascade(
                folder,
                fast=fast,
                slow=slow,
                max_drop=max_drop,
                at_least=at_least,
                threads=threads,
                progress=progress,
            )
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        beside = found.dense
        say(f"{found.fast} if its probability is {found.threshold:.3f} or more, else {found.slow}")
        for name, row in found.measured.items():
            low, high = row.interval
            say(
                f"{name:8} {found.metric} {row.metric:.4f} ({low:.3f} to {high:.3f})  mean "
                f"{row.mean_ms:.2f} ms, p95 {row.p95_ms:.2f} ms, slow for {row.slow_share:.1%}"
                + ("" if beside is None else f", {beside.speedup[name]:.1f}x over dense")
            )
        if beside is not None:
            low, high = beside.interval
            say(f"{'dense':8} {found.metric} {beside.metric:.4f} ({low:.3f} to {high:.3f})")
        say(f"next: hfprune report {folder}")
