"""A recipe as it may be published: no path of this machine, no secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePath

from hfprune.recipe.sections.hub import HubConfig, repo_id_problem
from hfprune.recipe.sections.whole import Recipe

# Ours, but not published: they quote test rows, or show what metrics.json and the card say.
KEPT_HERE = re.compile(r"details\.json|report\.html|figures/[\w-]+\.png")


def hub_name(name: str | None) -> str | None:
    """The name if it is one on the Hub; ``None`` for a local file or folder.

    Looks where transformers and datasets look: what exists here, relative to the working
    directory, is local. So this is to be asked when and where the run reads it.
    """
    if name is None or os.path.exists(name):
        return None
    return name if not repo_id_problem(name if "/" in name else f"owner/{name}") else None


def sources(recipe: Recipe) -> dict[str, str | None]:
    """Where a run's inputs come from, for ``metrics.json``: a Hub name each, ``None`` if local."""
    return {
        "model": hub_name(recipe.model.name_or_path),
        "tokenizer": hub_name(recipe.model.tokenizer),
        "teacher": hub_name(recipe.teacher.name_or_path),
        "dataset": hub_name(recipe.data.name),
    }


def public_recipe(recipe: Recipe, names: Mapping[str, str | None]) -> Recipe:
    """The recipe as it may be published: no local path, and it publishes nothing itself.

    Args:
        recipe: what was run.
        names: what :func:`sources` said when it was run.
    """

    def shown(value: str | list[str] | None, name: str | None, otherwise: str) -> str | None:
        return None if value is None else name or otherwise

    model, data = recipe.model, recipe.data
    return recipe.model_copy(
        update={
            "model": model.model_copy(
                update={
                    "name_or_path": shown(model.name_or_path, names.get("model"), "a local model"),
                    "tokenizer": shown(
                        model.tokenizer, names.get("tokenizer"), "a local tokenizer"
                    ),
                }
            ),
            "teacher": recipe.teacher.model_copy(
                update={
                    "name_or_path": shown(
                        recipe.teacher.name_or_path, names.get("teacher"), "a local teacher"
                    )
                }
            ),
            "data": data.model_copy(
                update={
                    "name": shown(data.name, names.get("dataset"), "local files"),
                    "train_file": shown(data.train_file, None, "local files (train)"),
                    "validation_file": shown(
                        data.validation_file, None, "local files (validation)"
                    ),
                    "test_file": shown(data.test_file, None, "local files (test)"),
                    "unlabeled_file": shown(data.unlabeled_file, None, "local files (unlabeled)"),
                }
            ),
            "hub": HubConfig(),
            "output_dir": f"runs/{title_of(recipe)}",
            "overwrite": False,
            "resume": False,
        }
    )


def title_of(recipe: Recipe) -> str:
    if recipe.hub.hub_model_id is not None:
        return recipe.hub.hub_model_id.split("/")[-1]
    return PurePath(recipe.output_dir).name or "model"
