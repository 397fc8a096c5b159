"""What can be refused in seconds, before anything is read for long or written."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path

from hfprune.core.errors import TrainingError
from hfprune.core.exchange import from_everyone, from_main
from hfprune.core.files import check_output_dir
from hfprune.core.ownership import check_apart, require_replaceable
from hfprune.core.processes import processes
from hfprune.core.tasks import problem_of
from hfprune.core.trackers import check_trackers
from hfprune.data.readers.paths import listed
from hfprune.deploy.exporters.backends import check_backend
from hfprune.early.checks import check_target, reading_notes
from hfprune.early.model import look_at
from hfprune.measure.metrics import load_metrics
from hfprune.models.layout import layout_or_note
from hfprune.models.loading import check_model
from hfprune.pipeline.context import Context
from hfprune.pipeline.stages.embeddings import dense_of
from hfprune.pruning.layout import check_family
from hfprune.publish.push import find_token
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.training.checks import NO_SHARDED_GATES
from hfprune.training.sharding import asked_for_fsdp, why_not

# Disks that machines share may show a new file late.
SECONDS_TO_APPEAR = 30.0


def require_shared(folder: Path) -> None:
    """Refuse processes that do not all see the work folder, where the stages' results lie.

    Every process of a run calls it, once the main process has made the folder.

    Raises:
        TrainingError: in all processes, naming the machines that do not see it.
    """
    state = processes()
    if state.num_processes == 1:
        return
    sign = folder / f".seen-{secrets.token_hex(8)}"
    if state.is_main_process:
        sign.touch()
    sign = folder / from_main(sign.name)
    end = time.monotonic() + SECONDS_TO_APPEAR
    while not (seen := sign.exists()) and time.monotonic() < end:
        time.sleep(0.2)
    answers = from_everyone([socket.gethostname(), seen])
    if state.is_main_process:
        sign.unlink(missing_ok=True)
    blind = [f"{host} (process {rank})" for rank, (host, sees) in enumerate(answers) if not sees]
    if blind:
        raise TrainingError(
            f"{', '.join(blind)} cannot see {folder}, which the main process on {answers[0][0]} "
            "works in: output_dir must lie on a disk that all machines of a run share, under the "
            "same path"
        )


def check_places(context: Context) -> None:
    """Refuse an output that has no usable name, is not ours, or lies over what is read.

    Changes nothing. Holds for a finished run that is resumed as well.
    """
    recipe, store = context.recipe, context.store
    check_output_dir(store.output, overwrite=True)
    data = recipe.data
    others = recipe.teacher.learn_from
    inputs: dict[str, str | None] = {
        **{f"teacher.learn_from, number {n}": name for n, name in enumerate(others, 1)},
        "model.name_or_path": recipe.model.name_or_path,
        "model.tokenizer": recipe.model.tokenizer,
        "teacher.name_or_path": recipe.teacher.name_or_path,
        "data.name": data.name,
    }
    check_apart(store.output, inputs, [store.folder, store.spent])
    for key in ("train_file", "validation_file", "test_file", "unlabeled_file"):
        for file in listed(getattr(data, key)):
            check_apart(store.output, {f"data.{key}": file}, [store.folder, store.spent])
    store.check()


def check_sharding(pruning: PruningConfig) -> None:
    """Refuse gates, and launches that cannot do, where accelerate was told to use FSDP.

    Raises:
        TrainingError: saying how to launch instead.
    """
    if not asked_for_fsdp():
        return
    reason = why_not()
    if reason is None and pruning.by_gates:
        reason = NO_SHARDED_GATES
    if reason is not None:
        raise TrainingError(reason)


def check(context: Context) -> None:
    """Refuse a recipe whose output, exporter, metrics, token or model's family will not do."""
    recipe, store = context.recipe, context.store
    check_output_dir(store.output, recipe.overwrite or (recipe.resume and store.folder.is_dir()))
    if recipe.overwrite or recipe.resume:
        require_replaceable(store.output)
    check_sharding(recipe.pruning)
    check_backend()
    load_metrics(recipe.evaluation.metrics, problem_of(recipe.task), 2)
    if recipe.hub.push_to_hub:
        find_token()
    check_trackers(recipe.training.report_to)
    for key, name in (
        ("model.name_or_path", recipe.model.name_or_path),
        ("teacher.name_or_path", recipe.teacher.name_or_path),
    ):
        if name is not None:
            kind = check_model(name, key)
            if kind is not None and recipe.pruning.layout == "uniform":
                check_family(kind)
    for name in recipe.teacher.learn_from:
        check_model(name, "teacher.learn_from")
    _, note = layout_or_note(recipe.model.name_or_path)
    if note is not None:
        context.console.warn(note)
    key, dense = dense_of(recipe)
    for note in reading_notes(look_at(str(dense.name_or_path), key), key, recipe):
        context.console.warn(note)
    # What sizes alone rule out; everything else that is known early is checked again as it is read.
    for note in check_target(recipe, look_at(recipe.model.name_or_path, "model.name_or_path")):
        context.console.note(note)
