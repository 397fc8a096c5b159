"""What a folder says of the model that answers from it, before any of its files is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hfprune.core.kinds import task_of_config
from hfprune.core.tasks import Task
from hfprune.models.configs import load_config
from hfprune.models.cross_encoder import is_cross_encoder, task_in
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.whole import Recipe

RECIPE_FILE: Final = "recipe.yaml"
CONFIG: Final = "config.json"


def recipe_of(folder: Path) -> Recipe | None:
    """The recipe of the run that wrote a folder, if one lies there."""
    file = folder / RECIPE_FILE
    return load_recipe(file) if file.is_file() else None


def folder_with(place: Path, *names: str) -> Path:
    """The folder, or its ``onnx``, whichever holds one of the files first."""
    for folder in (place, place / "onnx"):
        if any((folder / name).is_file() for name in names):
            return folder
    return place


def task_of(place: Path, config: Any) -> Task:
    """What the model predicts, by its recipe or else by its config and folder."""
    recipe = recipe_of(place)
    if recipe is not None:
        return recipe.task
    return task_in(folder_with(place, CONFIG), task_of_config(config))


def reads_pairs(place: Path) -> bool:
    """Whether the model reads two texts together, as far as its folder says."""
    recipe, files = recipe_of(place), folder_with(place, CONFIG)
    if recipe is not None:
        return recipe.data.text_pair_column is not None
    return is_cross_encoder(files) or task_of(place, load_config(files)) == "reranking"


def columns_of(folder: str | Path) -> tuple[str, str | None]:
    """Columns of the text and the second text in files of rows, as the run's recipe has them."""
    place = Path(folder)
    recipe, files = recipe_of(place), folder_with(place, CONFIG)
    if recipe is not None:
        return recipe.data.text_column, recipe.data.text_pair_column
    known = (files / CONFIG).is_file()
    ranks = known and task_of(place, load_config(files)) == "reranking"
    return ("query", "text") if ranks else ("text", None)
