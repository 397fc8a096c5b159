"""What a Trainer was asked for beyond one training, as the sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hfprune.api.about import task_of
from hfprune.core.errors import RecipeError, TrainingError
from hfprune.core.tasks import DEFAULT_METRICS
from hfprune.data.task_data import TaskData
from hfprune.pruning.cost import LatencyTable
from hfprune.recipe.sections.base import MOST_EPOCHS, MOST_TOKENS
from hfprune.recipe.sections.evaluation import BenchmarkConfig, EvaluationConfig
from hfprune.recipe.sections.export import DeployConfig, ExportConfig
from hfprune.recipe.sections.hub import repo_id_problem
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import (
    DistillationConfig,
    RecoveryConfig,
    TrainingConfig,
)
from hfprune.recipe.sections.whole import Recipe
from hfprune.training import checks
from hfprune.training.arguments import training_section

# Keywords of the Trainer that are sections of a recipe, and a key of each for errors.
SECTIONS: Final[Mapping[str, tuple[Any, str]]] = {
    "recovery": (RecoveryConfig, "num_train_epochs=3"),
    "evaluation": (EvaluationConfig, "metrics=['f1_macro']"),
    "export": (ExportConfig, "quantization=None"),
    "benchmark": (BenchmarkConfig, "batch_sizes=[1]"),
    "deploy": (DeployConfig, "cpu='here'"),
}
_IN_MEMORY: Final = "a model in memory"


@dataclass(frozen=True)
class Asked:
    """The target of a Trainer, and how it is to be reached and measured.

    Attributes:
        latency: a table for all speeds, taken as it is.
        sections: those of :data:`SECTIONS` that were given, and ``export``.
        text_column, text_pair_column: of the raw texts.
    """

    pruning: PruningConfig | None
    distillation: DistillationConfig | None
    latency: LatencyTable | None
    text_column: str = "text"
    text_pair_column: str | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pruning: Any, distillation: Any, latency: Any, **more: Any) -> Asked:
        """From what a user wrote.

        Raises:
            RecipeError: for keys and values, as a recipe's.
            TrainingError: for what no section is, and what has no meaning together.
        """
        texts = {name: more.pop(name) for name in ("text_column", "text_pair_column")}
        read = {
            name: checks.read_section(value, *_kind(name))
            for name, value in more.items()
            if value is not None
        }
        sections = {**read, "export": _left_alone(read.get("export"))}
        found = cls(
            checks.read_pruning(pruning),
            checks.read_distillation(distillation),
            latency,
            sections=sections,
            **texts,
        )
        _check_files({name: read[name] for name in ("export", "deploy") if name in read})
        recovery: RecoveryConfig | None = read.get("recovery")
        if recovery is not None and found.pruning is None:
            raise TrainingError(
                "recovery is the training after the removal, and nothing is removed: pass "
                "pruning=..., or leave recovery out"
            )
        silent = recovery is not None and "num_train_epochs" not in recovery.model_fields_set
        if silent and found.trains_while_pruning:
            raise TrainingError(
                "recovery says how to train after the removal, but not for how long: give "
                "num_train_epochs"
            )
        return found

    @property
    def trains_while_pruning(self) -> bool:
        """Whether the removal itself takes a training."""
        pruning = self.pruning
        return pruning is not None and pruning.by_gates

    @property
    def staged(self) -> bool:
        """Whether the target takes more than one training with gates, or something else."""
        recovery: RecoveryConfig | None = self.sections.get("recovery")
        if self.pruning is None:
            return False
        if recovery is not None and recovery.trains:
            return True
        files: ExportConfig | None = self.sections.get("export")
        if files is not None and files.temperature:
            return True  # it is fitted to what was trained
        return not checks.reached_in_one(self.pruning, self.latency)

    @property
    def own_length(self) -> bool:
        """Whether what is left is trained for as long as the arguments say.

        So where nothing else is trained, and no other length was given: a Trainer trains.
        """
        recovery: RecoveryConfig | None = self.sections.get("recovery")
        given = recovery is not None and "num_train_epochs" in recovery.model_fields_set
        return not self.trains_while_pruning and not given

    def recovery(self, args: Any) -> RecoveryConfig:
        """How what is left is trained."""
        recovery: RecoveryConfig = self.sections.get("recovery") or RecoveryConfig()
        if not self.own_length:
            return recovery
        epochs = min(float(args.num_train_epochs), MOST_EPOCHS)
        return recovery.model_copy(update={"num_train_epochs": epochs})

    def recipe(self, model: Any, args: Any, data: TaskData, *, distils: bool) -> Recipe:
        """The recipe of which a Trainer's stages are a run.

        Args:
            model: that is pruned.
            args: the ``TrainingArguments``.
            data: the Trainer's rows.
            distils: whether there is a teacher.
        """
        task = task_of(model)
        if task == "reranking":  # or what its rows say
            task = data.task
        name = getattr(model.config, "_name_or_path", "") or _IN_MEMORY
        evaluation: EvaluationConfig = self.sections.get("evaluation") or EvaluationConfig()
        hub = getattr(args, "hub_model_id", None)
        rows = "rows in memory"
        # Lengths to time are of the deployment, and may be longer than any row here.
        timed: BenchmarkConfig | None = self.sections.get("benchmark")
        given = timed is not None and "sequence_lengths" in timed.model_fields_set
        lengths = timed.sequence_lengths if timed is not None and given else []
        longest = max(data.max_length, *lengths, 2)
        values: dict[str, Any] = {
            "model": {"name_or_path": name},
            "task": task,
            "data": {
                "train_file": f"{rows} (train_dataset)",
                "validation_file": f"{rows} (eval_dataset)",
                "test_file": f"{rows} (test_dataset)",
                "max_length": min(longest, MOST_TOKENS),
                **(
                    {"text_column": self.text_column, "text_pair_column": self.text_pair_column}
                    if self.pruning is not None and self.pruning.vocabulary is not None
                    else {}
                ),
            },
            "teacher": {"name_or_path": name},
            "training": _computed(
                training_section(args), evaluation.metrics or list(DEFAULT_METRICS[task])
            ),
            "pruning": self.pruning,
            "distillation": (self.distillation or DistillationConfig()) if distils else None,
            "recovery": self.recovery(args),
            # The name of the output is the title of the card.
            "output_dir": f"runs/{Path(args.output_dir).name or 'model'}",
            "hub": {} if hub is None or repo_id_problem(hub) else {"hub_model_id": hub},
            **{key: value for key, value in self.sections.items() if key != "recovery"},
        }
        return Recipe(**{k: _plain(v) for k, v in values.items()})


def _left_alone(files: ExportConfig | None) -> ExportConfig:
    """What to export, with a temperature only where it was asked for.

    It changes the model, which here is in the user's hands, and is fitted to evaluation rows, which
    there may be none of.
    """
    if files is None:
        return ExportConfig(temperature=False)
    if "temperature" in files.model_fields_set:
        return files
    return files.model_copy(update={"temperature": False})


def _kind(name: str) -> tuple[Any, str, str]:
    kind, example = SECTIONS[name]
    return kind, name, example


def _computed(training: TrainingConfig, metrics: list[str]) -> TrainingConfig:
    """The section, without a metric that only a function of the user's computes."""
    if training.metric_for_best_model in (*metrics, "loss", "divergence"):
        return training
    return training.model_copy(update={"metric_for_best_model": None, "greater_is_better": None})


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_unset=True) if hasattr(value, "model_dump") else value


def _check_files(sections: Mapping[str, Any]) -> None:
    """Refuse sections that exclude each other before anything is trained, not when files are made.

    Raises:
        RecipeError: as a recipe's.
    """
    if sections:
        values: dict[str, Any] = {
            "model": {"name_or_path": _IN_MEMORY},
            "data": {"train_file": _IN_MEMORY},
            "pruning": {"sparsity": 0.5},
            "output_dir": "runs/model",
        }
        Recipe(**values, **{name: _plain(section) for name, section in sections.items()})


def check_recipe_like(asked: Asked) -> None:
    """Refuse what the rows of a Trainer cannot be asked for.

    Raises:
        RecipeError: for texts' rests, which only a recipe can cut.
    """
    if asked.distillation is not None and asked.distillation.rest_of_texts:
        raise RecipeError(
            "distillation.rest_of_texts reads whole texts, and the Trainer has rows that are cut: "
            "pass the rest, tokenized, as unlabeled_dataset, and set it to false"
        )
