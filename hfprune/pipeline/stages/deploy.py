"""Which file to deploy: chosen among runtimes, precisions and graphs, for each use."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from hfprune.core.kinds import kind_of_task
from hfprune.core.model_ref import DENSE
from hfprune.core.tasks import LOWER_IS_BETTER
from hfprune.data.task_data import TEXT_ROW
from hfprune.deploy.calling import Example, example_for
from hfprune.deploy.choose.choosing import choose_files
from hfprune.deploy.choose.record import (
    DEPLOY_FILE,
    Deployment,
    Recommended,
    one_line,
    read_deployment,
    write_deployment,
)
from hfprune.deploy.choose.settling import FLOAT_FILE, Rival
from hfprune.deploy.choose.targets import choice_for
from hfprune.deploy.choose.trying import Judging
from hfprune.deploy.files import MODEL_FILE, QUANTIZED_FILE
from hfprune.deploy.runtimes.base import loading
from hfprune.deploy.runtimes.registry import runtime
from hfprune.deploy.staging import copy_of_export
from hfprune.measure import resampling
from hfprune.measure.scores import score
from hfprune.measure.traffic import Use
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, Reading
from hfprune.pipeline.results import AllExported, Exported, SavedModel
from hfprune.pipeline.stages.export import calibration_rows, reading_of
from hfprune.recipe.sections.export import DeployConfig

# Rows that files of the dense model are judged on, and that its int8 scales are calibrated with. It
# is what others are compared with, and slow: fewer rows let more of its files through, which is in
# its favour, and take a fraction of the time.
DENSE_ROWS, DENSE_CALIBRATION = 200, 64


def run(
    context: Context,
    prepared: Prepared,
    models: Mapping[str, SavedModel],
    exported: AllExported,
    settings: DeployConfig,
) -> AllExported:
    """Choose the files of all models, the dense one's first and by the same means."""
    found: dict[str, Exported] = {}
    for label, entry in exported.models.items():
        place = f"deployed/{label}"
        shutil.rmtree(context.path(place), ignore_errors=True)
        output = context.path(place)
        output.mkdir(parents=True)
        reading = reading_of(prepared, label)
        source = context.path(entry.folder)
        if settings.cpu == "here":
            copy_of_export(source, output / "onnx")
            if any(runtime(name).keeps for name in settings.runtimes):
                # Their file is the saved model itself.
                shutil.copytree(context.path(models[label].folder), output, dirs_exist_ok=True)
            record = _measured(context, reading, output, exported, settings, label)
        else:
            record = _by_rule(context, reading, source, output, settings)
        _complete(context, source, output / "onnx")
        context.console.note(f"{label}, to deploy: {one_line(record)}")
        for note in record.notes:
            context.console.note(f"{label}: {note}")
        found[label] = Exported(
            folder=f"{place}/onnx",
            model=entry.model,
            quantization=entry.quantization,
            deployed=place,
        )
    return AllExported(models=found)


def _complete(context: Context, source: Path, target: Path) -> None:
    """What else an export holds, as the tokenizer; and the int8 file whose settings were named.

    That one is written even where it is refused: the recipe asks for it.
    """
    asked = context.recipe.export.quantization not in ("auto", None)
    for file in source.iterdir():
        graph = ".onnx" in file.name and not (asked and file.name.startswith(QUANTIZED_FILE))
        if file.is_dir():  # a module of a sentence encoder
            shutil.copytree(file, target / file.name, dirs_exist_ok=True)
        elif not graph and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)


def _measured(
    context: Context,
    reading: Reading,
    output: Path,
    exported: AllExported,
    settings: DeployConfig,
    label: str,
) -> Deployment:
    recipe = context.recipe
    threads, dense = recipe.benchmark.threads, label == DENSE
    with context.console.progress(f"files of {label}") as progress:

        def told(done: float, what: str) -> None:
            # Of the time that it may take; a busy machine takes more, which only words can tell.
            context.console.now(what)
            progress(round(1000 * done), 1000)

        return choose_files(
            output / "onnx",
            output,
            judging_of(context, reading),
            calibration=_calibration(context, reading, dense=dense),
            task=kind_of_task(recipe.task).export_task,
            example=_example(context, reading),
            uses=recipe.benchmark.uses,
            batch_size=recipe.benchmark.batch_sizes[-1],
            threads=threads,
            seconds=settings.seconds,
            quantization=recipe.export.quantization,
            runtimes=settings.runtimes,
            baseline=None if dense else context.path(exported.models[DENSE].folder) / MODEL_FILE,
            rivals=None if dense else _rivals(context.path(f"deployed/{DENSE}"), threads),
            most_rows=DENSE_ROWS if dense else None,
            keep_all=settings.keep_all,
            progress=told,
        )


