"""``hfprune quick``: from a model and a file to a result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfprune.cli.app import AsJson, Quiet, app, example, explained, print_json, run_recipe, say
from hfprune.cli.given import OPTIONS, Given, look_for, with_given
from hfprune.core.errors import RecipeError

if TYPE_CHECKING:
    from hfprune.early.quick import Looked

# Errors on what was looked at name what was typed.
_WORDS = OPTIONS | {"model.name_or_path": "MODEL", "data.train_file": "FILE"}


def tell(looked: Looked) -> None:
    """What was assumed, the labels, how long it may take; to stderr, as results go to stdout."""
    from hfprune.early.checks import label_counts
    from hfprune.early.duration import in_words

    for line in looked.proposal.said:
        say(f"  {line}", err=True)
    if looked.rows.labels:
        counts = label_counts(looked.rows.labels)
        say(f"  {len(looked.rows.labels)} labels: {counts}", err=True)
    say(
        f"  it may take {in_words(looked.proposal.seconds)} on these CPUs (guessed from sizes; the "
        "run itself tells what is left); with a GPU the trainings are shorter",
        err=True,
    )


def write_recipe(file: Path, looked: Looked) -> Any:
    """Write the proposed recipe, and return it read; nothing is left of one that cannot be used.

    Raises:
        HFPruneError: it cannot be used, or cannot be written.
    """
    from hfprune.cli.app import in_words
    from hfprune.core.files import atomic_write_text
    from hfprune.early.checks import check_early
    from hfprune.early.writing import recipe_text
    from hfprune.recipe.reading import load_recipe, parse_recipe

    text = recipe_text(looked.proposal)
    try:
        recipe = parse_recipe(text, source="the options")
    except RecipeError as error:
        # Lines of a file that is not there yet would lead nowhere.
        raise RecipeError(re.sub(r"^(the options), line \d+: ", "", str(error))) from error
    for note in check_early(recipe):
        if note not in looked.proposal.said:
            say(f"  note: {in_words(note, OPTIONS)}", err=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, text)
    return load_recipe(file)


@app.command(
    epilog=example(
        "hfprune quick my-fine-tuned-model tickets.csv",
        "hfprune quick microsoft/MiniLM-L12-H384-uncased tickets.csv --speedup 8",
        "hfprune quick my-model tickets.csv --label-column topic --max-drop 0.01",
    )
)
@with_given
def quick(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Pretrained or fine-tuned model: folder or Hub name."),
    ],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Rows to learn from: CSV, TSV, JSON Lines, Parquet."),
    ],
    given: Given,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the result; without: runs/ and FILE's name.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the recipe, and stop before the run.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune a model for the rows of a file: looks at both, writes a recipe, and runs it.

    The recipe lies beside the result, as OUTPUT.yaml. A fine-tuned model whose labels are those of
    the file becomes the teacher by itself.
    """
    place = output or Path("runs") / _stem(file)
    written = place.with_name(f"{place.name}.yaml")
    go_on = f"go on with: hfprune prune {written} resume=true"
    with explained("nothing was written", as_json=as_json, words=_WORDS):
        looked = look_for(model, file, str(place), given)
        if not (quiet or as_json):
            tell(looked)
        _check_free(written, looked)
        recipe = write_recipe(written, looked)
        if dry_run:
            if as_json:
                print_json({"file": str(written)})
            else:
                say(f"written: {written}; next: hfprune prune {written}")
            return
    with explained(go_on, as_json=as_json):
        if not (quiet or as_json):
            say(f"recipe: {written}", err=True)
        run_recipe(recipe, quiet=quiet, as_json=as_json)


def _check_free(file: Path, looked: Looked) -> None:
    """Refuse to write over a recipe that says something else."""
    from hfprune.early.writing import recipe_text

    if not file.exists():
        return
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace") == recipe_text(
        looked.proposal
    ):
        return
    raise RecipeError(
        f"{file} is there already and says something else: run it (hfprune prune {file}), remove "
        "it, or name another folder with --output"
    )


def _stem(file: Path) -> str:
    """A file's name without its endings: ``tickets`` of ``tickets.csv.gz``."""
    return file.name.partition(".")[0] or "rows"
