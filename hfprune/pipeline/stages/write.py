"""The output folder: results, details, models, report and card; whole, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfprune.core.details import DETAILS_FILE, Details
from hfprune.core.errors import OutputError
from hfprune.core.files import atomic_directory, atomic_write_json, atomic_write_text
from hfprune.core.model_ref import DENSE, PRUNED
from hfprune.core.ownership import mark
from hfprune.core.results import (
    METRICS_FILE,
    RESULTS_VERSION,
    Kept,
    RunResults,
    parse_results,
    read_json,
)
from hfprune.data.task_data import SPLITS, TEXT_ROW
from hfprune.deploy.choose.record import read_deployment
from hfprune.measure.environment import environment
from hfprune.models.fetching import small_files
from hfprune.models.layout import cross_encoder_files, cut_at, layout_or_note
from hfprune.models.sentences import save_encoder
from hfprune.pipeline.context import Context, brief
from hfprune.pipeline.fingerprint import recipe_digest
from hfprune.pipeline.members import Member, Members
from hfprune.pipeline.prepared import Prepared, plan_in
from hfprune.pipeline.results import AllExported, Evaluated, SavedModel, Timed
from hfprune.pipeline.stages import benchmark, deploy
from hfprune.pipeline.stages.embeddings import dense_of
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.layout import loads_alone
from hfprune.pruning.search import plan_sparsity
from hfprune.pruning.surgery import RECORD_KEY
from hfprune.publish.card import write_card
from hfprune.recipe.public import sources
from hfprune.recipe.reading import dump_recipe
from hfprune.report.html import write_report

# A sentence encoder that was pruned by a classifier's recipe comes back as one, here.
SENTENCE_FOLDER = "sentence-encoder"


def results(
    context: Context,
    prepared: Prepared,
    teacher: SavedModel,
    members: Members,
    exported: AllExported,
    evaluated: Evaluated,
    timed: Timed,
) -> RunResults:
    """All that was found, as it is published."""
    data, recipe = prepared.data, context.recipe
    dense = prepared.saved(context, teacher)
    kept = {member.label: _kept(context, prepared, dense, member) for member in members.all}
    quantization = {
        label: entry.quantization for label, entry in exported.models.items() if entry.quantization
    }
    single = [member.label for member in members.all] == [PRUNED]
    found = RunResults.model_validate(
        {
            "format_version": RESULTS_VERSION,
            "recipe_sha256": recipe_digest(recipe),
            "task": recipe.task,
            "labels": data.label_names,
            "data": {
                "samples": {name: data.size(name) for name in SPLITS},
                "windows": {name: len(data.split(name)) for name in SPLITS}
                if TEXT_ROW in data.train.column_names
                else None,
                "truncated": data.truncated,
                "seen_in_train": data.seen_in_train,
                "max_length": None if data.of_images else data.max_length,
                "stride": recipe.data.stride,
                "pairs": recipe.data.text_pair_column is not None,
                "class_weights": prepared.class_weights,
                # Other rows are graded by it too.
                **(
                    {}
                    if data.highest_relevance is None
                    else {"highest_relevance": data.highest_relevance}
                ),
                **prepared.about,
            },
            "sources": sources(recipe),
            "seed": recipe.training.seed,
            "bf16": prepared.bf16,
            "processes": context.state.num_processes,
            "search": members.search,
            "quantization": quantization or None,
            "vocabulary": None if members.tokens is None else members.tokens.model_dump(),
            "seconds": context.store.seconds(),
            "environment": environment(),
            **({"pruning": kept[PRUNED]} if single else {"family": kept}),
            "deployment": deployments(context, exported),
            "evaluation": evaluated.evaluation,
            "benchmark": timed.benchmark,
        }
    )
    reached = benchmark.targets(recipe.pruning, found, recipe.benchmark)
    return found if reached is None else found.model_copy(update={"targets": reached})


def deployments(context: Context, exported: AllExported) -> dict[str, Any] | None:
    """What was chosen to be deployed, by model; ``None`` where nothing was."""
    found = {
        label: read_deployment(context.path(entry.deployed)).model_dump(mode="json")
        for label, entry in exported.models.items()
        if entry.deployed is not None
    }
    return found or None


def _kept(context: Context, prepared: Prepared, dense: Any, member: Member) -> Kept:
    """What a model kept, and what of the dense model's encoder weights is gone."""
    plan = plan_in(context.path(member.model.folder))
    totals, kept = plan.totals(), plan.sizes()
    found: dict[str, Any] = {
        "layout": context.recipe.pruning.layout,
        "stock": loads_alone(prepared.saved(context, member.model)),
        "sparsity": round(plan_sparsity(plan, parameter_costs(dense)), 6),
        "heads": [heads for heads, _ in kept],
        "neurons": [neurons for _, neurons in kept],
        "of_heads": [heads for heads, _ in totals],
        "of_neurons": [neurons for _, neurons in totals],
    }
    if member.temperature is not None:
        found["temperature"] = member.temperature
    if member.candidates:
        found["candidates"] = member.candidates
        (best,) = (entry for entry in member.candidates.values() if entry["chosen"])
        if "predicted" in best:
            found["predicted_speedup"] = best["predicted"]
    elif member.table is not None:
        found["predicted_speedup"] = member.table.speedup(kept)
    return Kept.model_validate(found)