def _example(context: Context, reading: Reading) -> Example:
    recipe = context.recipe
    second = recipe.data.text_pair_column is not None
    return example_for(recipe.task, second, reading.data.prompt, recipe.data.max_length)


def _calibration(context: Context, reading: Reading, *, dense: bool) -> Any:
    if not dense:
        return calibration_rows(context, reading)
    rows = calibration_rows(context, reading, DENSE_CALIBRATION)
    if len(rows) <= DENSE_CALIBRATION:
        return rows
    rng = np.random.default_rng(context.recipe.training.seed)
    return rows.select(sorted(rng.permutation(len(rows))[:DENSE_CALIBRATION].tolist()))


def _rivals(folder: Path, threads: int) -> dict[Use, Rival]:
    """The dense model's best file for each use, opened."""
    found: dict[Use, Rival] = {}
    for use, best in read_deployment(folder).uses.items():
        name = f"dense {best.runtime} {best.precision}, {best.graph}"
        session = None
        if best.path != FLOAT_FILE:
            session = runtime(best.runtime).open(folder / best.path, threads, best.precision)
        found[cast(Use, use)] = Rival(name, session)
    return found


def judging_of(context: Context, reading: Reading) -> Judging:
    """The validation rows, and what files may lose on them."""
    recipe, data = context.recipe, reading.data
    name = recipe.evaluation.metrics[0]
    rows = data.validation
    windows = TEXT_ROW in rows.column_names  # each is judged with its text's label
    labels = np.asarray(rows["labels"]) if windows else data.label_array("validation")

    def metric(logits: Any, truth: Any) -> float:
        return score(name, logits, truth, data.task, data.num_labels, data.label_names)

    def counted(logits: Any, truth: Any) -> Any:
        values_of = resampling.counted(
            name, logits, truth, data.task, data.num_labels, data.label_names
        )
        return lambda chosen: float(values_of(chosen[None])[0])

    return Judging(
        rows,
        labels,
        metric,
        reading.collator,
        greater_is_better=name not in LOWER_IS_BETTER,
        several=data.task == "multi_label_classification",
        ranked=data.task == "reranking",
        vectors=data.task == "sentence_embedding",
        max_drop=recipe.export.max_quantization_drop,
        # Copies of their logits are large, and entities are slow to find.
        counted=counted if data.task == "token_classification" else None,
    )


def _by_rule(
    context: Context, reading: Reading, source: Path, output: Path, settings: DeployConfig
) -> Deployment:
    """For another machine: what is safe and usually fast there, unmeasured."""
    recipe = context.recipe
    able = "openvino" in settings.runtimes and runtime("openvino").missing() is None
    choice = choice_for(settings.cpu, openvino=able)
    task = kind_of_task(recipe.task).export_task
    shutil.copytree(source, output / "onnx", dirs_exist_ok=True)
    uses: dict[str, Recommended] = {}
    for use in recipe.benchmark.uses:
        name, offer = choice.by_use[use]
        each = runtime(name)
        path = each.place(offer)
        each.write(
            source,
            output / Path(path).parent,
            offer,
            calibration=calibration_rows(context, reading),
        )
        uses[use] = Recommended(
            path=path,
            candidate=f"{name} {offer.precision}",
            runtime=name,
            precision=offer.precision,
            graph=offer.graph,
            why=choice.note,
            load=loading(each, path, task, _example(context, reading)),
        )
    record = Deployment(
        cpu=settings.cpu,
        measured=False,
        threads=recipe.benchmark.threads,
        batch_size=recipe.benchmark.batch_sizes[-1],
        uses=uses,
        notes=(choice.note,),
    )
    write_deployment(record, output)
    return record


def copy_chosen(context: Context, exported: Exported, target: Path) -> None:
    """What the choice wrote beside ``onnx/``, into a model's part of the output."""
    if exported.deployed is None:
        return
    place = context.path(exported.deployed)
    shutil.copy2(place / DEPLOY_FILE, target / DEPLOY_FILE)
    for folder in sorted(place.iterdir()):
        if folder.is_dir() and folder.name != "onnx":
            shutil.copytree(folder, target / folder.name)
