"""How long a run's stages may take, once its rows are read."""

from __future__ import annotations

import pyarrow.compute as pc  # type: ignore[import-untyped]

from hfprune.core.errors import HFPruneError
from hfprune.core.machine import usable_cpus
from hfprune.early.duration import planned_stages, work_of
from hfprune.early.model import look_at
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
    work = work_of(
        recipe,
        rows=data.size("train"),
        test_rows=data.size("test"),
        tokens=tokens,
        weights=_weights(recipe),
        cores=usable_cpus(),
    )
    context.console.plan(planned_stages(recipe, work))


def _weights(recipe: Recipe) -> int | None:
    try:
        return look_at(recipe.model.name_or_path, "model.name_or_path").block_weights
    except HFPruneError:  # a model that only what comes later understands
        return None
