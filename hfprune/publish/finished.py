"""A finished run, read from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from hfprune.core.errors import HubError, OutputError, RecipeError
from hfprune.core.results import EXPECTED, METRICS_FILE, RunResults, parse_results, read_json
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.whole import Recipe

CARD_NAME: Final = "README.md"

# As in surgery; not imported, so that a command that only uploads starts at once.
RECORD_KEY: Final = "hfprune"
RESULT_FILES = frozenset({"config.json", METRICS_FILE, "plan.json", "recipe.yaml", CARD_NAME})
NEEDED_BY: Final = "a model card"


class Finished(NamedTuple):
    """What an output directory says about itself."""

    folder: Path
    results: RunResults
    recipe: Recipe
    config: dict[str, Any]


def read(folder: Path) -> Finished:
    """Raises HubError for anything but the output directory of a finished run."""
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".work").is_dir()
        hint = "its run has not finished: run it again with resume=true" if unfinished else EXPECTED
        raise HubError(f"there is no folder {folder}; {hint}")
    members = sorted(path.parent.name for path in folder.glob(f"*/{METRICS_FILE}"))
    if members and not (folder / "config.json").is_file():
        raise HubError(
            f"{folder} holds a family of models, each a repository of its own: give "
            f"{' or '.join(str(folder / name) for name in members)}"
        )
    needed = ("config.json", METRICS_FILE, "recipe.yaml")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise HubError(
            f"{folder} is not the output of a run of hfprune: it holds no "
            f"{' and no '.join(missing)}; {EXPECTED}"
        )
    config, values = (_read_json(folder / name) for name in ("config.json", METRICS_FILE))
    try:
        results = parse_results(values, folder / METRICS_FILE, NEEDED_BY)
    except OutputError as error:
        raise HubError(str(error)) from error
    if RECORD_KEY not in config and not any(kept.stock for kept in results.members.values()):
        raise HubError(
            f"{folder / 'config.json'} has no {RECORD_KEY!r} record, so this model was not shrunk "
            f"by hfprune; {EXPECTED}"
        )
    try:
        recipe = load_recipe(folder / "recipe.yaml")
    except RecipeError as error:
        raise HubError(f"the recipe of the run cannot be read: {error}") from error
    return Finished(folder, results, recipe, config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except OutputError as error:
        raise HubError(str(error)) from error
    if not isinstance(value, dict):
        raise HubError(f"{path} holds no JSON object")
    return value


# Of html_report's figures those that the card shows, by path; and what they show.
FIGURES: Final = {
    "figures/accuracy_latency.png": "The first metric against the time of a batch, all models",
    "figures/layers.png": "Heads and neurons that each layer kept",
}


def member_repo_id(repo_id: str, member: str | None) -> str:
    """The repository of one model of a family (``4x``, say); ``None``: of the only one."""
    return repo_id if member is None else f"{repo_id}-{member}"
