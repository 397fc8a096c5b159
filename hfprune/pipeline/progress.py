"""How long a run's stages may take, once its rows are read."""

from __future__ import annotations

import pyarrow.compute as pc  # type: ignore[import-untyped]

from hfprune.core.errors import HFPruneError
from hfprune.core.machine import usable_cpus
from hfprune.early.duration import planned_stages, work_of
from hfprune.early.model import ModelFacts, look_at
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.recipe.sections.whole import Recipe


def plan(context: Context, prepared: Prepared) -> None:
    """Tell the console what the run will go through, so that it can say what is left in all."""
    recipe, data = context.recipe, prepared.data
    tokens = 200.0  # of an image
    if not data.of_images:
        column = data.train.with_format("arrow")[:]["input_ids"]
        tokens = float(pc.mean(pc.list_value_length(column)).as_py() or 0.0)
    facts = _facts(recipe)
    work = work_of(
        recipe,
        rows=len(data.train),  # windows, where texts become such
        test_rows=len(data.test),
        tokens=tokens,
        weights=facts.block_weights,
        cores=usable_cpus(),
        layers=facts.layers,
        width=facts.width,
        unlabeled=0 if prepared.small.unlabeled is None else len(prepared.small.unlabeled),
    )
    context.console.plan(planned_stages(recipe, work))


def _facts(recipe: Recipe) -> ModelFacts:
    name = recipe.model.name_or_path
    try:
        return look_at(name, "model.name_or_path")
    except HFPruneError:  # a model that only what comes later understands
        return ModelFacts(name)
