"""Models that are pruned while they train, at the speed that was wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from hfprune.core.errors import PlanError
from hfprune.deploy.speed.landing import LANDINGS, misses
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Baseline, Reached, SavedModel, StageResult
from hfprune.pipeline.stages import landed
from hfprune.pruning.cost import LatencyTable

PruneOnce = Callable[[str, LatencyTable, dict[str, StageResult]], SavedModel]


def at_speed(
    context: Context,
    prepared: Prepared,
    label: str,
    speed: float,
    table: LatencyTable,
    dense_file: Baseline,
    after: dict[str, StageResult],
    prune_once: PruneOnce,
) -> tuple[SavedModel, LatencyTable]:
    """Prune; and again, at corrected times, where the speed misses the target.

    At most :data:`LANDINGS` trainings. What is pruned while it trains cannot be planned and timed
    before: how small its blocks get is known when it has been trained.

    Args:
        label: of the model.
        speed: wanted, over ``dense_file``.
        table: of times, to begin with.
        after: results that the first pruning follows from.
        prune_once: makes a model, by what is added to the stage's name, the table and what the
            stage follows from.

    Returns:
        The model whose speed came nearest, and the table that it was pruned by.
    """
    tries: list[tuple[float, SavedModel, LatencyTable]] = []
    while True:
        again = f" again {len(tries)}" if tries else ""
        model = prune_once(again, table, after)
        reached = context.stage(
            f"landed {label}{again}",
            Reached,
            partial(landed.run, context, prepared, model, dense_file, table),
            {"pruned": model, "baseline": dense_file},
            by_main=True,
        )
        tries.append((abs(math.log(reached.measured / speed)), model, table))
        told = f"{label}: {reached.measured:.2f}x as measured, {speed:g}x wanted"
        if len(tries) == LANDINGS or not misses(speed, reached.measured):
            context.console.note(told)
            break
        table = table.scaled(reached.predicted / reached.measured)
        try:
            table.budget_ms(speed)
        except PlanError:  # the correction has put the target out of reach
            context.console.warn(f"{told}; no smaller model comes nearer")
            break
        context.console.note(f"{told}; pruned again with times corrected by that")
        after = {**after, "landed": reached}
    _, model, table = min(tries, key=lambda one: one[0])
    return model, table
