"""The Trainer's events, carried to the pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfprune.core.errors import NotFiniteError
from hfprune.training import faults
from hfprune.training.checks import check_evaluations

if TYPE_CHECKING:
    from hfprune.training.pruner import Pruner


class Prunes(Protocol):
    """What the callback asks of a Trainer."""

    accelerator: Any
    careful: bool
    pruner: Pruner

    def bare_model(self) -> Any: ...

    def pruned_model(self) -> Any: ...

    def finish(self) -> None: ...

    def last_good(self) -> str: ...

    def in_all(self, holds: bool) -> bool: ...

    def log(self, logs: dict[str, float]) -> None: ...


class PruningCallback(TrainerCallback):
    """Begins, scores, prunes and logs where the Trainer says that it is time."""

    def __init__(self, trainer: Prunes) -> None:
        self._trainer = trainer
        self._unlogged = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        pruner = self._trainer.pruner
        pruner.begin(self._trainer.pruned_model(), state.max_steps)
        self._unlogged = False
        if pruner.gates is not None:
            check_evaluations(args, state, pruner.end)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop before a gradient that is not finite is spread over all weights; score."""
        trainer = self._trainer
        # float16: the scaler skips such steps and tries a smaller scale
        scaler = getattr(trainer.accelerator, "scaler", None)
        checked = trainer.careful and scaler is None
        finite = not checked or trainer.in_all(faults.finite_gradients(trainer.bare_model()))
        if finite:
            scale = float(scaler.get_scale()) if scaler is not None else 1.0
            finite = trainer.pruner.collect(scale, args.world_size) or not checked
        if not finite:
            raise NotFiniteError(
                faults.gradients_not_finite(state.global_step + 1, trainer.last_good())
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self._trainer
        steps = state.max_steps
        if trainer.pruner.step(trainer.pruned_model(), state.global_step, steps, args.world_size):
            self._unlogged = True
            if args.logging_strategy == "steps":
                self._log(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.logging_strategy == "epoch" and self._unlogged:
            self._log(control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What callbacks save, publish or measure now, with Trainers of their own, is small."""
        self._trainer.finish()

    def _log(self, control: TrainerControl) -> None:
        # Logging counts as the step's log: without this, its loss would go unlogged.
        due = control.should_log
        self._trainer.log(self._trainer.pruner.metrics())
        control.should_log = due
        self._unlogged = False
