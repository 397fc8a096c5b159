"""Training of the small model after the physical removal, in one go or in rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hfprune.pipeline.context import Context
from hfprune.pipeline.decisions import shown_nearer
from hfprune.pipeline.prepared import Prepared, keep, plan_in
from hfprune.pipeline.results import Recovered, SavedModel
from hfprune.pipeline.stages.trial import by_rows
from hfprune.pipeline.training import checkpoint_of, recovery_trainer, train


def run(
    context: Context,
    prepared: Prepared,
    label: str,
    teacher: SavedModel,
    before: SavedModel,
    number: int = 1,
    learning_rate: float | None = None,
) -> Recovered:
    """Train what is left.

    Args:
        before: the model that was pruned, or what the round before has left.
        number: of the round, from 1.
        learning_rate: in place of the recipe's.
    """
    judged = number > 1
    again = f"-{number}" if judged else ""
    stage, dense = f"recover-{label}{again}", prepared.teacher(context, teacher)
    rows = []
    if judged:
        rows.append(by_rows(context, prepared, prepared.saved(context, before.folder), dense))
    trainer = recovery_trainer(
        context,
        prepared,
        prepared.saved(context, before.folder),
        dense,
        stage,
        num_train_epochs=context.recipe.recovery.round_epochs,
        **({} if learning_rate is None else {"learning_rate": learning_rate}),
    )
    train(prepared, trainer, checkpoint_of(context, stage))
    nearer, divergence = None, None
    if judged:
        rows.append(by_rows(context, prepared, trainer.model, dense))
        nearer = shown_nearer(*rows)
        divergence = float(np.mean(rows[0])), float(np.mean(rows[1]))
        context.console.note(
            f"{label}, round {number}: divergence from the teacher {divergence[0]:.4f} before, "
            f"{divergence[1]:.4f} after; "
            + ("nearer" if nearer else "not shown to be nearer, so it is left out")
        )
    history: Sequence[Mapping[str, Any]] = trainer.state.log_history
    if judged and before.log is not None:
        earlier = json.loads(context.path(before.log).read_text(encoding="utf-8"))
        history = chained(earlier, history)
    saved = keep(
        context,
        trainer.model,
        f"{label}-recovered{again}",
        prepared.small.processor,
        plan_in(context.path(before.folder)),
        history,
    )
    return Recovered(folder=saved.folder, log=saved.log, nearer=nearer, divergence=divergence)


def has_to_learn(
    context: Context,
    prepared: Prepared,
    label: str,
    pruned: SavedModel,
    start: SavedModel,
    teacher: SavedModel,
) -> bool:
    """Whether a training has something to bring back, or more to learn from than itself.

    Where int8 alone reaches the speed, nothing is removed. Learning from its own answers only moves
    the dense model away from them.

    Args:
        start: what was pruned: the teacher, or it with fewer tokens.
    """
    plan = plan_in(context.path(pruned.folder))
    removed = plan.sizes() != plan.totals() or start != teacher
    taught = prepared.taught.others or prepared.taught.outside
    if removed or taught or prepared.trainer is not None:
        return True
    context.console.note(
        f"{label}: nothing is removed for its speed: it is the dense model, and not trained"
    )
    return False


def chained(
    earlier: Sequence[Mapping[str, Any]], later: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One log of two trainings that followed one another: steps and epochs go on.

    >>> chained([{"step": 4, "epoch": 1.0}], [{"step": 2, "epoch": 0.5, "loss": 0.3}])[1]
    {'step': 6, 'epoch': 1.5, 'loss': 0.3}
    """
    begin = {
        key: max((entry.get(key, 0) for entry in earlier), default=0) for key in ("step", "epoch")
    }
    moved = [
        {key: value + begin[key] if key in begin else value for key, value in entry.items()}
        for entry in later
    ]
    return [*map(dict, earlier), *moved]
