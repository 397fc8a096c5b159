"""`train()` of a Trainer whose target takes the stages of a recipe's run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.trainer_utils import TrainOutput

from hfprune.api.asked import Asked
from hfprune.api.given import require_texts
from hfprune.api.stages import OUTPUT, Callbacks, alone, open_run
from hfprune.core.errors import CheckpointError, TrainingError
from hfprune.families import model_sizes
from hfprune.pipeline.made import Made
from hfprune.pipeline.members import make_members
from hfprune.pipeline.prepared import keep, plan_in
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.stages.prune import layers_plan
from hfprune.pruning.cost import parameter_costs
from hfprune.training.checks import NO_SHARDED_GATES
from hfprune.training.distillation.reading import OtherTokenizer


def check_staged(trainer: Any, asked: Asked) -> None:
    """Refuse what would end a run of stages late.

    Raises:
        TrainingError: for what a target needs and the Trainer was not given.
        PlanError: for layers that the model does not have.
        UnsupportedModelError: for a family without an adapter.
    """
    pruning, model = asked.pruning, trainer.bare_model()
    if pruning is None:
        return
    if trainer.is_fsdp_enabled and pruning.by_gates:
        raise TrainingError(NO_SHARDED_GATES)
    if trainer._own_optimizer:
        raise TrainingError(
            "optimizers hold the weights of one model, and this target takes several trainings: "
            "pass optimizer_cls_and_kwargs, or override create_optimizer"
        )
    if trainer.train_dataset is None:
        raise TrainingError("pruning needs rows: pass train_dataset")
    if model is not None:
        sizes = model_sizes(model)
        if pruning.keep_layers is not None:
            layers_plan(sizes, pruning.keep_layers)
    measured = pruning.speedup is not None and asked.latency is None
    recovers = asked.recovery(trainer.args).trains
    compared = pruning.method == "reconstruction" and recovers
    blind = trainer.eval_dataset is None
    if blind and pruning.max_metric_drop is not None:
        raise TrainingError(
            "pruning.max_metric_drop is judged on evaluation rows: pass eval_dataset"
        )
    if blind and compared:
        raise TrainingError(
            "method: reconstruction compares candidates on evaluation rows before it trains one: "
            "pass eval_dataset"
        )
    recovery = asked.recovery(trainer.args)
    for key in ("learning_rate", "num_train_epochs"):
        if blind and getattr(recovery, key) == "auto":
            raise TrainingError(
                f"recovery.{key}: auto is judged on evaluation rows: pass eval_dataset"
            )
    files = asked.sections.get("export")
    if blind and files is not None and files.temperature:
        raise TrainingError("export.temperature is fitted to evaluation rows: pass eval_dataset")
    if blind and pruning.vocabulary is not None:
        raise TrainingError("pruning.vocabulary is compared on evaluation rows: pass eval_dataset")
    if pruning.vocabulary is not None and isinstance(trainer.given_teacher, OtherTokenizer):
        raise TrainingError(
            "pruning.vocabulary takes tokens from the teacher as well, and this one has a "
            "vocabulary of its own: pass a teacher that reads this model's tokens, or leave "
            "vocabulary out"
        )
    limited = pruning.max_metric_drop is not None
    if trainer.processing_class is None and (measured or limited or pruning.vocabulary is not None):
        raise TrainingError(
            "models are exported to measure their speed (or their tokens reduced), with their "
            "tokenizer: pass processing_class"
        )
    if pruning.vocabulary is not None and trainer.unlabeled_dataset is not None:
        raise TrainingError(
            "unlabeled_dataset holds tokens of the whole vocabulary, and pruning.vocabulary splits "
            "texts anew: leave one out, or use distillation.rest_of_texts in a recipe"
        )


class Runs:
    """Carries the stages out, each time from the configuration.

    Attributes:
        under_way: whether stages are being carried out, so that no model is the last one yet.
    """

    def __init__(self, trainer: Any, asked: Asked) -> None:
        self._trainer = trainer
        self._asked = asked
        self.under_way = False
        # Of what a smaller vocabulary split anew: by name, what was given and what took its place.
        self._split: dict[str, tuple[Any, Any]] = {}

    def train(
        self,
        resume_from_checkpoint: Any = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """All stages; arguments as of ``Trainer.train``."""
        trainer, start = self._trainer, time.monotonic()
        if isinstance(resume_from_checkpoint, str | Path):
            raise CheckpointError(
                f"this target takes several trainings, so {str(resume_from_checkpoint)!r} alone "
                "does not say where to go on: call train(resume_from_checkpoint=True)"
            )
        trainer._hp_search_setup(trial)
        self._give_back_rows()
        if trainer.model_init is not None:
            set_seed(trainer.args.seed)  # as Trainer does: its weights may be drawn
            trainer.take(trainer.call_model_init(trial))
        model = trainer.bare_model()
        output = Path(trainer._get_output_dir(trial)) / OUTPUT
        trainer.outputs.clear()
        trainer.family, trainer.search = {}, None
        context, prepared = open_run(
            trainer, self._asked, model, output, resume=bool(resume_from_checkpoint)
        )
        prepared.ignored = ignore_keys_for_eval
        pruning = context.recipe.pruning
        if pruning.vocabulary is not None:
            require_texts(prepared.data, trainer.processing_class, self._asked.text_column)
        if trainer.args.push_to_hub:
            context.console.warn(
                "this target takes several stages, whose models are not pushed while they train: "
                "call push_to_hub() after train()"
            )
        costs = parameter_costs(model)
        prepared.before_training = Callbacks(trainer).reset
        self.under_way = True
        try:
            with alone(context):
                dense = context.stage(
                    "dense",
                    SavedModel,
                    lambda: keep(context, model, "dense", trainer.processing_class),
                    {},
                )
                members = make_members(context, prepared, dense, self._asked.latency)
        except BaseException:
            self._restart(model)
            raise
        finally:
            self.under_way = False
        self._adopt(Made(context, prepared, dense, members), costs)
        if trainer.outputs:
            found: TrainOutput = trainer.outputs[-1]
            return found
        # Nothing was trained: all was done before, or the target takes no training.
        return TrainOutput(0, 0.0, {"train_runtime": round(time.monotonic() - start, 4)})

    def _restart(self, model: Any) -> None:
        """After an interruption the Trainer is as it was before: the stages are on the disk."""
        trainer, asked = self._trainer, self._asked
        trainer.take(model)
        trainer.set_up(None, None)
        trainer.pruning = asked.pruning
        trainer.learn_from(trainer.given_teacher, asked.distillation, trainer.unlabeled_dataset)

    def _give_back_rows(self) -> None:
        """A new model reads the tokens that were given, unless others were set since."""
        for name, (given, ours) in self._split.items():
            if getattr(self._trainer, name) is ours:
                setattr(self._trainer, name, given)
        self._split.clear()

    def _adopt(self, made: Made, costs: Any) -> None:
        """What was made takes the place of what came in."""
        trainer, asked, prepared = self._trainer, self._asked, made.prepared
        models = {
            member.label: prepared.saved(made.context, member.model) for member in made.members.all
        }
        last, small = made.members.all[-1], prepared.small
        teacher, cache = trainer.given_teacher, trainer.teacher_cache
        if small is not prepared.dense:
            teacher = None  # it reads other tokens than this model
            anew = {
                "processing_class": small.processor,
                "data_collator": small.collator,
                "train_dataset": small.data.train,
                "eval_dataset": small.data.validation,
                "test_dataset": None if trainer.test_dataset is None else small.data.test,
            }
            for name, value in anew.items():
                self._split[name] = getattr(trainer, name), value
                setattr(trainer, name, value)
        trainer.take(models[last.label])
        trainer.set_up(asked.pruning, asked.latency)
        plan = plan_in(made.context.path(last.model.folder))
        trainer.pruner.adopt(trainer.bare_model(), plan, costs)
        trainer.learn_from(
            teacher,
            asked.distillation if teacher is not None else None,
            trainer.unlabeled_dataset if teacher is not None else None,
            cache if teacher is not None else None,
        )
        trainer.family = models if made.members.is_family else {}
        trainer.search = made.members.search
        trainer._after.keep(made)
