"""``hfprune recipe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from hfprune.core.errors import RecipeError


@recipes.command(epilog=example("hfprune recipe check reviews.yaml pruning.sparsity=0.9"))
def check(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read a recipe as a run would; print it whole, and what the run will do."""
    with explained("nothing was changed"):
        from hfprune.recipe.reading import load_recipe

        describe_recipe(load_recipe(recipe, overrides or []), as_json)


@recipes.command(epilog=example("hfprune recipe schema > recipe.schema.json"))
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from hfprune.recipe.reading import recipe_schema

    print_json(recipe_schema())


@recipes.command(
    epilog=example(
        "hfprune recipe new reviews.yaml --model microsoft/MiniLM-L12-H384-uncased "
        "--train train.csv --speedup 8"
    )
)
def new(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    model: Annotated[str, typer.Option(help="Pretrained or fine-tuned model: folder or Hub name.")],
    train: Annotated[Path, typer.Option(help="CSV, JSON lines or Parquet file to learn from.")],
    test: Annotated[
        Path | None, typer.Option(help="File to report on; without: a part of the training file.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    speedup: Annotated[float, typer.Option(help="How many times faster it shall get.")] = 6.0,
    as_json: AsJson = False,
) -> None:
    """Write a recipe that prunes to a speed on this machine."""
    with explained("nothing was written"):
        import yaml

        from hfprune.core.files import atomic_write_text
        from hfprune.recipe.reading import load_recipe

        if file.exists():
            raise RecipeError(f"{file} exists; name a file that does not, or remove it")
        data = {"train_file": str(train), "text_column": text_column, "label_column": label_column}
        values: dict[str, Any] = {
            "model": {"name_or_path": model},
            "data": data | ({} if test is None else {"test_file": str(test)}),
            "teacher": {"num_train_epochs": 3, "learning_rate": 5e-5},
            "training": {"group_by_length": True},
            "pruning": {"speedup": speedup, "method": "reconstruction"},
            "distillation": {"augmentation": 1},
            "recovery": {
                "num_train_epochs": 4, "learning_rate": 2e-4, "freeze_embeddings": True,
            },
            "output_dir": f"runs/{file.stem}",
        }  # fmt: skip
        atomic_write_text(file, yaml.safe_dump(values, sort_keys=False))
        try:
            load_recipe(file)
        except RecipeError:
            file.unlink()
            raise
        if as_json:
            print_json({"file": str(file)})
        else:
            say(f"written: {file}; next: hfprune recipe check {file}")
