"""Probabilities that mean something: the logits of a finished model divided by a fitted number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hfprune.core.errors import UnsupportedModelError
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
# Rows on which the division is checked.
SOME = 8


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
    some = reading.data.validation.select(range(min(SOME, len(reading.data.validation))))
    inherited = loaded.config.__dict__.pop(RECORDED, None)  # of what it was trained from
    if value is None:
        said = f"no temperature helps (calibration error {before:.4f})"
    elif divide_(loaded, value, lambda: predict_logits(loaded, some, reading.collator)):
        said = f"temperature {value:.3f}, calibration error {before:.4f} before"
        setattr(loaded.config, RECORDED, round(value, 6))
    else:
        said = (
            f"logits are left as they are, for they do not follow the last projection of "
            f"{type(loaded).__name__} (a temperature of {value:.3f} would help)"
        )
        value = None
    context.console.note(f"{label}: {said}")
    if value is None and inherited is None:
        return Scaled(folder=model.folder)
    plan = plan_in(context.path(model.folder))
    saved = keep(context, loaded, f"{label}-scaled", reading.processor, plan)
    return Scaled(folder=saved.folder, temperature=None if value is None else round(value, 6))


def divide_(model: Any, value: float, predict: Callable[[], NDArray[np.float32]]) -> bool:
    """Divide a model's logits by a number, in its last projection. In place.

    Args:
        model: whose head is not known here: a plug-in's may do more with what the projection gives.
        predict: logits of some rows, of the model as it is.

    Returns:
        Whether its logits are divided; if not, it is as it was.
    """
    try:
        _, _, projection = last_projection(model)
    except UnsupportedModelError:
        return False
    before = predict()
    kept = {name: tensor.clone() for name, tensor in projection.state_dict().items()}
    with torch.no_grad():
        for tensor in projection.parameters(recurse=False):
            tensor.div_(value)
    if np.allclose(predict() * value, before, rtol=1e-3, atol=1e-4 * float(np.abs(before).max())):
        return True
    projection.load_state_dict(kept)
    return False


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
