"""Probabilities that mean something: the logits of a finished model divided by a fitted number."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hfprune.data.words import IGNORED
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.probabilities import (
    Decisions,
    decisions,
    expected_calibration_error,
    temperature_that_helps,
)
from hfprune.models.heads import last_projection
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, Reading, keep, plan_in
from hfprune.pipeline.results import SavedModel, Scaled

# Of config.json: what the logits were divided by. Not "temperature", which generation reads.
RECORDED = "applied_temperature"


def run(context: Context, prepared: Prepared, label: str, model: SavedModel) -> Scaled:
    """Fit a temperature on the validation rows, and put it into the head's last projection.

    So the saved model, every exported graph and every runtime have it, none needs to know of it,
    and what is predicted stays. Nothing is changed where other rows would not gain by it.
    """
    reading, loaded = prepared.small, prepared.saved(context, model)
    found, value = fitted(context, reading, loaded)
    if found is None:
        return Scaled(folder=model.folder)
    before = expected_calibration_error(found)
    loaded.config.__dict__.pop(RECORDED, None)  # of what it was trained from
    if value is None:
        context.console.note(f"{label}: no temperature helps (calibration error {before:.4f})")
        return Scaled(folder=model.folder)
    _, _, projection = last_projection(loaded)
    with torch.no_grad():
        projection.weight.div_(value)
        if projection.bias is not None:
            projection.bias.div_(value)
    setattr(loaded.config, RECORDED, round(value, 6))
    context.console.note(f"{label}: temperature {value:.3f}, calibration error {before:.4f} before")
    plan = plan_in(context.path(model.folder))
    saved = keep(context, loaded, f"{label}-scaled", reading.processor, plan)
    return Scaled(folder=saved.folder, temperature=round(value, 6))


def fitted(context: Context, reading: Reading, model: Any) -> tuple[Decisions | None, float | None]:
    """What a model decides of the validation rows, and the temperature that helps it.

    Returns:
        Twice ``None`` where no probability counts; ``None`` in place of a temperature where none
        is shown to help.
    """
    data = reading.data
    logits = data.by_text(
        "validation",
        predict_logits(
            model.eval(),
            data.validation,
            reading.collator,
            batch_size=context.recipe.training.per_device_eval_batch_size,
        ),
    )
    labels = data.label_array("validation")
    found = decisions(logits, labels, data.task)
    if found is None:
        return None, None
    return found, temperature_that_helps(found, _owners(labels, data.task))


def _owners(labels: NDArray[Any], task: str) -> NDArray[Any] | None:
    """The row of each decision, where a row has several."""
    rows = np.arange(len(labels))
    if task == "multi_label_classification":
        return np.repeat(rows, labels.shape[1])
    if task == "token_classification":
        return np.repeat(rows, (labels != IGNORED).sum(axis=1))
    return None
