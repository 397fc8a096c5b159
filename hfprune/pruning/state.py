"""How far a training with gates has come, as it lies in a checkpoint beside the weights.

The weights of such a checkpoint are those of the dense model, so that training can go on; the plan
says what of them counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfprune.core.errors import CheckpointError, PlanError
from hfprune.core.files import atomic_write_json
from hfprune.pruning.plan import PruningPlan

STATE_NAME = "hfprune_state.json"
SCORES_NAME = "hfprune_scores.safetensors"


@dataclass(frozen=True)
class PruningState:
    """Attributes:
    plan: what is kept, of the model whose weights lie beside it.
    complete: whether the target has been reached.
    scores: of :meth:`~hfprune.pruning.importance.GradientScores.state_dict`; empty where scores
        are not gathered while training.
    """

    plan: PruningPlan
    complete: bool
    scores: Mapping[str, Tensor] = field(default_factory=dict)


def write_state(folder: Path, state: PruningState) -> None:
    """Write the state into a checkpoint's folder, which is made where need be."""
    folder.mkdir(parents=True, exist_ok=True)
    if state.scores:
        save_file(dict(state.scores), folder / SCORES_NAME)
    atomic_write_json(
        folder / STATE_NAME, {"plan": state.plan.to_dict(), "complete": state.complete}
    )


def read_state(
    folder: Path, sizes: Sequence[tuple[int, int]], *, scores: bool = False
) -> PruningState:
    """Read what :func:`write_state` wrote.

    Args:
        folder: the checkpoint's.
        sizes: of the model whose weights lie there, as of ``model_sizes``.
        scores: whether the scores are needed too.

    Raises:
        CheckpointError: if there is no state, or it is damaged, or of a model of other sizes.
    """
    try:
        state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        plan = PruningPlan.from_dict(state["plan"])
        plan.require_sizes(sizes)
        found = load_file(folder / SCORES_NAME) if scores else {}
        return PruningState(plan, bool(state["complete"]), found)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no pruning state ({error.filename}); it was not written by an "
            "HFPruneTrainer with the same pruning settings, so it cannot be resumed from"
        ) from error
    except (ValueError, KeyError, TypeError, PlanError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the pruning state is damaged: {error}") from error
