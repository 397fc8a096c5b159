"""The whole recipe, and which of its sections cannot be said together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Self

from pydantic import Field, model_validator

from hfprune.core.tasks import (
    DEFAULT_METRICS,
    LOWER_IS_BETTER,
    METRICS,
    ONE_OUTPUT,
    WITHOUT_CLASSES,
    Task,
)
from hfprune.recipe.places import Clash, Clashing
from hfprune.recipe.sections.base import Name, Section
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.evaluation import BenchmarkConfig, EvaluationConfig
from hfprune.recipe.sections.export import DeployConfig, ExportConfig
from hfprune.recipe.sections.hub import HubConfig
from hfprune.recipe.sections.lessons import lesson_clashes
from hfprune.recipe.sections.model import ModelConfig, TeacherConfig
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig, RecoveryConfig, TrainingConfig
from hfprune.recipe.sections.unused import unused_by_embeddings
from hfprune.recipe.wording import suggest, yaml_word

# Texts that are reranked for one query: what users wait for.
CANDIDATES = [10, 50, 100]


class Recipe(Section):
    """One run: fine-tune, prune, evaluate, export and time an encoder.

    Values that depend on others (the metrics, how the best checkpoint is chosen, the lengths to
    time) are filled in when a recipe is made, so that it shows what will be done.
    """

    model: ModelConfig = Field(description="The pretrained encoder to prune.")
    task: Task = Field(
        default="single_label_classification",
        description="What is predicted: for texts the kind of labels, spelled as problem_type in "
        "the model's config.json, or token_classification for a tag for each word (NER); "
        "image_classification for one class for each image, reranking for how well a text answers "
        "a query, sentence_embedding for a vector for each text, which needs no labels.",
    )
    data: DataConfig = Field(description="Where the labelled texts are.")
    teacher: TeacherConfig = Field(
        default_factory=TeacherConfig,
        description="The dense model that the pruned one starts from and learns from.",
    )
    training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="Training with pruning."
    )
    pruning: PruningConfig = Field(description="What to remove, and when.")
    distillation: DistillationConfig | None = Field(
        default_factory=DistillationConfig,
        description="What the pruned model learns from the teacher; null: the true labels only.",
    )
    recovery: RecoveryConfig = Field(
        default_factory=RecoveryConfig,
        description="Training of the small model after the physical removal.",
    )
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="What is measured on the test rows."
    )
    export: ExportConfig = Field(default_factory=ExportConfig, description="Export to ONNX.")
    deploy: DeployConfig | None = Field(
        default_factory=DeployConfig,
        description="Which files to deploy: chosen among runtimes, precisions and graphs, judged "
        "on validation rows and timed on their real lengths; deploy.json says which to take for "
        "which use. null: none are chosen, an int8 file is written as `export.quantization` says. "
        "Not given: the defaults where `export.quantization` is auto, else null, for the file is "
        "named already.",
    )
    benchmark: BenchmarkConfig = Field(
        default_factory=BenchmarkConfig,
        description="How the speed of the exported models is measured.",
    )
    hub: HubConfig = Field(
        default_factory=HubConfig,
        description="Publishing the finished output folder on the Hub.",
    )
    output_dir: Name = Field(
        description="Folder of everything that is written (relative to the working directory).",
        examples=["runs/my-model"],
    )
    overwrite: bool = Field(
        default=False, description="Replace an output folder that is not empty."
    )
    resume: bool = Field(
        default=False, description="Go on from the last checkpoint in the output folder."
    )

    def _clashes(self) -> Iterator[Clash]:
        yield from self._task_clashes()
        yield from self._metric_clashes()
        given = "sequence_lengths" in self.benchmark.model_fields_set
        longest = max(self.benchmark.sequence_lengths, default=0)
        if given and self.task == "reranking" and not longest:
            pass  # the pairs' own length, as a written recipe says it
        elif given and self.task == "image_classification" and longest:
            yield Clash(
                "benchmark.sequence_lengths has no meaning for images, whose size the model's "
                "config names: remove it",
                ("benchmark.sequence_lengths", "task"),
            )
        elif given and self.task != "image_classification" and not longest:
            yield Clash("must not be empty", ("benchmark.sequence_lengths",))
        elif given and longest > self.data.max_length:
            yield Clash(
                f"benchmark.sequence_lengths asks for {longest} tokens, but inputs are cut at "
                f"data.max_length {self.data.max_length}: lower one or raise the other",
                ("benchmark.sequence_lengths", "data.max_length"),
            )
        yield from self._deployment_clashes()
        if self.overwrite and self.resume:
            yield Clash(
                "overwrite starts afresh and resume goes on: set one of them to false",
                ("overwrite", "resume"),
            )
        if self.model.new_head and self.teacher.name_or_path is not None:
            yield Clash(
                "model.new_head has no meaning with teacher.name_or_path, a model that is "
                "fine-tuned already and keeps its head: remove one",
                ("model.new_head", "teacher.name_or_path"),
            )
        yield from self._output_clashes()

    def _deployment_clashes(self) -> Iterator[Clash]:
        chosen = self.deploy is not None and not self._chosen_already
        if not chosen and self.benchmark.traffic != "both":
            yield Clash(
                "benchmark.traffic is only used where files are chosen for deployment: remove it, "
                "or add `deploy: {}`",
                ("benchmark.traffic", "deploy"),
            )
        usual = {name: field.default for name, field in ExportConfig.model_fields.items()}
        if chosen and self.export.quantization_seconds != usual["quantization_seconds"]:
            yield Clash(
                "export.quantization_seconds is for the search for int8 settings alone, which the "
                "choice of files to deploy takes the place of: set deploy.seconds instead, or "
                "deploy to null",
                ("export.quantization_seconds", "deploy"),
            )
        drop = self.export.max_quantization_drop != usual["max_quantization_drop"]
        if drop and not chosen and self.export.quantization != "auto":
            yield Clash(
                "export.max_quantization_drop is only used where files are chosen: remove it, set "
                "export.quantization to auto, or add `deploy: {}`",
                ("export.max_quantization_drop", "export.quantization"),
            )

    def _task_clashes(self) -> Iterator[Clash]:
        if self.task != "multi_label_classification" and isinstance(self.data.label_column, list):
            yield Clash(
                f"data.label_column is a list, which is only for task multi_label_classification; "
                f"the task is {self.task}: name one column",
                ("data.label_column", "task"),
            )
        yield from self._input_clashes()
        yield from self._whole_text_clashes()
        yield from self._weight_clashes()
        names = self.data.label_names
        if self.task in WITHOUT_CLASSES and names is not None:
            yield Clash(
                f"data.label_names has no meaning for task {self.task}, "
                f"{'whose label is a number' if self.task in ONE_OUTPUT else 'without labels'}: "
                "remove it",
                ("data.label_names", "task"),
            )
        several = self.task not in ("multi_label_classification", *WITHOUT_CLASSES)
        if several and names is not None and len(names) < 2:
            yield Clash(
                f"data.label_names needs at least two labels for task {self.task}",
                ("data.label_names", "task"),
            )

    def _input_clashes(self) -> Iterator[Clash]:
        """Keys of one kind of input that were set for another."""
        unused: dict[str, str] = {}
        if self.task == "image_classification":
            why = "has no meaning for images"
            unused = {
                "data.text_column": f"{why}: name their column in data.image_column",
                "data.text_pair_column": f"{why}: remove it",
                "data.max_length": f"{why}: remove it",
                "data.stride": f"{why}: remove it",
                "training.group_by_length": f"{why}, which are all of one size: remove it",
            }
        else:
            unused["data.image_column"] = (
                f"is only for task image_classification; the task is {self.task}: remove it, or "
                "change the task"
            )
        if self.task == "token_classification":
            why = "is for one label a text, not for tags of words: remove it"
            unused |= {"data.text_pair_column": why, "data.stride": why}
        unused |= unused_by_embeddings(self.task)
        if self.task == "reranking":
            unused["data.stride"] = (
                "is for single texts, and reranking reads pairs: remove it (what is longer than "
                "data.max_length is cut)"
            )
        else:
            why = f"is only for task reranking; the task is {self.task}: remove it"
            unused |= {"data.negative_column": why, "data.highest_relevance": why,
                       "distillation.ranking_loss": why}  # fmt: skip
        for key, text in unused.items():
            section, name = key.split(".")
            values = getattr(self, section)
            if (
                values is not None
                and getattr(values, name) != type(values).model_fields[name].default
            ):
                yield Clash(f"{key} {text}", (key, "task"))

    def _whole_text_clashes(self) -> Iterator[Clash]:
        """What is made for whole texts with a label each."""
        distillation = self.distillation
        rest = distillation is not None and distillation.rest_of_texts
        yield from lesson_clashes(
            self.task, self.data, self.teacher, self.pruning, distillation, self.recovery
        )
        if self.task in ("token_classification", "image_classification"):
            other, key = f"task {self.task}", "task"
        elif self.data.stride is not None:
            other, key = "data.stride, which cuts texts to windows", "data.stride"
        else:
            if rest and (self.data.text_pair_column is not None or self.task == "reranking"):
                yield Clash(
                    "distillation.rest_of_texts cannot tell which of two texts was cut: remove it "
                    "or data.text_pair_column",
                    ("distillation.rest_of_texts", "data.text_pair_column"),
                )
            return
        if self.pruning.vocabulary is not None:
            yield Clash(
                f"pruning.vocabulary splits whole texts anew, and cannot with {other}: remove it",
                ("pruning.vocabulary", key),
            )
        if distillation is not None and distillation.augmentation and key == "task":
            yield Clash(
                "distillation.augmentation varies texts that have one label each, and cannot with "
                f"{other}: remove it",
                ("distillation.augmentation", key),
            )
        if rest:
            yield Clash(
                "distillation.rest_of_texts is for whole texts that data.max_length cuts, and has "
                f"no meaning with {other}: remove it",
                ("distillation.rest_of_texts", key),
            )

    def _weight_clashes(self) -> Iterator[Clash]:
        weights, names = self.training.class_weights, self.data.label_names
        if weights is not None and self.task in WITHOUT_CLASSES:
            yield Clash(
                f"training.class_weights has no meaning for task {self.task}, which has no "
                "classes: remove it",
                ("training.class_weights", "task"),
            )
        elif isinstance(weights, list) and names is not None and len(weights) != len(names):
            yield Clash(
                f"training.class_weights lists {len(weights)} weights for the {len(names)} labels "
                "of data.label_names: give one for each",
                ("training.class_weights", "data.label_names"),
            )

    def _metric_clashes(self) -> Iterator[Clash]:
        allowed = METRICS[self.task]
        for metric in self.evaluation.metrics:
            if metric not in allowed and "/" not in metric:
                yield Clash(
                    f"evaluation.metrics: {metric!r} is not a metric of task {self.task}. "
                    + suggest(metric, allowed, "Choose from"),
                    ("evaluation.metrics", "task"),
                )
            elif "/" in metric and not self.model.trust_remote_code:
                yield Clash(
                    f"evaluation.metrics: {metric!r} is Python code from elsewhere, which is not "
                    "run unless the recipe says so: read it, then set model.trust_remote_code: "
                    f"true, or choose from {', '.join(allowed)}",
                    ("evaluation.metrics", "model.trust_remote_code"),
                )
        best, greater = self.training.metric_for_best_model, self.training.greater_is_better
        computed = [*(self.evaluation.metrics or DEFAULT_METRICS[self.task]), "loss"]
        if self.distillation is not None:
            computed.append("divergence")
        if best is not None and best not in computed:
            yield Clash(
                f"training.metric_for_best_model {best!r} is not computed: add it to "
                f"evaluation.metrics, or choose from {', '.join(computed)}",
                ("training.metric_for_best_model", "evaluation.metrics", "task"),
            )
        elif greater is not None:
            best = best or computed[0]
            if greater != (best not in LOWER_IS_BETTER):
                yield Clash(
                    f"training.greater_is_better: {yaml_word(greater)} keeps the worst "
                    f"checkpoint, since the best {best} is the "
                    f"{'lowest' if greater else 'highest'}: remove it",
                    ("training.greater_is_better", "training.metric_for_best_model"),
                )

    def _output_clashes(self) -> Iterator[Clash]:
        output = PurePath(os.path.normpath(self.output_dir))
        inputs = {
            "model.name_or_path": self.model.name_or_path,
            "model.tokenizer": self.model.tokenizer,
            "teacher.name_or_path": self.teacher.name_or_path,
            "data.name": self.data.name,
            "data.train_file": self.data.train_file,
            "data.validation_file": self.data.validation_file,
            "data.test_file": self.data.test_file,
            "data.unlabeled_file": self.data.unlabeled_file,
        }
        named = [
            (key, name)
            for key, value in inputs.items()
            for name in ([value] if isinstance(value, str) else value or ())
        ]
        for key, value in named:
            path = PurePath(os.path.normpath(value))
            if output == path or (self.overwrite and output in path.parents):
                yield Clash(
                    f"output_dir {self.output_dir!r} would be written over {key} {value!r}: "
                    "choose a folder of its own",
                    ("output_dir", key, "overwrite"),
                )

    @property
    def fits_temperature(self) -> bool:
        """Whether the logits are divided by a fitted number where that helps."""
        return self.export.temperature and self.task not in WITHOUT_CLASSES

    @property
    def _chosen_already(self) -> bool:
        """Whether the recipe names the file to deploy, and asks for no other choice."""
        return "deploy" not in self.model_fields_set and self.export.quantization != "auto"

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        metrics = self.evaluation.metrics or list(DEFAULT_METRICS[self.task])
        best = self.training.metric_for_best_model or metrics[0]
        lengths = self.benchmark.sequence_lengths
        if "sequence_lengths" not in self.benchmark.model_fields_set:
            longest = self.data.max_length
            lengths = [length for length in lengths if length <= longest] or [longest]
        if self.task == "image_classification":
            lengths = []
        benchmark: dict[str, Any] = {"sequence_lengths": lengths}
        data: dict[str, Any] = {}
        if self.task == "reranking":
            data, benchmark = self._reranked()
        resolved = {
            "data": self.data.model_copy(update=data),
            "evaluation": self.evaluation.model_copy(update={"metrics": metrics}),
            "training": self.training.model_copy(
                update={
                    "metric_for_best_model": best,
                    "greater_is_better": best not in LOWER_IS_BETTER,
                }
            ),
            "benchmark": self.benchmark.model_copy(update=benchmark),
            "deploy": None if self._chosen_already else self.deploy,
        }
        for key, section in resolved.items():
            # The recipe is still being made; it is frozen from here on.
            object.__setattr__(self, key, section)
        return self

    def _reranked(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What reranking reads and times where the recipe does not say: a query's candidates."""
        answers = "text" if self.data.negative_column is None else "positive"
        data, benchmark = self.data.model_fields_set, self.benchmark.model_fields_set
        columns: dict[str, Any] = {}
        if "text_column" not in data:
            columns["text_column"] = "query"
        if self.data.text_pair_column is None:
            columns["text_pair_column"] = answers
        timed: dict[str, Any] = {}
        if "batch_sizes" not in benchmark:
            timed["batch_sizes"] = CANDIDATES
        if "sequence_lengths" not in benchmark:
            timed["sequence_lengths"] = []
        return columns, timed


Clashing.root = Recipe
