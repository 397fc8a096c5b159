"""What a folder says of the model that answers from it, before any of its files is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import CheckpointError
from hfprune.core.kinds import IMAGE, kind_of_task, task_of_config
from hfprune.core.reading import read_json
from hfprune.core.tasks import Task
from hfprune.deploy.calling import Example, example_for
from hfprune.deploy.predict.cascade import CASCADE_FILE, read_cascade
from hfprune.models.configs import load_config, longest_input
from hfprune.models.cross_encoder import is_cross_encoder, longest_pair, task_in
from hfprune.models.layout import MODULES, SentenceLayout, layout_or_note, longest_of, prompt_of
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.base import MOST_TOKENS
from hfprune.recipe.sections.whole import Recipe

RECIPE_FILE: Final = "recipe.yaml"
CONFIG: Final = "config.json"
WINDOWS_FILE: Final = "windows.json"
"""Says in a folder without a recipe how long texts are read: ``stride``, as in recipes."""
LONGEST: Final = 512
"""Tokens of a text where neither recipe nor modules, tokenizer or model say how many."""


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


def longest_text(place: Path, config: Any) -> int | None:
    """Tokens, where texts are cut by recipe, model and modules; ``None``: by none of these."""
    recipe, layout = recipe_of(place), _layout_of(place)
    limits = (
        None if recipe is None else recipe.data.max_length,
        longest_input(config),
        longest_pair(folder_with(place, CONFIG)) if layout is None else longest_of(layout),
    )
    return min(filter(None, limits), default=None)


def where_cut(*limits: int | None) -> int:
    """Tokens at which a text is cut: the least that something says, or else :data:`LONGEST`.

    Args:
        limits: ``None``, and the huge numbers of tokenizers that know of no limit, say nothing.

    >>> where_cut(None, 1024, int(1e30)), where_cut(int(1e30))
    (1024, 512)
    """
    known = [limit for limit in limits if limit is not None and limit <= MOST_TOKENS]
    return min(known, default=LONGEST)


def stride_in(place: Path) -> int | None:
    """Tokens that two windows of a long text share; ``None``: it is cut.

    Raises:
        CheckpointError: the folder says it by no number.
    """
    recipe, file = recipe_of(place), place / WINDOWS_FILE
    if recipe is not None or not file.is_file():
        return None if recipe is None else recipe.data.stride
    said = read_json(file)
    stride = said.get("stride") if isinstance(said, dict) else said
    if type(stride) is not int or stride < 0:
        raise CheckpointError(f'{file}: expected {{"stride": tokens from 0}}, got {said!r:.80}')
    return stride


def prompt_before(place: Path) -> str:
    """What stands before each text that is embedded, by the folder's default.

    Raises:
        CheckpointError, UnsupportedModelError: as :func:`~hfprune.models.layout.prompt_of`.
    """
    layout = _layout_of(place)
    return "" if layout is None else prompt_of(layout)


def example_of(place: Path) -> Example:
    """What a folder's model reads, for lines that call it."""
    config = load_config(folder_with(place, CONFIG))
    task = task_of(place, config)
    return example_for(
        task,
        reads_pairs(place),
        prompt_before(place) if task == "sentence_embedding" else "",
        None if kind_of_task(task) is IMAGE else longest_text(place, config),
    )


def _layout_of(place: Path) -> SentenceLayout | None:
    return layout_or_note(folder_with(place, MODULES))[0]


def check_names(file: Path, labels: Sequence[str]) -> None:
    """Refuse labels that answers could not tell apart: one's probability would hide the other's.

    Args:
        file: that names them.
        labels: in the model's order.

    Raises:
        CheckpointError: two have one name.
    """
    places: dict[str, int] = {}
    for place, label in enumerate(labels):
        if (first := places.setdefault(label, place)) != place:
            raise CheckpointError(
                f"{file} names the labels {first} and {place} both {label!r:.80} (id2label): give "
                "each a name of its own, or their probabilities cannot be told apart"
            )


def columns_of(folder: str | Path) -> tuple[str, str | None]:
    """Columns of the text and the second text in files of rows, as the run's recipe has them.

    Of a family with a cascade it is the recipe of its slow member, on whose rows the threshold was
    chosen. Without one they are called as in answers: ``query`` and ``text`` of a reranker, else
    ``text`` and, of a CrossEncoder, ``text_pair``.

    Raises:
        OutputError: ``cascade.json`` is damaged.
    """
    place = Path(folder)
    if (place / CASCADE_FILE).is_file():
        place /= read_cascade(place).slow
    recipe, files = recipe_of(place), folder_with(place, CONFIG)
    if recipe is not None:
        return recipe.data.text_column, recipe.data.text_pair_column
    if not (files / CONFIG).is_file() or not reads_pairs(place):
        return "text", None
    ranks = task_of(place, load_config(files)) == "reranking"
    return ("query", "text") if ranks else ("text", "text_pair")
