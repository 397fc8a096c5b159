"""What the stages read and load: rows as a model reads them, and models of this run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from hfprune.core.files import atomic_directory, atomic_write_json
from hfprune.data.collate import data_collator
from hfprune.data.task_data import TaskData
from hfprune.models.layout import served_as
from hfprune.models.loading import load_classifier
from hfprune.models.sentences import load_embedder
from hfprune.pipeline.context import Context
from hfprune.pipeline.results import SavedModel
from hfprune.pruning.plan import PruningPlan
from hfprune.recipe.sections.whole import Recipe
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.ensemble import Ensemble

PLAN_FILE = "plan.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Reading:
    """How a model reads: its tokenizer or image processor, and the rows as that one splits them.

    ``unlabeled``: rows for distillation alone.
    """

    processor: Any
    data: TaskData
    task: str
    unlabeled: Dataset | None = None
    collate: Any = None  # a collator of the user's own

    @property
    def collator(self) -> Any:
        """Rows to a batch."""
        return self.collate or data_collator(self.processor, self.task)

    def collate_by(self, processor: Any) -> Any:
        """The user's own collator, if there is one, as it pads for another tokenizer."""
        if not hasattr(self.collate, "tokenizer"):
            return self.collate
        other = copy.copy(self.collate)
        other.tokenizer = processor
        return other


@dataclass
class Taught:
    """What is known of the teacher of a run, computed once.

    Attributes:
        cache: its outputs on the training rows, for all trainings that distil.
        logits: on the validation rows, which candidates are judged by.
        others: more teachers, whose predictions are averaged with the dense model's.
        outside: loaded, the mean of whose predictions is learned in place of the dense model's.
    """

    cache: TeacherCache | None = None
    logits: Any = None
    others: tuple[SavedModel, ...] = ()
    outside: tuple[Any, ...] = ()


@dataclass
class Prepared:
    """The rows, and what training needs besides; nothing of it changes once the stages begin.

    Attributes:
        dense: how the dense model reads.
        small: how the pruned models read; another one where the vocabulary is reduced.
        loss: the loss where classes have weights, ``None`` where they count alike.
        class_weights: these weights.
        bf16: whether trainings compute in bfloat16.
        taught: what is known of the teacher.
        trainer: makes the trainers of the stages in another way than a recipe's, with the arguments
            of :func:`hfprune.pipeline.training.make_trainer` but for ``prepared``.
        about: more on the rows, for ``data`` of the results.
    """

    dense: Reading
    small: Reading
    loss: Callable[..., Any] | None = None
    class_weights: list[float] | None = None
    bf16: bool = False
    taught: Taught = field(default_factory=Taught)
    trainer: Callable[..., Any] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> TaskData:
        """The rows as the dense model reads them."""
        return self.dense.data

    def load(
        self,
        context: Context,
        name: str,
        revision: str | None,
        *,
        key: str = "model.name_or_path",
        trained: bool = False,
        new_head: bool = False,
    ) -> Any:
        """A model for this task; one that hfprune shrank before is taken as it is."""
        if context.recipe.task == "sentence_embedding":
            model = load_dense_embedder(context.recipe, name, revision, key)
        else:
            model = load_classifier(
                name,
                self.data,
                revision=revision,
                trust_remote_code=context.recipe.model.trust_remote_code,
                key=key,
                trained=trained,
                new_head=new_head,
            )
        if not self.data.of_images and model.config.pad_token_id is None:
            model.config.pad_token_id = self.dense.processor.pad_token_id
        return model

    def teacher(self, context: Context, model: SavedModel) -> Any:
        """What is learned from: a model of this run, or it and other teachers together."""
        first = self.saved(context, model)
        if self.taught.outside:
            return Ensemble([first, *self.taught.outside], first_counts=False)
        if not self.taught.others:
            return first
        return Ensemble([first, *(self.saved(context, other) for other in self.taught.others)])

    def saved(self, context: Context, model: SavedModel | str) -> Any:
        """A model that a stage of this run left, dense or shrunk."""
        folder = model if isinstance(model, str) else model.folder
        return self.load(context, str(context.path(folder)), None, key="a model of this run")


def load_dense_embedder(recipe: Recipe, name: str, revision: str | None, key: str) -> Any:
    """A sentence encoder, pooled as its folder or the recipe says, and saved as it is served."""
    named = name in (recipe.model.name_or_path, recipe.teacher.name_or_path)
    settings, data = recipe.model, recipe.data
    model = load_embedder(
        name,
        revision=revision,
        key=key,
        pooling=settings.pooling if named else None,
        normalize=settings.normalize if named else None,
    )
    model.sentence_layout = served_as(model.sentence_layout, data.prompt, data.max_length)
    return model


def plan_in(folder: Path) -> PruningPlan:
    """The plan, from the dense model, of a model that :func:`keep` saved with one."""
    return PruningPlan.from_dict(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")))


def keep(
    context: Context,
    model: Any,
    name: str,
    processor: Any,
    plan: PruningPlan | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> SavedModel:
    """Save a model with its processor and, if it was pruned, its plan from the dense one."""
    log = f"log/{name}.json" if history else None
    if context.is_main:
        with atomic_directory(context.path(name), overwrite=True) as temporary:
            model.save_pretrained(temporary)
            if processor is not None:
                processor.save_pretrained(temporary)
            if plan is not None:
                atomic_write_json(temporary / PLAN_FILE, plan.to_dict())
        if log is not None:
            atomic_write_json(context.path(log), list(history))
    return SavedModel(folder=name, log=log)