def details(
    context: Context, teacher: SavedModel, members: Members, evaluated: Evaluated
) -> Details:
    """How losses and metrics went, and test rows whose prediction changed."""
    logs = [(DENSE, "teacher", teacher.log)]
    for member in members.all:
        logs += [(member.label, "prune", member.pruned_log), (member.label, "recover", member.log)]
    return Details(
        training=[
            {"model": model, "stage": stage, "log": read_json(context.path(file))}
            for model, stage, file in logs
            if file is not None
        ],
        changed=evaluated.changed,
    )


def check_agreement(context: Context, members: Members, exported: AllExported) -> None:
    """Hold plan, config, weights and deployed files of each model against each other.

    Raises:
        OutputError: they do not belong together, so something wrote into the work folder.
    """
    for member in members.all:
        folder = context.path(member.model.folder)
        plan = plan_in(folder)
        record = read_json(folder / "config.json").get(RECORD_KEY, {})
        sizes = list(zip(record.get("heads", []), record.get("neurons", []), strict=False))
        # A finished model has lost its emptied layers, and says which it has.
        layers = record.get("layers", range(len(plan)))
        whole = set(layers) | {n for n, size in enumerate(plan.sizes()) if not any(size)}
        here = [plan.sizes()[layer] for layer in layers if layer < len(plan)]
        if sizes and (sizes != here or len(whole) != len(plan)):
            raise _mixed(folder, f"its config has the sizes {sizes}, its plan {plan.sizes()}")
        made_of = exported.models[member.label].model
        if made_of != context.store.digest(member.made_of):
            raise _mixed(folder, "the deployed files were made of other weights")


def _mixed(folder: Path, why: str) -> OutputError:
    return OutputError(
        f"{folder} holds files that do not belong together ({why}), so nothing was published; "
        "did another program write there? Start afresh with overwrite=true"
    )


def write(
    context: Context, prepared: Prepared, members: Members, exported: AllExported,
    found: RunResults, more: Details, output: Path, *, replace: bool,
) -> None:  # fmt: skip
    """Assemble the output folder beside its place, and move it there."""
    check_agreement(context, members, exported)
    layout, _ = layout_or_note(context.recipe.model.name_or_path)
    _, dense = dense_of(context.recipe)
    beside = cross_encoder_files(small_files(str(dense.name_or_path), dense.revision))
    with atomic_directory(output, overwrite=replace) as folder:
        for member in members.all:
            target = folder if member.label == PRUNED else folder / member.label
            shutil.copytree(context.path(member.model.folder), target, dirs_exist_ok=True)
            files = exported.models[member.label]
            shutil.copytree(context.path(files.folder), target / "onnx")
            deploy.copy_chosen(context, files, target)
            for name, file in beside.items():
                shutil.copyfile(file, target / name)
            if context.recipe.task == "reranking":
                # As CrossEncoder(folder) and pipelines score pairs, which read no recipe.
                for place in (target, target / "onnx"):
                    cut_at(place, context.recipe.data.max_length)
            if layout is not None and context.recipe.task != "sentence_embedding":
                model = prepared.saved(context, member.model)
                save_encoder(model, prepared.small.processor, layout, target / SENTENCE_FOLDER)
            _write_results(
                context,
                target,
                found.member_results(member.label).to_json(),
                more.member_details(member.label).to_json(),
            )
            write_card(target)
        if members.is_family:
            _write_results(context, folder, found.to_json(), more.to_json())


def _write_results(
    context: Context, folder: Path, found: Mapping[str, Any], more: Mapping[str, Any]
) -> None:
    atomic_write_json(folder / METRICS_FILE, found)
    atomic_write_json(folder / DETAILS_FILE, more)
    atomic_write_text(folder / "recipe.yaml", dump_recipe(context.recipe))
    report(context, folder)  # before the card, which shows some of its figures


def write_teacher(context: Context, teacher: SavedModel) -> Path:
    """The dense model alone as the output."""
    output = context.store.output
    replace = context.recipe.overwrite or context.recipe.resume
    with atomic_directory(output, overwrite=replace) as folder:
        mark(folder)  # it holds no results, by which it would be known as ours
        shutil.copytree(context.path(teacher.folder), folder, dirs_exist_ok=True)
    return output


def report(context: Context, folder: Path) -> None:
    """``report.html`` and its figures, if they can be made: hours of work do not hang on it."""
    try:
        _, note = write_report(folder)
    except Exception as error:
        context.console.warn(
            f"no report was made ({brief(error)}); the results are in metrics.json, and "
            f"`hfprune report {context.store.output}` tries it again"
        )
    else:
        if note is not None:
            context.console.note(note)


def finished_before(context: Context) -> RunResults | None:
    """The results of a run that ``resume`` finds complete: it was killed in its last moment."""
    store = context.store
    if not context.recipe.resume or store.folder.exists():
        return None
    try:
        found = json.loads((store.output / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("recipe_sha256") != recipe_digest(context.recipe):
        return None
    return parse_results(found, store.output / METRICS_FILE)
