"""What can be refused in seconds, before anything is read for long or written."""

from __future__ import annotations

import json
from pathlib import Path

from hfprune.core.errors import CheckpointError
from hfprune.core.files import check_output_dir
from hfprune.core.ownership import check_apart, require_replaceable
from hfprune.core.tasks import problem_of
from hfprune.data.readers.paths import listed
from hfprune.deploy.exporters.backends import check_backend
from hfprune.families import adapter_for
from hfprune.measure.metrics import load_metrics
from hfprune.models.adapters import check_adapter
from hfprune.models.folders import model_folder
from hfprune.pipeline.context import Context
from hfprune.publish.push import find_token


def check_places(context: Context) -> None:
    """Refuse an output that has no usable name, is not ours, or lies over what is read.

    Changes nothing. Holds for a finished run that is resumed as well.
    """
    recipe, store = context.recipe, context.store
    check_output_dir(store.output, overwrite=True)
    data = recipe.data
    inputs: dict[str, str | None] = {
        "model.name_or_path": recipe.model.name_or_path,
        "model.tokenizer": recipe.model.tokenizer,
        "teacher.name_or_path": recipe.teacher.name_or_path,
        "data.name": data.name,
    }
    check_apart(store.output, inputs, [store.folder, store.spent])
    for key in ("train_file", "validation_file", "test_file"):
        for file in listed(getattr(data, key)):
            check_apart(store.output, {f"data.{key}": file}, [store.folder, store.spent])
    store.check()


def check(context: Context) -> None:
    """Refuse a recipe whose output, exporter, metrics, token or model's family will not do."""
    recipe, store = context.recipe, context.store
    check_output_dir(store.output, recipe.overwrite or (recipe.resume and store.folder.is_dir()))
    if recipe.overwrite or recipe.resume:
        require_replaceable(store.output)
    check_backend()
    load_metrics(recipe.evaluation.metrics, problem_of(recipe.task), 2)
    if recipe.hub.push_to_hub:
        find_token()
    for name in (recipe.model.name_or_path, recipe.teacher.name_or_path):
        if name is not None:
            check_adapter(name)
            _check_family(Path(model_folder(name)) / "config.json")


def _check_family(file: Path) -> None:
    if not file.is_file():
        return
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    adapter_for(str(config.get("model_type")))
