"""What goes to the Hub while a model is being pruned."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import upload_folder
from transformers.trainer_utils import HubStrategy

WHOLE = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


@contextmanager
def small_beside_checkpoint(trainer: Any, checkpoint: str) -> Iterator[str]:
    """A folder for the small model, which the Trainer's own upload then takes for the checkpoint.

    With ``hub_strategy`` ``checkpoint`` and ``all_checkpoints`` the checkpoint itself follows, into
    a folder of its own in the repository as the Trainer has it: what it takes to resume, dense
    weights and the plan so far, which ``hfprune.from_pretrained`` of that folder carries out.

    Args:
        trainer: its ``args``, ``hub_model_id`` and ``push_in_progress`` count.
        checkpoint: the checkpoint's folder.
    """
    args, strategy = trainer.args, trainer.args.hub_strategy
    before = _jobs(trainer)
    with tempfile.TemporaryDirectory() as folder:  # files are copied from there, then uploaded
        args.hub_strategy = HubStrategy.EVERY_SAVE if strategy in WHOLE else strategy
        try:
            yield folder
        finally:
            args.hub_strategy = strategy
    if strategy not in WHOLE or _jobs(trainer) == before:
        return  # the Trainer passed this one over, as an earlier one is still under way
    last = strategy == HubStrategy.CHECKPOINT
    trainer.push_in_progress.jobs.append(
        upload_folder(
            repo_id=trainer.hub_model_id,
            folder_path=checkpoint,
            path_in_repo="last-checkpoint" if last else Path(checkpoint).name,
            commit_message=f"Training in progress, step {trainer.state.global_step}, checkpoint",
            token=args.hub_token,
            run_as_future=True,
            revision=getattr(args, "hub_revision", None),
        )
    )


def _jobs(trainer: Any) -> list[Any]:
    """The uploads that are under way, for comparison."""
    running = getattr(trainer, "push_in_progress", None)
    return [] if running is None else list(running.jobs)
