"""A Trainer's own rows, model and arguments as a run of the stages that recipes go through."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hfprune.api.asked import Asked
from hfprune.api.given import task_data, with_embeddings
from hfprune.core.exchange import tell_failure
from hfprune.core.locks import FolderLock
from hfprune.models.bars import without_model_bars
from hfprune.models.checkpoint import load_shrunk
from hfprune.models.sentences import load_embedder
from hfprune.models.whole import load_whole
from hfprune.pipeline.context import Context
from hfprune.pipeline.fingerprint import data_digest, digest_of, recipe_digest, rows_digest
from hfprune.pipeline.preflight import require_shared
from hfprune.pipeline.prepared import Prepared, Reading
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.store import CHECKPOINTS, StageStore
from hfprune.pruning.surgery import RECORD_KEY
from hfprune.pruning.vocabulary.reduce import reduce_vocabulary_
from hfprune.recipe.reading import dump_recipe
from hfprune.report.console import Console
from hfprune.training.trainer import HFPruneTrainer as OneTraining

# Beside the checkpoints of a Trainer: what was measured; with .work, what it was made of.
OUTPUT: Final = "pruned"
GO_ON: Final = "call train(resume_from_checkpoint=True), with the same arguments,"
# Of the arguments, what results do not follow from.
_NO_INPUT: Final = (
    "output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "push_to_hub", "report_to",
    "disable_tqdm", "log_level", "local_rank", "deepspeed", "overwrite_output_dir", "do_train",
    "do_eval", "do_predict", "per_device_eval_batch_size", "hub_token",
)  # fmt: skip


@dataclass
class OwnPrepared(Prepared):
    """Rows and models of a Trainer.

    Attributes:
        like: the class of its model.
        given_teacher: what it was given to learn from, if anything.
        before_training: called before each training.
        ignored: outputs that evaluations leave out, as ``ignore_keys_for_eval`` of ``train()``.
    """

    like: Any = None
    given_teacher: Any = None
    before_training: Callable[[], None] = lambda: None
    ignored: list[str] | None = None

    def saved(self, context: Context, model: SavedModel | str) -> Any:
        """A model that a stage left, of the class of the Trainer's."""
        folder = context.path(model if isinstance(model, str) else model.folder)
        if hasattr(self.like, "encoder_class"):
            return load_embedder(str(folder))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get(RECORD_KEY) is not None:
            return load_shrunk(folder, self.like)
        return load_whole(lambda: self.like.from_pretrained(folder), str(folder)).eval()

    def teacher(self, context: Context, model: SavedModel) -> Any:
        """The user's teacher, as it reads the tokens that the model reads; else the dense model."""
        given, vocabulary = self.given_teacher, context.recipe.pruning.vocabulary
        if given is None:
            return super().teacher(context, model)
        if vocabulary is None:
            return given
        small = copy.deepcopy(given)
        reduce_vocabulary_(
            small,
            self.dense.processor,
            self.data.train["input_ids"],
            min_count=vocabulary.min_count,
        )
        return small


def open_run(
    trainer: Any, asked: Asked, model: Any, output: Path, *, resume: bool
) -> tuple[Context, OwnPrepared]:
    """The rows, and the work folder of a run of stages. All processes call it.

    Args:
        model: as it came in, whole.
        output: the work folder lies beside it.
        resume: whether stages that were done before are taken again.

    Raises:
        TrainingError: for rows that stages cannot read.
        CheckpointError: the work folder is of other arguments.
        OutputError: something else is in the way.
    """
    args = trainer.args
    data = task_data(
        model,
        trainer.train_dataset,
        trainer.eval_dataset,
        trainer.test_dataset,
        text_column=asked.text_column,
        text_pair_column=asked.text_pair_column,
        label_names=args.label_names,
    )
    if data.task == "sentence_embedding":
        dense = model if trainer.given_teacher is None else trainer.given_teacher
        data = with_embeddings(data, dense, trainer.data_collator, args.per_device_eval_batch_size)
    recipe = asked.recipe(model, args, data, distils=trainer.given_teacher is not None)
    console = Console(quiet=bool(args.disable_tqdm), live=False)
    context = Context(recipe, console, StageStore(output), go_on=GO_ON)
    collate = trainer.data_collator
    unlabeled = trainer.unlabeled_dataset
    reading = Reading(trainer.processing_class, data, recipe.task, unlabeled, collate)
    own_test = trainer.test_dataset is not None
    prepared = OwnPrepared(
        reading,
        reading,
        bf16=bool(args.bf16),
        like=type(model),
        given_teacher=trainer.given_teacher,
        about={"judged_on": "test_dataset" if own_test else "eval_dataset"},
    )
    prepared.trainer = Trainings(trainer, asked, prepared).make
    if recipe.pruning.vocabulary is None:  # else the rows are others
        prepared.taught.cache = trainer.given_cache
    if context.is_main:
        context.store.check()
        context.store.open(
            recipe_digest(recipe), dump_recipe(recipe), resume=resume, overwrite=not resume
        )
        values = {k: v for k, v in args.to_dict().items() if k not in _NO_INPUT}
        table = None if asked.latency is None else asked.latency.to_dict()
        context.store.follow_from(
            data=data_digest(data),
            model=weights_digest(model),
            arguments=digest_of(json.loads(json.dumps(values, default=str)), table),
            teacher=None
            if trainer.given_teacher is None
            else weights_digest(trainer.given_teacher),
            unlabeled=None if unlabeled is None else rows_digest(unlabeled),
        )
    require_shared(context.store.folder)
    set_seed(recipe.training.seed)
    return context, prepared


