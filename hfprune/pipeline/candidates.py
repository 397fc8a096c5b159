"""The order of the trials that choose between the candidates of a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.exchange import from_main
from hfprune.pipeline.context import Context
from hfprune.pipeline.decisions import left_to_try, most_promising
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.recovering import suffix_of
from hfprune.pipeline.results import Candidates, SavedModel, StageResult, Trial
from hfprune.pipeline.stages import trial
from hfprune.pipeline.stages.prune import sizes_text


def best_candidate(
    context: Context,
    prepared: Prepared,
    label: str,
    start: SavedModel,
    found: Candidates,
    teachers: Mapping[str, StageResult],
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The candidate nearest to the teacher on the validation rows, after a trial.

    Those that one trial does not part from the nearest are tried once more, twice as long. Of
    those that are not parted then the one of fewest layers goes on: it leaves the next model of a
    family more to choose from, where thin remains of all layers leave no whole layer to keep.

    Args:
        label: of the model.
        start: what is learned from.
        found: the candidates.
        teachers: what is learned from besides, by the name of its stage.

    Returns:
        The name of the candidate, and of each what a report says of it.
    """
    names = sorted(found.found, key=lambda name: sum(map(any, found.found[name].sizes)))
    suffix = suffix_of(label)
    trains = context.recipe.pruning.epochs_of_trial > 0
    tried: dict[str, Trial] = {}

    def round_of(some: list[str], length: int) -> dict[str, NDArray[np.float64]]:
        longer = ", longer" if length > 1 else ""
        for name in some:
            tried[name] = context.stage(
                f"trial{suffix} {name}{longer}",
                Trial,
                partial(trial.run, context, prepared, label, name, found.found[name], start,
                        length),
                {"start": start, "reconstruction": found, **teachers},
            )  # fmt: skip
        return {name: trial.rows_of(context, tried[name]) for name in some}

    best, apart = names[0], True
    if len(names) > 1:
        rows = round_of(names, 1)
        # Of one process the numbers might differ from those of another in the last digit.
        left = from_main(left_to_try(rows))
        if len(left) > 1 and trains:
            rows |= round_of(left, 2)
        best, apart = from_main(most_promising({name: rows[name] for name in left}))
        told = "" if apart else ", not shown to be nearer to the teacher than another"
        context.console.note(f"chosen: {best} ({sizes_text(found.found[best].sizes)}){told}")
    record = {
        name: entry.model_dump(mode="json", exclude={"folder"}, exclude_none=True)
        | (
            {"divergence": tried[name].divergence, "trial_epochs": tried[name].epochs}
            if tried
            else {}
        )
        | {"chosen": name == best}
        for name, entry in found.found.items()
    }
    return best, record
