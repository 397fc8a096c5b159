"""``hfprune prune``."""

from __future__ import annotations

from typing import Annotated

import typer

from hfprune.cli.app import (
    AsJson,
    Overrides,
    Quiet,
    RecipeFile,
    app,
    describe_recipe,
    example,
    explained,
    run_recipe,
)


@app.command(
    epilog=example(
        "hfprune prune reviews.yaml pruning.speedup=8",
        "hfprune prune reviews.yaml resume=true",
        "hfprune prune reviews.yaml --dry-run",
    )
)
def prune(
    recipe: RecipeFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan of work.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Carry a recipe out: teacher, pruning, recovery, export, evaluation, timing."""
    with explained("run the same command with resume=true to go on", as_json=as_json):
        from hfprune.recipe.reading import load_recipe

        loaded = load_recipe(recipe, overrides or [])
        if dry_run:
            describe_recipe(loaded, as_json)
            return
        run_recipe(loaded, quiet=quiet, as_json=as_json)
