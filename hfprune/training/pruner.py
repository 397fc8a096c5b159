"""What one training prunes, and when: the plan, its gates, the scores, the schedule.

How is the business of :mod:`hfprune.pruning`; here is decided when to score, plan, gate and shrink.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hfprune.core.errors import PlanError, TrainingError
from hfprune.families import adapter_of, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.cost import LatencyTable, parameter_costs
from hfprune.pruning.gates import Gates
from hfprune.pruning.importance import GradientScores, Scores, is_gradient_score, weight_scores
from hfprune.pruning.layout import finish_, stock_form_of, uniform_shape
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.programme.uniform import UniformShape
from hfprune.pruning.schedule import fraction
from hfprune.pruning.search import (
    alike_plan,
    budget_plan,
    global_plan,
    plan_sparsity,
    settled_plan,
    sparsity_budget,
    uniform_plan,
    without_layers,
)
from hfprune.pruning.state import PruningState
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.training.checkpoints import checkpoint_files


class Pruner:
    """Pruning in the course of trainings, each of which begins from the configuration.

    Attributes:
        plan: what is kept of the model as it was before; ``None`` without a configuration.
        complete: whether the target has been reached (or there is none to reach).
        gates: from the beginning of a training to the removal, also after an interruption.
        finishes: whether a shrunk model gets the form that transformers builds alone, if it has
            one; not where more training follows, for which layers keep their places.

    Args:
        config: what to reach and how; ``None`` prunes nothing.
        latency: measured times of blocks, for ``config.speedup``.
        seed: of scores that draw.
    """

    def __init__(
        self, config: PruningConfig | None, latency: LatencyTable | None, seed: int
    ) -> None:
        self.config = config
        self.latency = latency
        self.plan: PruningPlan | None = None
        self.complete = config is None
        self.gates: Gates | None = None
        self.finishes = True
        self._shape: UniformShape | None = None
        self._seed = seed
        self._scores: GradientScores | None = None
        self._costs: dict[BlockKey, float] = {}
        self._resumed: PruningState | None = None
        self._small: weakref.ref[nn.Module] | None = None

    # -- a training -----------------------------------------------------------------------------

    def prunes(self, model: nn.Module) -> bool:
        """Whether there is something to reach: not where this pruner has shrunk the model."""
        return self.config is not None and not self.shrunk(model)

    def shrunk(self, model: nn.Module) -> bool:
        """Whether this pruner has shrunk this very model."""
        return self._small is not None and self._small() is model

    def forget(self, model: nn.Module, *, anew: bool = False) -> None:
        """Leave behind what earlier trainings did; a model that was shrunk keeps its plan.

        Args:
            anew: whether another model will be made for the training that begins, so that this
                one does not count.
        """
        self.release()
        self.gates = None
        self._resumed = None
        if anew:
            self._small = self.plan = None
        self.complete = not self.prunes(model)
        if not self.complete and not anew:
            self.plan = PruningPlan.dense(model_sizes(model))
            if self.config is not None and self.config.layout == "uniform":
                uniform_shape(model)  # refuses what cannot be, before any training

    def resume(self, state: PruningState) -> None:
        """Let the training that begins go on from a checkpoint."""
        self._resumed = state
        self.plan, self.complete = state.plan, state.complete

    def begin(self, model: nn.Module, steps: int) -> None:
        """Put gates on a model that will be trained for so many steps.

        A second begin of one training, as after running out of memory, starts where it started.
        """
        if not self.prunes(model) or self.config is None:
            self.complete = True
            return
        if steps <= 0:
            raise TrainingError("pruning needs at least one training step")
        resumed = self._resumed
        self.release()
        self.plan = PruningPlan.dense(model_sizes(model)) if resumed is None else resumed.plan
        self.complete = resumed is not None and resumed.complete
        self._scores = None
        if is_gradient_score(self.config.score):
            self._scores = GradientScores(self.config.score, self.config.score_decay)
            if resumed is not None:
                self._scores.load_state_dict(resumed.scores)
        self._costs = parameter_costs(model)
        self._shape = uniform_shape(model) if self.config.layout == "uniform" else None
        self.gates = Gates(model, self.plan).attach()
        self.gates.set_trainable(self._scores is not None and not self.complete)

    def release(self) -> None:
        """Take the gates off, if they are on; they are not forgotten."""
        if self.gates is not None:
            self.gates.detach()

    def shrink(self, model: nn.Module) -> bool:
        """Remove from the model what the plan does not keep; false where nothing was begun."""
        if self.gates is None or self.plan is None:
            return False
        self.release()
        self.gates = None
        self._finished(shrink_(model, self.plan))
        self._small = weakref.ref(model)
        return True

    def adopt(self, model: nn.Module, plan: PruningPlan, costs: Mapping[BlockKey, float]) -> None:
        """Take a model that was pruned elsewhere for one that this pruner has shrunk.

        Args:
            plan: what is kept of the dense one.
            costs: of a unit of each of its blocks, in weights.
        """
        self.gates, self.plan, self.complete = None, plan, True
        self._costs = dict(costs)
        self._small = weakref.ref(model)

    def _finished(self, model: nn.Module) -> nn.Module:
        """In the form that it is saved in; a uniform plan on its way may have none yet."""
        if self.finishes and self.config is not None:
            layout = self.config.layout
            if layout == "uneven" or stock_form_of(model) is not None:
                finish_(model, layout)
        return model

    def small_copy(self, model: nn.Module) -> Any:
        """A copy of the model without what the plan does not keep; the model stays as it is."""
        if self.gates is None or self.plan is None:
            raise PlanError("nothing is being pruned, so the model is as small as it will be")
        attached = self.gates.attached
        self.release()  # hooks would be copied with the model
        try:
            copied = copy.deepcopy(model)
        finally:
            if attached:
                self.gates.attach()
        return self._finished(shrink_(copied, self.plan))

    def state(self) -> PruningState | None:
        """For a checkpoint; ``None`` where nothing is being pruned."""
        if self.gates is None or self.plan is None:
            return None
        scores = {} if self._scores is None else self._scores.state_dict()
        return PruningState(self.plan, self.complete, scores)

    # -- its steps ------------------------------------------------------------------------------

    def collect(self, scale: float, world_size: int) -> bool:
        """Read the gate gradients of the batch that is about to be stepped on.

        Args:
            scale: that the loss was multiplied by.
            world_size: processes that train together.

        Returns:
            False if they are not finite; they are then left out of the scores.
        """
        if self.gates is None or self._scores is None or self.complete:
            return True
        gradients = self.gates.gradients()
        self.gates.clear_gradients()
        # One flat tensor: one all-reduce instead of one a block. The mean over processes is the
        # gradient of the global batch, before it is squared.
        flat = torch.cat([gradients[key] for key in gradients]) / scale
        if world_size > 1:
            dist.all_reduce(flat)
            flat /= world_size
        parts = flat.split([len(gradients[key]) for key in gradients])
        return self._scores.update(dict(zip(gradients, parts, strict=True)))

    def step(self, model: nn.Module, done: int, steps: int, world_size: int) -> bool:
        """Prune after ``done`` of ``steps`` steps, if it is time; whether it was."""
        config = self.config
        if config is None or self.gates is None or self.complete:
            return False
        progress = min(done / steps, 1.0)
        finished = progress >= self.end or done >= steps
        if not finished and done % config.update_every_steps:
            return False
        share = 1.0 if finished else fraction(config.schedule, progress, config.start, config.end)
        if share <= 0.0 and not finished:
            return False
        plan = self._next_plan(model, share)
        require_same_plan(plan, world_size, done)
        self.plan = plan
        self.gates.set_plan(plan)
        if finished:
            self.complete = True
            self.gates.set_trainable(False)
        return True

    @property
    def end(self) -> float:
        """Fraction of the training from which the whole target is due."""
        config = self.config
        if config is None:
            return 0.0
        return config.start if config.schedule == "one_shot" else config.end

    def _next_plan(self, model: nn.Module, share: float) -> PruningPlan:
        """The plan at a share of the target, in [0, 1]."""
        config, current = self.config, self.plan
        if config is None or current is None:
            raise PlanError("this trainer has no pruning configuration")
        scores = self._current_scores(model, config)
        sparsity = share * (config.sparsity or 0.0)
        if self.latency is not None and isinstance(config.speedup, float):
            price = self.latency.price(current.totals())
            begin = sum(price(k, len(current.mask(k))) for k in current.keys())
            budget = begin + share * (self.latency.budget_ms(config.speedup) - begin)
            own = {key: scores[key] for key in self._costs}
            if self._shape is not None:
                return alike_plan(own, price, current, budget, self._shape)
            return settled_plan(
                self.latency,
                current,
                lambda cost, layers: budget_plan(
                    own, cost, without_layers(current, layers), budget
                ),
            )
        if self._shape is not None:
            costs = self._costs
            return alike_plan(
                {key: scores[key] for key in costs},
                lambda key, count: costs[key] * count,
                current,
                sparsity_budget(current, costs, sparsity),
                self._shape,
                least={"attention": config.min_heads, "ffn": config.min_neurons},
            )
        if config.allocation == "uniform":
            return uniform_plan(scores, self._costs, current, sparsity)
        return global_plan(
            scores,
            self._costs,
            current,
            sparsity,
            min_heads=config.min_heads,
            min_neurons=config.min_neurons,
        )

    def _current_scores(self, model: nn.Module, config: PruningConfig) -> Scores:
        if self._scores is not None:
            if not self._scores.updates:
                raise TrainingError(
                    "no training batch gave finite gradients before the first pruning step"
                )
            return self._scores.values
        return weight_scores(config.score, model, self._seed)

    # -- how it stands --------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """Where pruning stands, as logged: sparsity in [0, 1] of encoder weights, and counts."""
        if self.plan is None:
            return {}
        sizes = self.plan.sizes()
        return {
            "pruning/sparsity": round(plan_sparsity(self.plan, self._costs), 6),
            "pruning/heads": float(sum(heads for heads, _ in sizes)),
            "pruning/neurons": float(sum(neurons for _, neurons in sizes)),
            "pruning/blocks": float(sum((h > 0) + (n > 0) for h, n in sizes)),
        }

    def sizes(self, model: nn.Module) -> tuple[tuple[int, int], ...]:
        """``(heads, neurons)`` that take part now of each layer, in the order in which they run."""
        plan = None if self.gates is None else self.plan
        sizes = model_sizes(model) if plan is None else plan.sizes()
        return tuple(sizes[layer] for layer in adapter_of(model).order(model))

    def needed_files(self, model: nn.Module) -> tuple[str, ...]:
        """What a checkpoint must hold besides the Trainer's own files to be resumed from."""
        return checkpoint_files(self.config) if self.config and self.prunes(model) else ()

    @contextmanager
    def gated(self) -> Iterator[None]:
        """The model as it is pruned so far, also where an interruption took its gates off."""
        if self.gates is None or self.gates.attached:
            yield
            return
        with self.gates:
            yield


def require_same_plan(plan: PruningPlan, world_size: int, step: int) -> None:
    """Compare the plans of all processes.

    Raises:
        TrainingError: if they differ.
    """
    if world_size <= 1:
        return
    digests: list[str | None] = [None] * world_size
    dist.all_gather_object(digests, plan.digest())
    if len(set(digests)) > 1:
        raise TrainingError(
            f"the processes decided on different plans at step {step} "
            f"({digests}); all must see the same model and score settings"
        )
