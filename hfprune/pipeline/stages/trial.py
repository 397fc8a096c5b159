"""How near to the teacher a candidate comes after a short training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Candidate, SavedModel, Trial
from hfprune.pipeline.stages.reconstruct import slug
from hfprune.pipeline.training import recovery_trainer, train
from hfprune.pruning.reconstruction.passes import divergences


def run(
    context: Context,
    prepared: Prepared,
    label: str,
    name: str,
    candidate: Candidate,
    teacher: SavedModel,
) -> Trial:
    """Train a candidate shortly; mean KL divergence from the teacher on validation rows."""
    model = prepared.saved(context, candidate.folder)
    dense = prepared.teacher(context, teacher)
    epochs = context.recipe.pruning.trial_epochs
    if epochs is None:
        epochs = 1.0
    if epochs > 0:
        trainer = recovery_trainer(
            context,
            prepared,
            model,
            dense,
            f"trial-{label}-{slug(name)}",
            num_train_epochs=epochs,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        model = train(prepared, trainer).model
    found = float(np.mean(by_rows(context, prepared, model, dense)))
    context.console.note(f"{name}: divergence from the teacher {found:.4f}")
    return Trial(divergence=found)


def by_rows(context: Context, prepared: Prepared, model: Any, dense: Any) -> NDArray[np.float64]:
    """KL divergence from the teacher in nats, one entry a validation row (of tokens, a token)."""
    recipe, rows = context.recipe, prepared.small.data.validation

    def predicted(one: Any) -> Any:
        size = recipe.training.per_device_eval_batch_size
        return predict_logits(one.eval(), rows, prepared.small.collator, batch_size=size)

    if prepared.taught.logits is None:
        prepared.taught.logits = predicted(dense)
    logits = [predicted(model), prepared.taught.logits]
    if logits[0].ndim == 3:  # of tokens, those that are no padding
        lengths = np.asarray([len(ids) for ids in rows["input_ids"]])
        real = np.arange(logits[0].shape[1]) < lengths[:, None]
        logits = [values[real] for values in logits]
    first, second = map(torch.from_numpy, logits)
    found = divergences(first, second, recipe.task)
    return found.double().numpy()
