"""Which of several checkpoints is the best, where their metrics are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def wins_a_tie(
    metrics: Mapping[str, float],
    name: str,
    best: float | None,
    best_step: int | None,
    history: Sequence[Mapping[str, Any]],
) -> bool:
    """Whether the metric is as good as the best so far, and the loss better.

    On a few hundred rows an accuracy takes few values, so ties are common, and the first of
    them, which the Trainer would keep, is the one that was trained least.

    Args:
        metrics: of the evaluation now.
        name: of the metric that decides.
        best: its best value so far.
        best_step: the step of that evaluation.
        history: what was logged so far.

    Worked value: with the best accuracy 0.9 at step 4, logged there with the loss 0.5, an accuracy
    of 0.9 with the loss 0.4 wins; with 0.5 it does not.
    """
    key = f"eval_{name.removeprefix('eval_')}"
    if best is None or "eval_loss" not in metrics or metrics.get(key) != best:
        return False
    losses = [
        entry["eval_loss"]
        for entry in history
        if entry.get("step") == best_step and "eval_loss" in entry
    ]
    return bool(losses) and metrics["eval_loss"] < losses[-1]
