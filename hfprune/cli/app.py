"""The application, and what its commands share."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hfprune.cli.completion import complete_word
from hfprune.core.errors import HFPruneError
from hfprune.core.text import visible, visible_json

EXAMPLES = """Examples:

  hfprune quick my-model tickets.csv --speedup 6

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
# Under which a context keeps what was typed.
_WORDS = "hfprune.words"


class _Group(TyperGroup):
    """Wrong usage is JSON too, where JSON was asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # By its name, as typer brings its own copy of click, and older ones do not.
            names = [kind.__name__ for kind in type(error).__mro__]
            if "UsageError" in names and "--json" in ctx.meta[_WORDS]:
                text = error.format_message()  # type: ignore[attr-defined]  # of a UsageError
                print_json({"error": {"type": "UsageError", "message": text}})
            raise


app = typer.Typer(
    cls=_Group,
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
    list[str] | None,
    typer.Argument(
        metavar="KEY.PATH=VALUE", help="Replaces values of it.", autocompletion=complete_word
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What a run or save_model wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only errors and results.")]


def example(*lines: str) -> str:
    """The end of a command's ``--help``."""
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])


@contextmanager
def explained(
    interrupted: str, *, as_json: bool = False, words: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Our errors as one line and exit code 1; Ctrl-C as a line that says how to go on.

    Who reads a part of the output and closes the pipe (``| head``) has what was wanted: that is no
    failure.

    Args:
        interrupted: what to say after Ctrl-C.
        as_json: whether the command was asked for JSON; then an error is JSON on stdout as well,
            besides its line on stderr.
        words: keys of recipes, and what the command calls them, for errors of commands that read
            no recipe.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        raise typer.Exit(0) from None
    except HFPruneError as error:
        text = in_words(str(error), words or {})
        say(f"error: {text}", err=True)
        if as_json:
            print_json({"error": {"type": type(error).__name__, "message": text}})
        raise typer.Exit(1) from error
    except UnicodeEncodeError as error:
        # Paths and labels may hold halves of characters, or what the terminal's encoding has not.
        say(f"error: a text cannot be written: {error}; set PYTHONIOENCODING=utf-8", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo(f"interrupted; {interrupted}", err=True)
        if as_json:
            print_json({"error": {"type": "KeyboardInterrupt", "message": interrupted}})
        raise typer.Exit(130) from error


def in_words(text: str, words: Mapping[str, str]) -> str:
    """A text with keys of recipes replaced, longest first; ``data.text_column:`` loses its colon.

    >>> in_words("set data.max_length to 64 or less", {"data.max_length": "--max-length"})
    'set --max-length to 64 or less'
    """
    for key in sorted(words, key=len, reverse=True):
        pattern = rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)(: (?=[\w'\"]))?"
        found = re.split(pattern, text)
        # Parts, and between them the colon or nothing.
        text = found[0] + "".join(
            words[key] + (" " if colon else "") + part
            for colon, part in zip(found[1::2], found[2::2], strict=True)
        )
    return text


def _close_stdout() -> None:
    """Nobody reads any more: what is left in the buffer must not be written when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    """The recipe whole, what a run will do, and what was found in the files that it names."""
    from hfprune.early.checks import check_early
    from hfprune.early.cost import cost_of
    from hfprune.recipe.reading import dump_recipe
    from hfprune.recipe.workplan import describe

    notes, cost = check_early(recipe), cost_of(recipe)
    if as_json:
        print_json(
            {
                "recipe": recipe.model_dump(mode="json"),
                "plan": describe(recipe),
                "notes": list(notes),
                "cost": None if cost is None else cost.to_dict(),
            }
        )
        return
    say(dump_recipe(recipe))
    for number, line in enumerate(describe(recipe), 1):
        say(f"{number}. {line}")
    if cost is not None:
        say(f"It may take {cost.in_words()} (a guess from sizes).")
    for note in notes:
        say(f"note: {note}", err=True)


def run_recipe(recipe: Any, *, quiet: bool, as_json: bool) -> None:
    """Carry a recipe out, after the checks that take no time."""
    from hfprune.early.checks import check_early

    check_early(recipe)
    from hfprune.core.processes import leave_processes
    from hfprune.pipeline import run
    from hfprune.report.console import Console

    try:
        results = run(recipe, Console(quiet=quiet or as_json))
    finally:
        leave_processes()
    if as_json and results is not None:
        print_json(results)


def print_json(value: Any) -> None:
    typer.echo(visible_json(json.dumps(value, indent=2, ensure_ascii=False)))


def say(text: str, *, err: bool = False) -> None:
    """A line of what came from outside, without what a terminal would obey."""
    typer.echo(visible(text), err=err)
