"""Which learning rate brings a small model nearest to its teacher, by short trainings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hfprune.core.exchange import from_main
from hfprune.pipeline.context import Context
from hfprune.pipeline.decisions import RATES, best_rate, finalists
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Rate, SavedModel
from hfprune.pipeline.stages.trial import briefly_trained, by_rows, finite, told
from hfprune.pipeline.training import recovery_trainer

# Of the recovery's epochs, for each rate of the first round; the better half is tried twice as
# long. Four rates take half of a recovery in all.
_SHARE = 1 / 16


def run(context: Context, prepared: Prepared, label: str, pruned: str, teacher: SavedModel) -> Rate:
    """Successive halving over learning rates (Jamieson and Talwalkar 2016), in two rounds.

    Each trial is a training of its own from the folder ``pruned``, with the whole course of the
    rate, so that a rate is judged as it ends and not half-way.
    """
    dense = prepared.teacher(context, teacher)
    epochs = _SHARE * context.recipe.recovery.round_epochs
    tried: list[dict[str, float | None]] = []

    def trial(rate: float, epochs: float) -> NDArray[np.float64]:
        trainer = recovery_trainer(
            context,
            prepared,
            prepared.saved(context, pruned),
            dense,
            f"rate-{label}-{rate:g}-{epochs:g}",
            learning_rate=rate,
            num_train_epochs=epochs,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        model = briefly_trained(context, prepared, trainer)
        rows = by_rows(context, prepared, model, dense)
        found = finite(float(np.mean(rows)))
        context.console.note(f"learning rate {rate:g}: divergence from the teacher {told(found)}")
        tried.append({"learning_rate": rate, "epochs": epochs, "divergence": found})
        return rows

    first = {rate: trial(rate, epochs) for rate in RATES}
    # Of one process the numbers might differ from those of another in the last digit.
    going_on = from_main(finalists(first))
    chosen = best_rate({rate: trial(rate, 2 * epochs) for rate in going_on})
    context.console.note(f"learning rate of the recovery: {chosen:g}")
    return Rate(learning_rate=chosen, tried=tried)
