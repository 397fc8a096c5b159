"""Trainers of sentence-transformers that prune: their data sets, losses and evaluators, our gates.

A model of sentence-transformers is a row of modules, of which one holds a model of transformers.
That one is pruned; what stands around it never notices. sentence-transformers itself is not
imported here, so it need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

from torch import nn

from hfprune.models.checkpoint import was_pruned
from hfprune.models.within import load_as, place_within
from hfprune.pruning.cost import LatencyTable
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.training import checks
from hfprune.training.gated import TrainsWithGates


class PruningMixin(TrainsWithGates):
    """Mixed into a trainer of sentence-transformers, lets it prune while it trains.

    >>> class Trainer(hfprune.PruningMixin, SentenceTransformerTrainer): ...

    Its ``loss``, data sets, ``evaluator`` and arguments are its own. Gates lie on the encoder while
    it trains, evaluations and saved models are those of the model as it is pruned so far,
    checkpoints can be resumed, the best model is looked for once the target is reached, and after
    ``train()`` the encoder in ``trainer.model`` is physically small. Losses see one model with
    smaller layers, whatever they do with it.

    What came small (:func:`hfprune.load_as`) is trained as it is, with ``pruning=None``:
    checkpoints and the best model of layers of uneven sizes load only so.

    Args:
        *args, **kwargs: of the trainer that it is mixed into.
        pruning: ``sparsity`` and how to get there (or a dict of its keys, or the path of a recipe);
            ``None`` prunes nothing.
        latency: measured times of blocks, for one ``speedup``.

    Raises:
        TrainingError: for targets that take several trainings, and for DeepSpeed, FSDP and
            DataParallel.
        RecipeError: for keys and values of ``pruning``.
        UnsupportedModelError: the model holds no encoder of a family that hfprune knows, or
            several.
    """

    def __init__(
        self,
        *args: Any,
        pruning: PruningConfig | Mapping[str, Any] | str | PathLike[str] | None = None,
        latency: LatencyTable | None = None,
        **kwargs: Any,
    ) -> None:
        asked = checks.read_pruning(pruning)
        if asked is not None:
            checks.check_target(asked, latency)
        self.careful, self._as_it_is = True, False
        super().__init__(*args, **kwargs)
        checks.check_environment(
            self.args,
            deepspeed=self.is_deepspeed_enabled,
            fsdp=checks.NO_SHARDED_SENTENCES if self.is_fsdp_enabled else None,
        )
        checks.train_in_float32_(self.pruned_model())
        self.set_up(asked, latency)
        self._hook_in()

    def pruned_model(self) -> Any:
        """The model of transformers that stands in ``self.model``."""
        model = self.bare_model()
        return None if model is None else getattr(*place_within(model))

    def call_model_init(self, trial: Any = None) -> Any:
        """As the trainer's; the encoder in float32."""
        model = super().call_model_init(trial)
        checks.train_in_float32_(getattr(*place_within(model)))
        return model

    @contextmanager
    def _without_gated(self) -> Iterator[None]:
        # Not a copy of all: what describes a model of sentence-transformers holds its trainer.
        parent, name = place_within(self.bare_model())
        whole = getattr(parent, name)
        setattr(parent, name, self.pruner.small_copy(whole))
        try:
            yield
        finally:
            setattr(parent, name, whole)

    def _read_weights(self, folder: str, model: nn.Module | None) -> None:
        bare = self.bare_model()
        if not was_pruned(self.pruned_model().config, ""):
            super()._read_weights(folder, model)
            return
        bare.load_state_dict(load_as(type(bare), folder).state_dict())