@contextmanager
def alone(context: Context) -> Iterator[None]:
    """The output is ours alone; who waits for the main process hears of its failure."""
    try:
        with without_model_bars():
            if context.is_main:
                with FolderLock(context.store.output):
                    yield
            else:
                yield
    except BaseException:
        tell_failure()
        raise


def weights_digest(model: Any) -> str:
    """SHA-256 of all tensors of a model, and of its class."""
    found = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        # As bytes: NumPy knows no bfloat16.
        found.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Trainings:
    """Makes the trainings of stages, which the Trainer itself carries out.

    So what a user changed (a loss, an optimizer, callbacks, data loaders) holds for all of them.
    """

    trainer: Any
    asked: Asked
    prepared: OwnPrepared

    def make(
        self,
        context: Context,
        model: Any,
        stage: str,
        reading: Reading,
        changes: Mapping[str, Any],
        **options: Any,
    ) -> StageTraining:
        """One training, as :func:`hfprune.pipeline.training.make_trainer` makes it."""
        changes = dict(changes)
        if stage.startswith("recover-") and self.asked.own_length:
            changes.pop("num_train_epochs", None)  # as long as the arguments say
        if "num_train_epochs" in changes:
            changes.setdefault("max_steps", -1)
        args = copy.copy(self.trainer.args)
        args.output_dir = str(context.path(CHECKPOINTS) / stage)
        args.push_to_hub = False  # what lies there is no model to publish yet
        kinds: dict[str, Any] = {"eval_strategy": IntervalStrategy, "save_strategy": SaveStrategy}
        for name, value in changes.items():
            if value is not None:
                setattr(args, name, kinds.get(name, lambda value: value)(value))
        self.prepared.before_training()
        rows, ignored = self._rows(reading), self.prepared.ignored
        return StageTraining(self.trainer, model, args, rows, options, ignored)

    def _rows(self, reading: Reading) -> dict[str, Any]:
        """What the Trainer reads in this training: its own rows, or those split anew."""
        if reading.processor is self.trainer.processing_class:
            return {}
        return {
            "train_dataset": reading.data.train,
            "eval_dataset": reading.data.validation,
            "data_collator": reading.collator,
            "processing_class": reading.processor,
        }


class StageTraining:
    """One training of a stage.

    Attributes:
        model, plan, state, teacher_cache: after :meth:`train`, as of a Trainer of its own.
    """

    def __init__(
        self,
        trainer: Any,
        model: Any,
        args: Any,
        rows: Mapping[str, Any],
        options: Mapping[str, Any],
        ignored: list[str] | None,
    ) -> None:
        self._trainer = trainer
        self._ignored = ignored
        self._changes = {"args": args, "model_init": None, **rows}
        self._options = options
        self.model = model
        self.plan: Any = None
        self.state: Any = None
        self.teacher_cache: Any = None

    def train(self, resume_from_checkpoint: Any = None) -> None:
        """Let the Trainer train this model with these arguments, and give it its own back."""
        trainer, options = self._trainer, self._options
        kept = {name: getattr(trainer, name) for name in self._changes}
        try:
            for name, value in self._changes.items():
                setattr(trainer, name, value)
            set_seed(trainer.args.seed)  # as a Trainer that is made now would
            trainer.take(self.model)
            trainer.set_up(options.get("pruning"), options.get("latency"))
            trainer.pruner.finishes = options.get("finishes", True)
            trainer.learn_from(
                options.get("teacher"),
                options.get("distillation"),
                options.get("unlabeled_dataset"),
                options.get("teacher_cache"),
            )
            before = trainer.train_dataset
            idle = self._without_evaluations()
            try:
                done = OneTraining.train(
                    trainer, resume_from_checkpoint, ignore_keys_for_eval=self._ignored
                )
                trainer.outputs.append(done)
            finally:
                trainer.train_dataset = before  # without what a teacher added
                trainer.callback_handler.callbacks += idle
            self.model, self.plan = trainer.bare_model(), trainer.plan
            self.state, self.teacher_cache = trainer.state, trainer.teacher_cache
        finally:
            for name, value in kept.items():
                setattr(trainer, name, value)

    def _without_evaluations(self) -> list[Any]:
        """Take away callbacks that cannot be where nothing is evaluated, and give them."""
        handler, args = self._trainer.callback_handler, self._trainer.args
        if args.eval_strategy != IntervalStrategy.NO:
            return []
        idle = [one for one in handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        for one in idle:
            handler.callbacks.remove(one)
        return idle


class Callbacks:
    """What callbacks count, so that each training of a run begins with it anew."""

    def __init__(self, trainer: Any) -> None:
        found = trainer.callback_handler.callbacks
        self._kept = [(one, copy.deepcopy(one.state()["attributes"]))
                      for one in found if isinstance(one, ExportableState)]  # fmt: skip

    def reset(self) -> None:
        """As they were."""
        for one, attributes in self._kept:
            for name, value in attributes.items():
                setattr(one, name, copy.deepcopy(value))
