"""The application, and what its commands share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from hfprune.core.errors import HFPruneError
from hfprune.core.text import visible, visible_json

EXAMPLES = """Examples:

  hfprune recipe new reviews.yaml --model microsoft/MiniLM-L12-H384-uncased --train train.csv

  hfprune recipe check reviews.yaml pruning.speedup=8

  hfprune prune reviews.yaml

  hfprune predict runs/reviews "a moving film"

  hfprune evaluate runs/reviews --data new-reviews.csv

  hfprune benchmark runs/reviews --batch-size 1 --length 32

  hfprune inspect runs/reviews

  hfprune push runs/reviews --repo-id user/reviews

On several GPUs: accelerate launch --multi_gpu scripts/prune.py --recipe reviews.yaml

Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted (Ctrl-C).
Results go to stdout, progress and errors to stderr."""
app = typer.Typer(
    help="Make fine-tuned classifiers really smaller and faster.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes = typer.Typer(help="Write and check recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipes, name="recipe")
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE", help="Replaces values of it.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What a run or save_model wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only errors and results.")]


def example(*lines: str) -> str:
    """The end of a command's ``--help``."""
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])


@contextmanager
def explained(interrupted: str) -> Iterator[None]:
    """Our errors as one line and exit code 1; Ctrl-C as a line that says how to go on."""
    try:
        yield
    except HFPruneError as error:
        say(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except UnicodeEncodeError as error:
        # Paths and labels may hold halves of characters, or what the terminal's encoding has not.
        say(f"error: a text cannot be written: {error}; set PYTHONIOENCODING=utf-8", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo(f"interrupted; {interrupted}", err=True)
        raise typer.Exit(130) from error


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("hfprune"))
        raise typer.Exit


@app.callback()
def _main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def describe_recipe(recipe: Any, as_json: bool) -> None:
    from hfprune.core.trackers import check_trackers
    from hfprune.recipe.reading import dump_recipe
    from hfprune.recipe.workplan import describe

    check_trackers(recipe.training.report_to)
    if as_json:
        print_json({"recipe": recipe.model_dump(mode="json"), "plan": describe(recipe)})
        return
    say(dump_recipe(recipe))
    for number, line in enumerate(describe(recipe), 1):
        say(f"{number}. {line}")


def print_json(value: Any) -> None:
    typer.echo(visible_json(json.dumps(value, indent=2, ensure_ascii=False)))


def say(text: str, *, err: bool = False) -> None:
    """A line of what came from outside, without what a terminal would obey."""
    typer.echo(visible(text), err=err)
