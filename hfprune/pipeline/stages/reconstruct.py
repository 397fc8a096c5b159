"""Pruning without training: candidates by structured OBS and a search over levels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from hfprune.core.kinds import IMAGE_INPUTS, TEXT_INPUTS, image_tokens
from hfprune.core.processes import processes
from hfprune.data.images import IMAGE_COLUMN
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.speed.landing import Landing, land
from hfprune.families import block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pipeline.context import Context
from hfprune.pipeline.decisions import worth_trying
from hfprune.pipeline.prepared import Prepared, keep
from hfprune.pipeline.results import Baseline, Candidate, Candidates, SavedModel
from hfprune.pipeline.stages.latency import probe_settings, single_speed
from hfprune.pipeline.stages.prune import after, sizes_text
from hfprune.pruning.cost import LatencyTable, parameter_costs
from hfprune.pruning.layout import uniform_shape
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.reconstruction.memory import bytes_a_token, cut
from hfprune.pruning.reconstruction.reconstruct import Reconstruction
from hfprune.pruning.search import settled_plan
from hfprune.recipe.sections.pruning import PruningConfig


def run(
    context: Context,
    prepared: Prepared,
    label: str,
    target: PruningConfig,
    current: SavedModel,
    teacher: SavedModel,
    table: LatencyTable | None,
    dense_file: Baseline | None,
) -> Candidates:
    """Candidates for a target, pruned from ``current`` and saved."""
    model, dense, batches = _read(context, prepared, target, current, teacher)
    rounds, seed = target.search_rounds, context.recipe.training.seed
    sizes = model_sizes(model)
    with context.console.progress("reconstruction") as progress:

        def tell(step: str, done: int, total: int) -> None:
            progress(done, total)

        shape = uniform_shape(model) if target.layout == "uniform" else None
        found = Reconstruction(
            model,
            dense,
            batches,
            tell,
            selection=target.selection,
            shape=shape,
            memory=1e9 * target.memory_gb,
            shared=True,
        )
        speed = single_speed(target)
        if table is None:
            budget, cost = parameter_budget(dense, target.sparsity or 0.0)
        else:
            budget, cost = table.budget_ms(speed), table.price(sizes)
        found.search(budget, cost, rounds=rounds, seed=seed, progress=tell)
    choices: dict[str, list[int] | None] = {"searched": None}
    # Whole layers fewer need training to be the better choice: see docs/notes.md.
    trained = context.recipe.recovery.trains
    for some in found.fewer_layers() if trained else ():
        whole = [size if n in some else (0, 0) for n, size in enumerate(sizes)]
        if worth_trying(None if table is None else table.speedup(whole), speed):
            choices[f"layers {', '.join(map(str, some))}"] = some
    candidates: dict[str, Candidate] = {}
    plans: list[PruningPlan] = []
    # Of each candidate half is the landing, about, and half the refit of its blocks.
    half = 2 * len(sizes)
    with context.console.progress("candidates") as progress:
        for number, (name, layers) in enumerate(choices.items()):

            def refitted(step: str, done: int, total: int, before: int = number) -> None:
                progress((2 * before + 1) * half + done * half // total, 2 * len(choices) * half)

            landing: Landing | None = None
            if table is None or dense_file is None:
                plan = found.plan(budget, cost, layers)
            else:
                landing = _landed(context, prepared, found, table, speed, layers, model, dense_file)
                plan = landing.plan
            refitted("", 0, 1)
            if plan in plans:
                continue
            plans.append(plan)
            pruned = copy.deepcopy(model)
            found.prune_(pruned, plan, progress=refitted)
            saved = keep(
                context,
                pruned,
                f"{label}-{slug(name)}",
                prepared.small.processor,
                after(context, current, plan),
            )
            reached = {} if landing is None else {
                "predicted": landing.predicted, "measured": landing.measured,
            }  # fmt: skip
            candidates[name] = Candidate(
                folder=saved.folder, sizes=list(model_sizes(pruned)), **reached
            )
            told = "" if landing is None else f", {landing.measured:.2f}x as measured"
            context.console.note(f"{name}: {sizes_text(candidates[name].sizes)}{told}")
    return Candidates(found=candidates)


def help_with(
    context: Context,
    prepared: Prepared,
    target: PruningConfig,
    current: SavedModel,
    teacher: SavedModel,
) -> None:
    """What other processes than the main one do of :func:`run`: their share of the statistics."""
    model, dense, batches = _read(context, prepared, target, current, teacher)
    Reconstruction(
        model,
        dense,
        batches,
        selection=target.selection,
        memory=1e9 * target.memory_gb,
        shared=True,
    )


def _read(
    context: Context,
    prepared: Prepared,
    target: PruningConfig,
    current: SavedModel,
    teacher: SavedModel,
) -> tuple[Any, Any, list[Any]]:
    """The model, the teacher and the scoring batches, alike in every process.

    On a GPU where there is one: its moments and solutions are those of the CPU but for rounding.
    """
    dense = prepared.saved(context, teacher)
    model = dense if current == teacher else prepared.saved(context, current)
    batches = scoring_batches(context, prepared, target, model)
    place = processes().device
    return model.to(place), dense.to(place), batches


def _landed(
    context: Context,
    prepared: Prepared,
    found: Reconstruction,
    table: LatencyTable,
    speedup: float,
    layers: list[int] | None,
    model: Any,
    dense_file: Baseline,
) -> Landing:
    folder = context.path(dense_file.folder)
    whole = PruningPlan.dense(model_sizes(model))

    def plan(scaled: LatencyTable) -> PruningPlan:
        budget = scaled.budget_ms(speedup)
        if found.shape is not None:  # whose layers stand or fall together
            return found.plan(budget, scaled.price(whole.sizes()), layers)
        return settled_plan(
            scaled, whole, lambda cost, some: found.plan(budget, cost, some), layers
        )

    return land(
        plan,
        table,
        speedup,
        model,
        folder / MODEL_FILE,
        prepared.small.processor,
        probe_settings(context.recipe.export.quantization, folder),
        context.recipe.export.opset,
    )


def scoring_batches(
    context: Context, prepared: Prepared, target: PruningConfig, model: Any
) -> list[Any]:
    """Training rows without labels, the shortest first, of like length in a batch.

    How many rows a batch has follows from their lengths and ``target.memory_gb``.
    """
    reading = prepared.small
    train = reading.data.train
    rng = np.random.default_rng(context.recipe.training.seed)
    chosen = rng.permutation(len(train))[: target.scoring_samples].tolist()
    # A transform of the user's gives other columns than the data set names.
    given = train[0] if len(train) else {}
    names = [name for name in (*TEXT_INPUTS, IMAGE_COLUMN, *IMAGE_INPUTS) if name in given]
    if reading.data.of_images:
        lengths = [image_tokens(model.config)] * len(chosen)
    else:
        known = {row: len(train[row]["input_ids"]) for row in chosen}
        chosen.sort(key=known.__getitem__)
        lengths = [known[row] for row in chosen]
    most_tokens = 1e9 * target.memory_gb / bytes_a_token(block_views(model))
    return [
        dict(reading.collator([{n: train[row][n] for n in names} for row in chosen[part]]))
        for part in cut(lengths, most_tokens)
    ]


def parameter_budget(dense: Any, sparsity: float) -> tuple[float, Callable[[BlockKey, int], float]]:
    """Encoder weights that may stay, and what a block of some size takes of them."""
    units = parameter_costs(dense)
    total = sum(units[key] * view.units for key, view in block_views(dense).items())
    return (1.0 - sparsity) * total, lambda key, count: units[key] * count


def slug(name: str) -> str:
    """The name of a candidate as part of a folder's name."""
    return name.replace(", ", "-").replace(" ", "-")
