"""A Trainer that prunes with gates while it trains, whatever it trains on and by what loss.

:class:`~hfprune.training.trainer.HFPruneTrainer` adds a teacher to it, and
:class:`~hfprune.training.mixin.PruningMixin` lets trainers of sentence-transformers do it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hfprune.core.errors import NotFiniteError, TrainingError, TrainingMemoryError
from hfprune.core.faults import is_out_of_memory
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.plan import PruningPlan
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.training import checks, faults
from hfprune.training.attention import quick_attention
from hfprune.training.best import wins_a_tie
from hfprune.training.callbacks import PruningCallback
from hfprune.training.checkpoints import checkpoint_to_resume, step_of
from hfprune.training.pruner import Pruner
from hfprune.training.saving import SavesAsPruned


class TrainsWithGates(SavesAsPruned):
    """The part of a Trainer that prunes: begin, score, prune, choose the best, shrink.

    Attributes:
        careful: whether a loss or gradients that are not finite stop the training.
    """

    careful: bool
    _batch = ""
    _resumed_at = 0

    def set_up(self, pruning: PruningConfig | None, latency: LatencyTable | None) -> None:
        """What trainings from now on prune; the model of now is where they begin.

        Raises:
            TrainingError: parameters are sharded, which gates cannot follow.
        """
        if pruning is not None and self.is_fsdp_enabled:
            raise TrainingError(checks.NO_SHARDED_GATES)
        self.pruning = pruning
        self.pruner = Pruner(pruning, latency, self.args.seed)
        self.pruner.forget(self.pruned_model())

    def _hook_in(self) -> None:
        """Let the Trainer's events prune. Once, when all else is set up."""
        # Before the user's (and after the Trainer's flow): what they see of a step, and of the
        # end, is what its checkpoint and its evaluation are of.
        self.callback_handler.callbacks.insert(1, PruningCallback(self))

    @property
    def plan(self) -> PruningPlan | None:
        """What is kept of the model as it came in; ``None`` where nothing is pruned."""
        return self.pruner.plan

    @property
    def _complete(self) -> bool:
        return self.pruner.complete

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``; then what was pruned is physically removed.

        ``resume_from_checkpoint=True`` means the newest checkpoint that is whole.

        Raises:
            TrainingError: the loss or the gradients are not finite, memory ran out (then it is a
                ``RuntimeError`` too), or training ended before the target was reached; names the
                step and the last whole checkpoint.
            CheckpointError: for a checkpoint that this training cannot go on from.
            OutputError: a checkpoint could not be written.
        """
        self._refuse()
        try:
            self._prepare()
            if resume_from_checkpoint is True:
                needed = self.pruner.needed_files(self.pruned_model())
                found = checkpoint_to_resume(str(self.args.output_dir), needed)
                resume_from_checkpoint = True if found is None else str(found)
            self._resumed_at = step_of(resume_from_checkpoint)
            result = super().train(resume_from_checkpoint, *args, **kwargs)
            self.unshard()
        except Exception as error:
            if isinstance(error, TrainingError) or not is_out_of_memory(error):
                raise
            step = self.state.global_step + 1
            raise TrainingMemoryError(
                faults.out_of_memory(error, self.args, step, self._batch, self.last_good())
            ) from error
        finally:
            self.pruner.release()
        if not self._complete:
            raise TrainingError(
                "training ended before pruning reached its target (a callback stopped it, or it "
                "had no steps); train longer or let pruning end earlier (pruning.end)"
            )
        self.finish()
        return result

    def _refuse(self) -> None:
        """Refuse what cannot be trained, before anything is touched."""

    def _prepare(self) -> None:
        """What a training begins with."""
        self.pruner.forget(self.pruned_model(), anew=self.model_init is not None)

    def finish(self) -> None:
        """At the end of a training that reached its target: the small model, if it is not yet."""
        if self._complete and self.pruner.gates is not None:
            checks.warn_of_no_best(self.args, self.state)
            self.shrink()

    def shrink(self) -> nn.Module:
        """Remove from ``self.model`` what the plan does not keep, as :meth:`train` does."""
        model: nn.Module = self.bare_model()
        if self.pruner.shrink(self.pruned_model()):
            self.model = self.model_wrapped = model
            self.optimizer = self.lr_scheduler = None
        return model

    def pruning_metrics(self) -> dict[str, float]:
        """Where pruning stands, as logged: sparsity in [0, 1] of encoder weights, and counts."""
        return self.pruner.metrics()

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As ``Trainer.training_step``; stops at a loss that is not finite, in all processes."""
        self._batch = faults.describe_batch(inputs)
        with quick_attention(self.args, inputs):
            loss = super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.careful and not self.in_all(bool(torch.isfinite(loss).all())):
            step = self.state.global_step + 1
            raise NotFiniteError(
                faults.loss_not_finite(float(loss), step, self._batch, self.last_good())
            )
        return loss

    def in_all(self, holds: bool) -> bool:
        """Whether something holds in every process; each of them must ask.

        One that stops alone leaves the others waiting for it.
        """
        if self.args.world_size == 1:
            return holds
        count = torch.tensor([float(holds)], device=self.args.device)
        return bool(self.accelerator.reduce(count) == self.args.world_size)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; of a checkpoint after the last step, no epoch is left.

        The Trainer looks for the end after a step only: within an epoch it would take one more.
        """
        found = super().set_initial_training_values(*args, **kwargs)
        epochs, steps_of_one, *_, last = found
        if not 0 < last <= self._resumed_at:
            return found
        return min(epochs, self._resumed_at // steps_of_one), *found[1:]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.evaluation_loop``, of the model as it is pruned so far."""
        with self.pruner.gated():
            return super().evaluation_loop(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        state = self.state
        best, step = state.best_metric, state.best_global_step
        # Also before the target: it refuses a metric that is not there.
        better = bool(super()._determine_best_metric(metrics, trial))
        if not self._complete:
            state.best_metric, state.best_global_step = best, step
            return False
        if better or not self.careful:
            return better
        name = str(self.args.metric_for_best_model)
        if not wins_a_tie(metrics, name, best, step, state.log_history):
            return False
        state.best_global_step = state.global_step
        return True
