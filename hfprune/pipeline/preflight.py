"""What can be refused in seconds, before anything is read for long or written."""

from __future__ import annotations

from hfprune.core.files import check_output_dir
from hfprune.core.ownership import check_apart, require_replaceable
from hfprune.core.tasks import problem_of
from hfprune.core.trackers import check_trackers
from hfprune.data.readers.paths import listed
from hfprune.deploy.exporters.backends import check_backend
from hfprune.measure.metrics import load_metrics
from hfprune.models.layout import layout_or_note
from hfprune.models.loading import check_model
from hfprune.pipeline.context import Context
from hfprune.pruning.layout import check_family
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
    check_trackers(recipe.training.report_to)
    for section, name in (
        ("model", recipe.model.name_or_path),
        ("teacher", recipe.teacher.name_or_path),
    ):
        if name is not None:
            kind = check_model(name, f"{section}.name_or_path")
            if kind is not None and recipe.pruning.layout == "uniform":
                check_family(kind)
    _, note = layout_or_note(recipe.model.name_or_path)
    if note is not None:
        context.console.warn(note)
