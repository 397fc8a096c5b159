"""How near to the teacher a candidate comes after a short training."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hfprune.core.errors import NotFiniteError
from hfprune.core.files import atomic_write_bytes
from hfprune.data.candidates import QUERY_ROW
from hfprune.data.task_data import TEXT_ROW
from hfprune.data.windows import padded
from hfprune.data.words import IGNORED
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
    times: int = 1,
) -> Trial:
    """Train a candidate shortly; KL divergence from the teacher on validation rows.

    Args:
        times: as long as the recipe's trials.
    """
    model = prepared.saved(context, candidate.folder)
    dense = prepared.teacher(context, teacher)
    epochs = times * context.recipe.pruning.epochs_of_trial
    # Not a number behind the name, which may end in the numbers of layers.
    stage = f"trial{times if times > 1 else ''}-{label}-{slug(name)}"
    if epochs > 0:
        trainer = recovery_trainer(
            context,
            prepared,
            model,
            dense,
            stage,
            num_train_epochs=epochs,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        model = briefly_trained(context, prepared, trainer)
    rows = by_rows(context, prepared, model, dense)
    found = finite(float(np.mean(rows)))
    context.console.note(f"{name}: divergence from the teacher {told(found)}")
    file = f"{stage}.npy"
    if context.is_main:
        content = io.BytesIO()
        np.save(content, rows)
        atomic_write_bytes(context.path(file), content.getvalue())
    return Trial(divergence=found, rows=file, epochs=epochs)


def rows_of(context: Context, found: Trial) -> NDArray[np.float64]:
    """The divergences of a trial, as of :func:`by_rows`."""
    rows = np.load(context.path(found.rows))
    return np.asarray(rows, dtype=np.float64)


def briefly_trained(context: Context, prepared: Prepared, trainer: Any) -> Any:
    """The model after a short training; ``None`` where its loss or gradients ran away.

    Of several processes all see that at the same step.
    """
    try:
        return train(prepared, trainer).model
    except NotFiniteError as error:
        context.console.note(f"a trial ran away: {error}")
        return None


def finite(value: float) -> float | None:
    """A number as JSON has it: ``None`` for what is none."""
    return value if math.isfinite(value) else None


def told(divergence: float | None) -> str:
    """A divergence in words."""
    return "is no number" if divergence is None else f"{divergence:.4f}"


def by_rows(context: Context, prepared: Prepared, model: Any, dense: Any) -> NDArray[np.float64]:
    """KL divergence from the teacher in nats, an entry for what validation rows were drawn by.

    That is a text (of all its windows, or all its tokens that carry a label), and of reranking a
    query with all its texts: what belongs together is alike, and does not count as so many
    independent rows. An entry is its sum over what belongs to it, divided by the mean number of
    those, so the mean of the entries is that of all rows (of tokens: of all that are learned).

    A model that is ``None`` ran away, which is one entry that is no number.
    """
    if model is None:
        return np.array([math.nan])
    recipe, rows = context.recipe, prepared.small.data.validation

    def predicted(one: Any) -> Any:
        size = recipe.training.per_device_eval_batch_size
        return predict_logits(one, rows, prepared.small.collator, batch_size=size)

    if prepared.taught.logits is None:
        prepared.taught.logits = predicted(dense)
    logits = [predicted(model), prepared.taught.logits]
    owners = np.arange(len(rows))
    if logits[0].ndim == 3:  # of tokens, those that learn from the teacher
        learned = padded(rows["labels"][:])[:, : logits[0].shape[1]] != IGNORED
        logits, owners = [values[learned] for values in logits], owners.repeat(learned.sum(1))
    for column in (TEXT_ROW, QUERY_ROW):
        if column in rows.column_names:
            owners = np.asarray(rows[column][:])
    first, second = map(torch.from_numpy, logits)
    found = divergences(first, second, recipe.task)
    return together(found.double().numpy(), owners)


def together(values: NDArray[np.float64], owners: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of what has one owner, divided by the mean number of those; their mean is as before.

    >>> together(np.array([1.0, 2.0, 6.0]), np.array([7, 7, 9])).tolist()
    [2.0, 4.0]
    """
    _, places = np.unique(owners, return_inverse=True)
    sums = np.bincount(places, weights=values).astype(np.float64)
    return sums * len(sums) / max(len(values), 1)
