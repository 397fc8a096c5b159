"""``hfprune recipe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hfprune.cli.app import (
    AsJson,
    Overrides,
    RecipeFile,
    describe_recipe,
    example,
    explained,
    print_json,
    recipes,
    say,
)
from hfprune.cli.given import OPTIONS, Given, look_for, with_given
from hfprune.cli.quick import tell, write_recipe
from hfprune.core.errors import RecipeError

# Errors on what was looked at name what was typed.
_WORDS = OPTIONS | {"model.name_or_path": "--model", "data.train_file": "--train"}


@recipes.command(epilog=example("hfprune recipe check reviews.yaml pruning.sparsity=0.9"))
def check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read a recipe as a run would; print it whole, and what the run will do."""
    with explained("nothing was changed", as_json=as_json):
        from hfprune.recipe.reading import load_recipe

        describe_recipe(load_recipe(recipe, overrides or []), as_json)


@recipes.command(epilog=example("hfprune recipe schema > recipe.schema.json"))
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    with explained("nothing was changed"):
        from hfprune.recipe.reading import recipe_schema

        print_json(recipe_schema())


@recipes.command(
    epilog=example(
        "hfprune recipe new reviews.yaml --model microsoft/MiniLM-L12-H384-uncased "
        "--train train.csv --speedup 8"
    )
)
@with_given
def new(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    model: Annotated[str, typer.Option(help="Pretrained or fine-tuned model: folder or Hub name.")],
    train: Annotated[Path, typer.Option(help="CSV, JSON lines or Parquet file to learn from.")],
    given: Given,
    as_json: AsJson = False,
) -> None:
    """Look at a model and a file of rows, and write the recipe that they suggest, commented."""
    with explained("nothing was written", as_json=as_json, words=_WORDS):
        if file.exists():
            raise RecipeError(f"{file} exists; name a file that does not, or remove it")
        looked = look_for(model, train, f"runs/{file.stem}", given)
        if not as_json:
            tell(looked)
        write_recipe(file, looked)
        if as_json:
            print_json({"file": str(file)})
        else:
            say(f"written: {file}; next: hfprune recipe check {file}")
