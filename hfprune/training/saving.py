"""What a Trainer that prunes writes, pushes and reads: the model as it is pruned so far."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer

from hfprune.core.files import follow_umask
from hfprune.families import model_sizes
from hfprune.models.cross_encoder import carry_along
from hfprune.pruning.importance import is_gradient_score
from hfprune.pruning.state import read_state, write_state
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.training import faults
from hfprune.training.checkpoints import require_resumable
from hfprune.training.pruner import Pruner
from hfprune.training.pushing import small_beside_checkpoint
from hfprune.training.sharding import (
    is_sharded,
    load_whole_,
    shard_by_layers_,
    weights_in,
    whole_weights,
)


class SavesAsPruned(Trainer):
    """The part of :class:`~hfprune.training.trainer.HFPruneTrainer` that has to do with files."""

    pruner: Pruner
    pruning: PruningConfig | None
    _as_it_is: bool
    _unsharded: Any = None  # under FSDP: what the model of one process looks like

    def bare_model(self) -> Any:
        """``self.model`` without what accelerate wraps it in; a search has none between trials."""
        return None if self.model is None else self.accelerator.unwrap_model(self.model)

    def pruned_model(self) -> Any:
        """The model that is pruned: all of :meth:`bare_model`, or what a subclass finds in it."""
        return self.bare_model()

    def last_good(self) -> str:
        """Which checkpoint training can go on from, in words."""
        needed = self.pruner.needed_files(self.pruned_model())
        return faults.last_good(str(self.args.output_dir), needed)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As ``Trainer.save_model``; while something is gated, the model without it.

        Under FSDP it is the whole model, whatever its ``state_dict_type``; all processes call it.
        """
        if self.is_fsdp_enabled:
            with self._made_whole():
                if self.args.should_save:
                    self._save(output_dir)
            if self.args.push_to_hub and not _internal_call:
                self.push_to_hub(commit_message="Model save")
            return
        if self._as_it_is or self.pruner.gates is None or not self.args.should_save:
            super().save_model(output_dir, _internal_call)
            return
        self._as_it_is = True
        try:
            with self._without_gated():
                super().save_model(output_dir, _internal_call)
        finally:
            self._as_it_is = False

    @contextmanager
    def _without_gated(self) -> Iterator[None]:
        """``self.model`` without what is gated, for as long as it is written."""
        whole = self.model
        self.model = self.pruner.small_copy(self.bare_model())
        try:
            yield
        finally:
            self.model = whole

    def _wrap_model(self, model: Any, training: bool = True, *args: Any, **kwargs: Any) -> Any:
        if self.is_fsdp_enabled and training and not is_sharded(model):
            self._unsharded = copy.deepcopy(model).cpu()
            shard_by_layers_(self.accelerator, self.pruned_model())
        return super()._wrap_model(model, training, *args, **kwargs)

    def _with_whole_weights(self) -> Any:
        self._unsharded.load_state_dict(whole_weights(self.bare_model()))
        return self._unsharded

    @contextmanager
    def _made_whole(self) -> Iterator[None]:
        """``self.model`` with all of its weights, for as long as it is written."""
        sharded = self.model
        if sharded is not None and is_sharded(sharded):
            self.model = self._with_whole_weights()
        try:
            yield
        finally:
            self.model = sharded

    def unshard(self) -> None:
        """After a training under FSDP: ``self.model`` as one process has it, in every process."""
        if self.model is None or not is_sharded(self.model):
            return
        whole = self._with_whole_weights().to(self.args.device)
        self.model = self.model_wrapped = whole
        self._unsharded = self.optimizer = self.lr_scheduler = None

    def _load_best_model(self) -> None:
        if self.model is None or not is_sharded(self.model):
            super()._load_best_model()
            return
        self._read_sharded(str(self.state.best_model_checkpoint))

    def _read_sharded(self, folder: str) -> None:
        """The first process reads, and all get their parts."""
        weights = weights_in(folder) if self.is_world_process_zero() else {}
        load_whole_(self.bare_model(), weights)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As the Trainer's, with what a CrossEncoder's folder says besides.

        Who may read the folder's files may read the weights as well.
        """
        super()._save(output_dir, state_dict)
        if not self.args.should_save:  # transformers 5 calls this in every process
            return
        folder = self.args.output_dir if output_dir is None else output_dir
        follow_umask(str(folder), "model*.safetensors")
        longest = getattr(self.processing_class, "model_max_length", None)
        carry_along(self.bare_model(), str(folder), longest)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        with faults.explained_writing(folder, self.args.should_save, self.last_good):
            state = self.pruner.state()
            # First ours: the Trainer writes trainer_state.json last, so what has it is whole.
            if state is not None and self.args.should_save:
                write_state(folder, state)
            self._as_it_is = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._as_it_is = False

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """What is pushed while training is the model as it is pruned so far."""
        if self.pruner.gates is None or not self.is_world_process_zero():
            super()._push_from_checkpoint(checkpoint_folder)
            return
        with small_beside_checkpoint(self, checkpoint_folder) as folder:
            with self._without_gated():
                self.bare_model().save_pretrained(folder)
            super()._push_from_checkpoint(folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        bare, folder = self.pruned_model(), Path(resume_from_checkpoint)
        prunes = self.pruner.prunes(bare)
        require_resumable(folder, prunes, shrunk=self.pruning is not None)
        if self.pruning is not None and prunes:
            scores = is_gradient_score(self.pruning.score)
            self.pruner.resume(read_state(folder, model_sizes(bare), scores=scores))
        self._read_weights(resume_from_checkpoint, model)

    def _read_weights(self, folder: str, model: nn.Module | None) -> None:
        """The Trainer's own part of going on from a checkpoint."""
        if model is not None and is_sharded(model):
            self._read_sharded(folder)
            return
        super()._load_from_checkpoint(folder, *([] if model is None else [model]))
