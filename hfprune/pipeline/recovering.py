"""The order of the stages that train what is left: a rate, then rounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hfprune.core.exchange import from_main
from hfprune.core.model_ref import PRUNED
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Rate, Recovered, SavedModel, StageResult
from hfprune.pipeline.stages import rate as rates
from hfprune.pipeline.stages import recover


def suffix_of(label: str) -> str:
    """What is added to the names of a model's stages, where a run makes several."""
    return "" if label == PRUNED else f" {label}"


def recovered(
    context: Context,
    prepared: Prepared,
    label: str,
    start: SavedModel,
    pruned: SavedModel,
    teachers: Mapping[str, StageResult],
) -> SavedModel:
    """Train what is left, at the recipe's rate or the best of several.

    Args:
        label: of the model.
        start: what is learned from.
        pruned: what is trained.
        teachers: what is learned from besides, by the name of its stage.
    """
    suffix, recovery = suffix_of(label), context.recipe.recovery
    after: dict[str, StageResult] = {"start": start, "pruned": pruned, **teachers}
    common = (context, prepared, label)
    rate: float | None = None
    if recovery.learning_rate == "auto":
        found = context.stage(
            f"rate{suffix}", Rate, partial(rates.run, *common, pruned.folder, start), after
        )
        rate, after = from_main(found.learning_rate), {**after, "rate": found}
    best = pruned
    for number in range(1, recovery.most_rounds + 1):
        name = f"recover{suffix}" if number == 1 else f"recover{suffix} round {number}"
        trained = context.stage(
            name,
            Recovered,
            partial(recover.run, *common, start, best, number, rate),
            {**after, "before": best},
        )
        # The first brings back what the removal broke: it is kept in any case.
        if number > 1 and not from_main(trained.nearer):
            break
        best = trained
    return best
