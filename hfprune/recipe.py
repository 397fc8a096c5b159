"""A recipe: one YAML file -> one frozen, validated :class:`Recipe`.

Reading order: the sections (what a recipe may say, and which of it cannot be said together), the
public functions, then reading YAML, finding the problems and wording them. Each section can be
used alone:

>>> PruningConfig(sparsity=0.8).schedule
'cubic'
>>> PruningConfig(sparsity=80)
Traceback (most recent call last):
    ...
hfprune.errors.RecipeError: PruningConfig: sparsity: must be at least 0 and less than 1, got 80 \
(a whole number); it is a fraction: 80 percent is 0.8

All problems of a recipe are reported in one error. Only :class:`~hfprune.errors.RecipeError` is
raised, whatever the file holds. The YAML is read without constructing objects, without anchors
and tags, and with the plain scalars of YAML 1.2: ``5e-5`` is a number, ``no`` is text.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from hfprune.errors import RecipeError

Task: TypeAlias = Literal[
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token_classification",
    "image_classification",
]

_CLASSIFICATION_METRICS = (
    "accuracy",
    "f1_macro",
    "f1_weighted",
    "precision_macro",
    "precision_weighted",
    "recall_macro",
    "recall_weighted",
    "mcc",
)
_TOKEN_METRICS = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")
METRICS: Final[Mapping[Task, tuple[str, ...]]] = {
    "single_label_classification": _CLASSIFICATION_METRICS,
    "multi_label_classification": _CLASSIFICATION_METRICS,
    "regression": ("pearson", "spearman", "mse"),
    "token_classification": _TOKEN_METRICS,
    "image_classification": _CLASSIFICATION_METRICS,
}
"""Metric names that a task allows."""

DEFAULT_METRICS: Final[Mapping[Task, tuple[str, ...]]] = {
    "single_label_classification": ("accuracy", "f1_macro", "precision_macro", "recall_macro"),
    "multi_label_classification": ("f1_macro", "precision_macro", "recall_macro", "accuracy"),
    "regression": ("pearson", "spearman", "mse"),
    "token_classification": _TOKEN_METRICS,
    "image_classification": ("accuracy", "f1_macro", "precision_macro", "recall_macro"),
}
"""Metrics computed where a recipe names none; the first one chooses the best checkpoint."""

LOWER_IS_BETTER: Final = frozenset({"loss", "mse"})
"""Names for ``metric_for_best_model`` whose best value is the lowest."""

Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Interval: TypeAlias = Literal["no", "steps", "epoch"]

_Path: TypeAlias = tuple[str | int, ...]
_SectionT = TypeVar("_SectionT", bound="_Section")


@dataclass(frozen=True)
class _Clash:
    """Keys (dotted, below the section that reports them) that are right alone, wrong together."""

    text: str
    keys: tuple[str, ...]


class _Section(BaseModel):
    """What all sections share: frozen, strict types, unknown keys refused, errors of our own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = _problems_of(type(self), _with_required_sections(type(self), values), error)
            raise RecipeError(_render(type(self).__name__, problems, {})) from None

    # Tells pydantic that this is a plain __init__, so that sections nested in a mapping are
    # validated in place, and their problems reported together with those of their neighbours.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def _clashes(self) -> Iterator[_Clash]:
        """Contradictions among the (valid) values of this section and those below it."""
        return iter(())

    @model_validator(mode="after")
    def _refuse_clashes(self) -> Self:
        if texts := [clash.text for clash in self._clashes()]:
            raise ValueError("; ".join(texts))
        return self


# ------------------------------------------------------------------------------ the sections


class ModelConfig(_Section):
    """The pretrained encoder to prune."""

    name_or_path: Name = Field(
        description="Model to start from: a Hub id, or a local folder (relative to the working "
        "directory).",
        examples=["google-bert/bert-base-uncased"],
    )
    revision: Name | None = Field(
        default=None, description="Branch, tag or commit of the model on the Hub; null: main."
    )
    tokenizer: Name | None = Field(
        default=None, description="Hub id or folder of the tokenizer; null: the model's own."
    )
    tokenizer_revision: Name | None = Field(
        default=None, description="Branch, tag or commit of `tokenizer` on the Hub; null: main."
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with a model, a tokenizer or a metric of the Hub. "
        "Leave it false.",
    )

    def _clashes(self) -> Iterator[_Clash]:
        if self.tokenizer_revision is not None and self.tokenizer is None:
            yield _Clash(
                "tokenizer_revision belongs to a tokenizer of its own, but the model's is used, at "
                "revision: remove it, or name the tokenizer",
                ("tokenizer_revision",),
            )


class DataConfig(_Section):
    """Where the labelled texts are: a data set by `name`, or local files from `train_file`."""

    name: Name | None = Field(
        default=None,
        description="Data set on the Hub (or a local folder that `datasets` loads).",
        examples=["nyu-mll/glue"],
    )
    config_name: Name | None = Field(
        default=None, description="Configuration of the data set, for example sst2 of GLUE."
    )
    revision: Name | None = Field(
        default=None, description="Branch, tag or commit of the data set; null: main."
    )
    train_file: Name | None = Field(
        default=None,
        description="Local file of training rows (relative to the working directory), instead of "
        "`name`.",
    )
    validation_file: Name | None = Field(
        default=None, description="Local file of validation rows; null: taken from the training."
    )
    test_file: Name | None = Field(
        default=None, description="Local file of test rows; null: taken from the training rows."
    )
    train_split: Name = Field(default="train", description="Split of `name` to train on.")
    validation_split: Name | None = Field(
        default=None,
        description="Split of `name` that chooses the best checkpoint; null: taken from the "
        "training rows.",
    )
    test_split: Name | None = Field(
        default=None,
        description="Split of `name` that is only reported on; null: taken from the training rows.",
    )
    text_column: Name = Field(
        default="text",
        description="Column of the text; for token_classification of the list of words.",
    )
    image_column: Name = Field(
        default="image",
        description="Column of the image (image_classification): an image, or the path of one, "
        "relative to the file that names it.",
    )
    text_pair_column: Name | None = Field(
        default=None, description="Column of a second text (premise and hypothesis); null: none."
    )
    label_column: Name | Annotated[list[Name], Field(min_length=1)] = Field(
        default="label",
        description="Column of the label. Multi-label: a column of lists of labels, or a list of "
        "columns of 0/1, one for each label. Token classification: a column of lists of tags, one "
        "for each word.",
    )
    label_names: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None,
        description="Names of the labels in the order of their ids; null: read from the data.",
    )
    validation_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Fraction of the training rows held out for validation, where no file or "
        "split is named.",
    )
    test_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Fraction of the training rows held out for the test, where no file or split "
        "is named.",
    )
    split_seed: int = Field(
        default=42, ge=0, lt=2**32, description="Seed of the held-out rows and of the limits below."
    )
    max_length: int = Field(
        default=128, ge=2, description="Longest input in tokens; what is longer is cut."
    )
    stride: int | None = Field(
        default=None,
        ge=0,
        description="A longer text is not cut but becomes windows of max_length tokens, each "
        "sharing so many with the one before. Each window is trained on with the text's label; the "
        "prediction for a text is the mean of its windows' logits. null: long texts are cut.",
        examples=[32],
    )
    max_train_samples: Positive | None = Field(
        default=None, description="Use at most this many training rows; null: all."
    )
    max_validation_samples: Positive | None = Field(
        default=None, description="Use at most this many validation rows; null: all."
    )
    max_test_samples: Positive | None = Field(
        default=None, description="Use at most this many test rows; null: all."
    )

    def _clashes(self) -> Iterator[_Clash]:
        if self.name is None and self.train_file is None:
            yield _Clash("no data: give either name or train_file", ("name", "train_file"))
        if self.name is not None and self.train_file is not None:
            yield _Clash(
                f"two sources of data, name {_came(self.name)} and train_file "
                f"{_came(self.train_file)}: keep one",
                ("name", "train_file"),
            )
        elif self.train_file is not None:
            for key in ("config_name", "revision", "validation_split", "test_split"):
                if getattr(self, key) is not None:
                    yield _Clash(
                        f"{key} belongs to a data set by name, but the data comes from "
                        "train_file: remove it",
                        (key, "train_file"),
                    )
            if self.train_split != "train":
                yield _Clash(
                    "train_split belongs to a data set by name, but the data comes from "
                    "train_file: remove it",
                    ("train_split", "train_file"),
                )
        elif self.name is not None:
            for key in ("validation_file", "test_file"):
                if getattr(self, key) is not None:
                    yield _Clash(
                        f"{key} needs train_file, but the data comes from name: use "
                        f"{key.replace('_file', '_split')}",
                        (key, "name"),
                    )

        for kind in ("split", "file"):
            keys = [f"{part}_{kind}" for part in ("train", "validation", "test")]
            yield from self._same(keys, "the rows reported on must not be those learned from")
        if self.stride is not None and self.stride >= self.max_length - 1:
            yield _Clash(
                f"stride {self.stride} must be less than max_length {self.max_length} less the "
                "special tokens, or no window gets any further",
                ("stride", "max_length"),
            )
        if self.stride is not None and self.text_pair_column is not None:
            yield _Clash(
                "stride is for single texts: which text of a pair would be cut in windows? Remove "
                "it",
                ("stride", "text_pair_column"),
            )
        columns = ["text_column", "text_pair_column"]
        if isinstance(self.label_column, str):
            columns.append("label_column")
        else:
            for key in columns:
                if getattr(self, key) in self.label_column:
                    yield _Clash(
                        f"{key} {_came(getattr(self, key))} is also listed in label_column",
                        (key, "label_column"),
                    )
            yield from _twice("label_column", self.label_column)
        yield from self._same(columns, "name the column of each")

        if self.label_names is not None:
            yield from _twice("label_names", self.label_names)
            if isinstance(self.label_column, list) and len(self.label_column) != len(
                self.label_names
            ):
                yield _Clash(
                    f"{len(self.label_names)} names for {len(self.label_column)} label columns: "
                    "give one name for each column, or none",
                    ("label_names", "label_column"),
                )
        held_out = [
            part
            for part in ("validation", "test")
            if getattr(self, f"{part}_file") is None and getattr(self, f"{part}_split") is None
        ]
        if len(held_out) == 2 and self.validation_fraction + self.test_fraction >= 1:
            yield _Clash(
                f"validation_fraction {self.validation_fraction} and test_fraction "
                f"{self.test_fraction} leave nothing to train on: their sum must be less than 1",
                ("validation_fraction", "test_fraction"),
            )

    def _same(self, keys: Sequence[str], why: str) -> Iterator[_Clash]:
        for index, key in enumerate(keys):
            for other in keys[:index]:
                value = getattr(self, key)
                if value is not None and value == getattr(self, other):
                    yield _Clash(f"{other} and {key} are both {value!r}: {why}", (key, other))


class TeacherConfig(_Section):
    """The dense model that the pruned one starts from and learns from."""

    name_or_path: Name | None = Field(
        default=None,
        description="A model already fine-tuned on this task (Hub id or folder), used as it is; "
        "null: fine-tune `model` first.",
    )
    revision: Name | None = Field(
        default=None, description="Branch, tag or commit of `name_or_path` on the Hub; null: main."
    )
    num_train_epochs: float | None = Field(
        default=None, gt=0, description="Epochs of its fine-tuning; null: as under `training`."
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Peak learning rate of its fine-tuning; null: as under `training`.",
    )

    def _clashes(self) -> Iterator[_Clash]:
        if self.revision is not None and self.name_or_path is None:
            yield _Clash(
                "revision belongs to a teacher by name: remove it, or give name_or_path",
                ("revision",),
            )
        for key in ("num_train_epochs", "learning_rate"):
            if self.name_or_path is not None and getattr(self, key) is not None:
                yield _Clash(
                    f"the teacher {self.name_or_path!r} is used as it is and not trained: remove "
                    f"{key}, or set name_or_path to null",
                    (key, "name_or_path"),
                )


class TrainingConfig(_Section):
    """Training with pruning; the keys are spelled as in transformers' `TrainingArguments`."""

    num_train_epochs: float = Field(default=3.0, gt=0, description="Passes over the training rows.")
    max_steps: int = Field(
        default=-1, ge=-1, description="Optimizer steps, instead of epochs; -1: by epochs."
    )
    learning_rate: float = Field(default=5e-5, gt=0, le=1, description="Peak learning rate.")
    per_device_train_batch_size: int = Field(
        default=32, ge=1, description="Training rows in a batch, on each device."
    )
    per_device_eval_batch_size: int = Field(
        default=64, ge=1, description="Evaluation rows in a batch, on each device."
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="Batches summed into one optimizer step."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    warmup_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Fraction of the steps in which the learning rate rises to its peak.",
    )
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = Field(default="linear", description="Course of the learning rate after its peak.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Gradients are scaled down to this norm; 0: never."
    )
    bf16: bool | Literal["auto"] = Field(
        default=False,
        description="Forward passes in bfloat16 (autocast); auto: where this machine, as measured, "
        "multiplies at least 1.2 times as fast in it.",
    )
    fp16: bool = Field(default=False, description="Forward passes in float16 (GPU only).")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: less memory, slower.",
    )
    seed: int = Field(
        default=42, ge=0, lt=2**32, description="Seed of new weights, data order and dropout."
    )
    logging_steps: int = Field(default=50, ge=1, description="Log every so many steps.")
    eval_strategy: Interval = Field(default="epoch", description="When to evaluate.")
    eval_steps: Positive | None = Field(
        default=None, description="Evaluate every so many steps (eval_strategy: steps)."
    )
    save_strategy: Interval = Field(default="epoch", description="When to write a checkpoint.")
    save_steps: Positive | None = Field(
        default=None, description="Write a checkpoint every so many steps (save_strategy: steps)."
    )
    save_total_limit: Positive | None = Field(
        default=1, description="Keep this many checkpoints, besides the best; null: all."
    )
    load_best_model_at_end: bool = Field(
        default=True, description="End with the checkpoint that was best on the validation rows."
    )
    metric_for_best_model: Name | None = Field(
        default=None,
        description="Metric that says which checkpoint is best (of several, the one with the least "
        "loss), or loss, which tells more where validation rows are few; null: the task's first "
        "metric (accuracy, f1_macro or pearson).",
    )
    greater_is_better: bool | None = Field(
        default=None,
        description="Whether more of that metric is better; null: known from the metric.",
    )
    early_stopping_patience: Positive | None = Field(
        default=None,
        description="Stop after this many evaluations without a better one; null: never.",
    )
    dataloader_num_workers: int = Field(
        default=0, ge=0, description="Extra processes that load data; 0: none."
    )
    group_by_length: bool = Field(
        default=False, description="Batch texts of like length together: less padding."
    )
    class_weights: (
        Literal["balanced"]
        | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
        | None
    ) = Field(
        default=None,
        description="Weights of the classes in the loss, for classes of unlike size: a list in "
        "the order of the labels' ids, or balanced, by their numbers n in the N training rows. One "
        "class each (texts, images, tokens): weight of the class, balanced is N / (classes * n). "
        "Multi-label: weight of a label where it holds, balanced is (N - n) / n. null: all alike.",
    )
    report_to: list[Name] = Field(
        default=[], description="Trackers to log to, for example tensorboard; []: none."
    )

    def _clashes(self) -> Iterator[_Clash]:
        if self.bf16 and self.fp16:
            both = "bf16 is auto and fp16" if self.bf16 == "auto" else "bf16 and fp16 are both"
            yield _Clash(f"{both} true: keep one", ("bf16", "fp16"))
        if self.max_steps == 0:
            yield _Clash("must be -1 (by epochs) or at least 1, got 0", ("max_steps",))
        if self.lr_scheduler_type == "constant" and self.warmup_ratio > 0:
            yield _Clash(
                "lr_scheduler_type constant has no warmup: write constant_with_warmup, or remove "
                "warmup_ratio",
                ("lr_scheduler_type", "warmup_ratio"),
            )
        for kind in ("eval", "save"):
            strategy, steps = f"{kind}_strategy", f"{kind}_steps"
            if getattr(self, strategy) == "steps" and getattr(self, steps) is None:
                yield _Clash(
                    f"{strategy} is steps: say how many in {steps}, for example {steps}: 500",
                    (strategy, steps),
                )
            if getattr(self, strategy) != "steps" and getattr(self, steps) is not None:
                yield _Clash(
                    f"{steps} is only used with {strategy}: steps, but {strategy} is "
                    f"{getattr(self, strategy)}: change one of them",
                    (steps, strategy),
                )
        if self.load_best_model_at_end:
            yield from self._best_model_clashes()
        elif self.early_stopping_patience is not None:
            yield _Clash(
                "early_stopping_patience needs load_best_model_at_end: true",
                ("early_stopping_patience", "load_best_model_at_end"),
            )

    def _best_model_clashes(self) -> Iterator[_Clash]:
        keys = ("load_best_model_at_end", "eval_strategy", "save_strategy")
        if "no" in (self.eval_strategy, self.save_strategy) or (
            self.eval_strategy != self.save_strategy
        ):
            yield _Clash(
                "load_best_model_at_end needs eval_strategy and save_strategy to be the same, "
                f"epoch or steps; got {self.eval_strategy} and {self.save_strategy}: change them, "
                "or set load_best_model_at_end: false",
                keys,
            )
        elif self.eval_steps and self.save_steps and self.save_steps % self.eval_steps:
            yield _Clash(
                f"load_best_model_at_end needs save_steps ({self.save_steps}) to be a multiple of "
                f"eval_steps ({self.eval_steps})",
                ("save_steps", "eval_steps", "load_best_model_at_end"),
            )


class VocabularyConfig(_Section):
    """Removal of tokens that the training texts do not use, and of their embeddings."""

    min_count: int = Field(
        default=1,
        ge=1,
        description="A token stays if the training rows hold it at least so often. Special tokens, "
        "single characters and bytes always stay. Above 1 the model also learns to read rare words "
        "in pieces.",
    )


class PruningConfig(_Section):
    """What to remove, and when."""

    sparsity: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Target: fraction of the encoder's weights to remove, in [0, 1).",
        examples=[0.8],
    )
    speedup: (
        Annotated[float, Field(gt=1)]
        | Annotated[list[Annotated[float, Field(gt=1)]], Field(min_length=1)]
        | None
    ) = Field(
        default=None,
        description="Target: how many times faster than the dense float32 ONNX model, as measured "
        "here, quantized, at the first batch size and length of `benchmark`. A list gives a family "
        "of models from one gradual run.",
        examples=[8.0],
    )
    max_metric_drop: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Target: the fastest model whose metric on the validation rows is at most this "
        "much below the dense model's (0.01: one point), found by stepping up the speed.",
        examples=[0.01],
    )
    keep_layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = Field(
        default=None,
        description="Target: keep these layers (numbers from 0) whole and drop the others at once, "
        "the usual baseline; `recovery` trains what is left.",
        examples=[[0, 2, 4]],
    )
    vocabulary: VocabularyConfig | None = Field(
        default=None,
        description="Also remove tokens that the task does not need, before anything else is "
        "pruned; the tokenizer is saved with the model. null: keep all; {}: the defaults.",
    )
    method: Literal["gates", "reconstruction"] = Field(
        default="gates",
        description="gates: prune while training, by `score`. reconstruction: prune in minutes "
        "without training, each block by structured OBS, its output refitted; `recovery` trains "
        "what is left.",
    )
    selection: Literal["obs", "fisher", "kprune"] = Field(
        default="obs",
        description="How heads and neurons are chosen (reconstruction). obs: those whose loss the "
        "others can make up for best (ZipLM). fisher: by squared gradients of their gates, then "
        "rearranged. kprune: by what they add to outputs and predictions (K-prune).",
    )
    search_rounds: int = Field(
        default=60,
        ge=0,
        description="Mutations tried in the search over the sizes of blocks (reconstruction).",
    )
    scoring_samples: int = Field(
        default=1024, ge=1, description="Training rows that pruning looks at (reconstruction)."
    )
    trial_epochs: float | None = Field(
        default=None,
        ge=0,
        description="Epochs that each candidate (the searched sizes; fewer layers) is trained "
        "before the best goes on to recovery, which must have epochs; 0: chosen untrained; null: 1 "
        "(reconstruction).",
    )
    schedule: Literal["one_shot", "linear", "cubic"] = Field(
        default="cubic",
        description="Course from nothing to `sparsity`: at once (at `start`), at a constant rate, "
        "or fast first and slow near the target.",
    )
    start: float = Field(
        default=0.1, ge=0, le=1, description="Fraction of the training at which pruning begins."
    )
    end: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Fraction of the training from which `sparsity` is reached (one_shot: not "
        "used).",
    )
    update_every_steps: int = Field(
        default=20, ge=1, description="Choose anew what is removed every so many steps."
    )
    score: Literal["random", "magnitude", "taylor", "fisher"] = Field(
        default="fisher", description="How the importance of a head or neuron is measured."
    )
    score_decay: float = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="Weight of the past in the running mean of the scores (taylor, fisher).",
    )
    allocation: Literal["uniform", "global"] = Field(
        default="global",
        description="The same sparsity in each block, or what matters least anywhere.",
    )
    min_heads: int = Field(
        default=2,
        ge=0,
        description="An attention block left with fewer heads is removed whole; 0 or 1: never.",
    )
    min_neurons: int = Field(
        default=32,
        ge=0,
        description="A feed-forward block left with fewer neurons is removed whole; 0 or 1: never.",
    )

    def _clashes(self) -> Iterator[_Clash]:
        targets = ("sparsity", "speedup", "max_metric_drop", "keep_layers")
        given = [key for key in targets if getattr(self, key) is not None]
        if len(given) != 1:
            came = " and ".join(given) if given else "none"
            yield _Clash(f"give exactly one of {', '.join(targets)}; got {came}", targets)
        if isinstance(self.speedup, list) and self.speedup != sorted(set(self.speedup)):
            yield _Clash(
                f"speedup {self.speedup} must rise: each model is pruned from the one before it",
                ("speedup",),
            )
        layers = self.keep_layers
        if layers is not None and layers != sorted(set(layers)):
            yield _Clash(f"keep_layers {layers} must rise, each layer once", ("keep_layers",))
        by_method = {
            "gates": (
                "schedule",
                "start",
                "end",
                "update_every_steps",
                "score",
                "score_decay",
                "allocation",
                "min_heads",
                "min_neurons",
            ),
            "reconstruction": ("selection", "search_rounds", "scoring_samples", "trial_epochs"),
        }
        for method, keys in by_method.items():
            for key in keys:
                changed = getattr(self, key) != type(self).model_fields[key].default
                if changed and layers is not None:
                    yield _Clash(
                        f"{key} has no meaning with keep_layers: remove it", (key, "keep_layers")
                    )
                elif changed and method != self.method:
                    yield _Clash(
                        f"{key} is only used with method: {method}: remove it", (key, "method")
                    )
        if self.sparsity is None and layers is None:
            for key in ("allocation", "min_heads", "min_neurons"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    yield _Clash(
                        f"{key} is only used with sparsity; with a speed as the target, sizes come "
                        "from measured times: remove it",
                        (key,),
                    )
        if self.schedule != "one_shot" and self.start > self.end:
            yield _Clash(
                f"pruning cannot start ({self.start}) after its end ({self.end}): swap them",
                ("start", "end"),
            )


class DistillationConfig(_Section):
    """What the pruned model learns from the teacher: a weighted sum of three losses."""

    temperature: float = Field(
        default=2.0, gt=0, description="Softens both predictions before they are compared."
    )
    logits_weight: float = Field(
        default=1.0, ge=0, description="Weight of the teacher's predictions."
    )
    hidden_weight: float = Field(
        default=1.0, ge=0, description="Weight of the teacher's hidden states."
    )
    label_weight: float = Field(default=0.1, ge=0, description="Weight of the true labels.")
    augmentation: int = Field(
        default=0,
        ge=0,
        description="Variations of each training row that are added to an epoch, labelled by the "
        "teacher: a small model that has few rows generalizes better. Text only.",
    )
    rest_of_texts: bool = Field(
        default=False,
        description="Add to an epoch what data.max_length cut off the training texts, in rows of "
        "that length, labelled by the teacher: more real text, where texts are long.",
    )
    dropout: bool = Field(
        default=True,
        description="Whether the dropout of the model acts while it learns from the teacher. "
        "Without it the small model comes nearer to the teacher, and a step is faster.",
    )
    cache_limit_gb: float = Field(
        default=4.0,
        ge=0,
        description="The teacher's outputs on the training rows are computed once and kept in "
        "memory where they take no more than this; 0: computed anew at every step.",
    )

    def _clashes(self) -> Iterator[_Clash]:
        if not (self.logits_weight or self.hidden_weight or self.label_weight):
            yield _Clash(
                "all weights are 0, so there is nothing to learn: raise one of logits_weight, "
                "hidden_weight, label_weight",
                ("logits_weight", "hidden_weight", "label_weight"),
            )
        elif not (self.logits_weight or self.hidden_weight):
            yield _Clash(
                "logits_weight and hidden_weight are 0, so the teacher teaches nothing: raise one, "
                "or set distillation to null",
                ("logits_weight", "hidden_weight"),
            )


class RecoveryConfig(_Section):
    """Training of the small model after the physical removal."""

    num_train_epochs: float = Field(
        default=0.0, ge=0, description="Epochs of training after the removal; 0: none."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="Its peak learning rate; null: as under `training`."
    )
    freeze_embeddings: bool = Field(
        default=False,
        description="Leave the word embeddings as the teacher's. Trains faster, and generalizes "
        "better from few rows.",
    )


class EvaluationConfig(_Section):
    """What is measured on the test rows."""

    metrics: list[Name] = Field(
        default=[],
        description="Metrics to compute; []: the usual ones of the task. Classification: "
        + ", ".join(_CLASSIFICATION_METRICS)
        + ". Regression: pearson, spearman, mse. Tokens: "
        + ", ".join(_TOKEN_METRICS)
        + ". With a slash (evaluate-metric/brier_score): a metric on the Hub.",
    )
    confidence: float = Field(
        default=0.95, gt=0, lt=1, description="Level of the confidence intervals."
    )

    def _clashes(self) -> Iterator[_Clash]:
        return _twice("metrics", self.metrics)


class QuantizationConfig(_Section):
    """Quantization to int8; the keys are spelled as in Optimum's configurations."""

    instruction_set: Literal["auto", "avx2", "avx512", "avx512_vnni", "arm64"] = Field(
        default="auto", description="CPU that the model will run on; auto: this machine's."
    )
    is_static: bool = Field(
        default=False,
        description="Fix the scales of activations by a calibration run, instead of computing "
        "them for each input.",
    )
    per_channel: bool = Field(
        default=False, description="One scale for each output channel of a weight, not one in all."
    )
    reduce_range: bool | None = Field(
        default=None, description="7-bit weights; null: where the instruction set needs it."
    )
    operators_to_quantize: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None, description="ONNX operators to quantize; null: the usual ones."
    )
    nodes_to_exclude: list[Name] = Field(
        default=[], description="Names of ONNX nodes that stay in float."
    )
    matmul_const_b_only: bool = Field(
        default=False,
        description="Quantize products with a weight only, not those of two activations (in "
        "attention).",
    )
    graph: Literal["exported", "lean", "lean_multihead", "lean_attention", "fused"] = Field(
        default="exported",
        description="Graph that is quantized: as exported; lean: without work for other tokens "
        "than the first where only that one is read, and without the slow fusion of residual "
        "additions; lean_multihead, lean_attention: also with attention as one operator, "
        "MultiHeadAttention or Attention; fused: all of ONNX Runtime's transformer fusions.",
    )
    embeddings: Literal["usual", "float32", "float16", "int8", "int4"] = Field(
        default="usual",
        description="How word embeddings are stored. usual: as the quantizer does it (int8, one "
        "scale in all); int8: one scale a row; int4: one scale a block of 32 columns.",
    )
    static_format: Literal["qdq", "qoperator"] = Field(
        default="qdq", description="Form of the static graph (is_static only)."
    )
    calibration_samples: int = Field(
        default=256, ge=1, description="Training rows of the calibration run (is_static only)."
    )

    def _clashes(self) -> Iterator[_Clash]:
        # Compared with the default, not with "was it given": a dumped recipe gives every key.
        for key in ("calibration_samples", "static_format"):
            default = type(self).model_fields[key].default
            if not self.is_static and getattr(self, key) != default:
                yield _Clash(
                    f"{key} is only used with is_static: true: remove it, or set is_static: true",
                    (key, "is_static"),
                )
        for key in ("operators_to_quantize", "nodes_to_exclude"):
            yield from _twice(key, getattr(self, key) or [])


class ExportConfig(_Section):
    """Export to ONNX."""

    opset: Annotated[int, Field(ge=11)] | None = Field(
        default=None, description="ONNX operator set; null: the exporter's choice for the model."
    )
    quantization: QuantizationConfig | Literal["auto"] | None = Field(
        default="auto",
        description="Also write an int8 model. auto: the best of many settings, by speed measured "
        "on this machine and a little by size, that keeps the metric on the validation rows; a "
        "section: these settings; null: float only.",
    )
    quantization_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Time for the search (quantization: auto); what was not tried by then is not.",
    )
    max_quantization_drop: float = Field(
        default=0.002,
        ge=0,
        description="How much of the first metric the search may lose against float32 "
        "(quantization: auto).",
    )

    def _clashes(self) -> Iterator[_Clash]:
        for key in ("quantization_seconds", "max_quantization_drop"):
            default = type(self).model_fields[key].default
            if self.quantization != "auto" and getattr(self, key) != default:
                yield _Clash(
                    f"{key} is only used with quantization: auto: remove it, or set quantization "
                    "to auto",
                    (key, "quantization"),
                )


class BenchmarkConfig(_Section):
    """How the speed of the exported models is measured."""

    batch_sizes: Annotated[list[Positive], Field(min_length=1)] = Field(
        default=[1, 32], description="Batch sizes to time."
    )
    sequence_lengths: list[Positive] = Field(
        default=[32, 128],
        description="Input lengths to time, in tokens; at most data.max_length (where not given: "
        "32 and 128, as far as that allows). Images have one size and none of these.",
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of one session.")
    repeats: int = Field(default=30, ge=1, description="Timed runs of each case.")
    warmup: int = Field(default=5, ge=0, description="Runs before the timed ones.")
    full_table: bool = Field(
        default=False,
        description="Also time lengths 16 to 256, batches of 1, 8 and 32, with one thread and "
        "with all (ONNX models; some minutes more).",
    )

    def _clashes(self) -> Iterator[_Clash]:
        yield from _twice("batch_sizes", self.batch_sizes)
        yield from _twice("sequence_lengths", self.sequence_lengths)


class HubConfig(_Section):
    """Publishing the finished output folder; spelled as in transformers' `TrainingArguments`."""

    push_to_hub: bool = Field(
        default=False,
        description="Upload the output folder to the Hub at the end. The access token comes from "
        "`hf auth login` or the variable HF_TOKEN, never from a recipe.",
    )
    hub_model_id: Name | None = Field(
        default=None,
        description="Repository to upload to, made if it is not there.",
        examples=["user/my-model"],
    )
    hub_private_repo: bool = Field(
        default=False,
        description="Upload to a private repository only; false: a new one is as the account's "
        "settings say, usually public.",
    )
    hub_revision: Name | None = Field(
        default=None,
        description="Branch to upload to, made if it is not there; null: main.",
    )

    def _clashes(self) -> Iterator[_Clash]:
        if self.push_to_hub and self.hub_model_id is None:
            yield _Clash(
                "push_to_hub is true, but no repository is named: give hub_model_id, for example "
                "hub_model_id: user/my-model",
                ("push_to_hub", "hub_model_id"),
            )
        if self.hub_model_id is not None and (problem := repo_id_problem(self.hub_model_id)):
            yield _Clash(problem, ("hub_model_id",))
        if self.hub_revision is not None and (problem := branch_problem(self.hub_revision)):
            yield _Clash(problem, ("hub_revision",))


class Recipe(_Section):
    """One run: fine-tune, prune, evaluate, export and time an encoder.

    Values that depend on others (the metrics, how the best checkpoint is chosen, the lengths to
    time) are filled in when a recipe is made, so that it shows what will be done.
    """

    model: ModelConfig = Field(description="The pretrained encoder to prune.")
    task: Task = Field(
        default="single_label_classification",
        description="What is predicted: for texts the kind of labels, spelled as problem_type in "
        "the model's config.json, or token_classification for a tag for each word (NER); "
        "image_classification for one class for each image.",
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

    def _clashes(self) -> Iterator[_Clash]:
        yield from self._task_clashes()
        yield from self._metric_clashes()
        given = "sequence_lengths" in self.benchmark.model_fields_set
        longest = max(self.benchmark.sequence_lengths, default=0)
        if given and self.task == "image_classification" and longest:
            yield _Clash(
                "benchmark.sequence_lengths has no meaning for images, whose size the model's "
                "config names: remove it",
                ("benchmark.sequence_lengths", "task"),
            )
        elif given and self.task != "image_classification" and not longest:
            yield _Clash("must not be empty", ("benchmark.sequence_lengths",))
        elif given and longest > self.data.max_length:
            yield _Clash(
                f"benchmark.sequence_lengths asks for {longest} tokens, but inputs are cut at "
                f"data.max_length {self.data.max_length}: lower one or raise the other",
                ("benchmark.sequence_lengths", "data.max_length"),
            )
        if self.overwrite and self.resume:
            yield _Clash(
                "overwrite starts afresh and resume goes on: set one of them to false",
                ("overwrite", "resume"),
            )
        yield from self._output_clashes()

    def _task_clashes(self) -> Iterator[_Clash]:
        if self.task != "multi_label_classification" and isinstance(self.data.label_column, list):
            yield _Clash(
                f"data.label_column is a list, which is only for task multi_label_classification; "
                f"the task is {self.task}: name one column",
                ("data.label_column", "task"),
            )
        yield from self._input_clashes()
        yield from self._whole_text_clashes()
        yield from self._weight_clashes()
        names = self.data.label_names
        if self.task == "regression" and names is not None:
            yield _Clash(
                "data.label_names has no meaning for task regression, whose label is a number: "
                "remove it",
                ("data.label_names", "task"),
            )
        several = self.task not in ("multi_label_classification", "regression")
        if several and names is not None and len(names) < 2:
            yield _Clash(
                f"data.label_names needs at least two labels for task {self.task}",
                ("data.label_names", "task"),
            )

    def _input_clashes(self) -> Iterator[_Clash]:
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
        for key, text in unused.items():
            section, name = key.split(".")
            values = getattr(self, section)
            if getattr(values, name) != type(values).model_fields[name].default:
                yield _Clash(f"{key} {text}", (key, "task"))

    def _whole_text_clashes(self) -> Iterator[_Clash]:
        """What is made for whole texts with a label each."""
        distillation = self.distillation
        rest = distillation is not None and distillation.rest_of_texts
        if self.task in ("token_classification", "image_classification"):
            other, key = f"task {self.task}", "task"
        elif self.data.stride is not None:
            other, key = "data.stride, which cuts texts to windows", "data.stride"
        else:
            if rest and self.data.text_pair_column is not None:
                yield _Clash(
                    "distillation.rest_of_texts cannot tell which of two texts was cut: remove it "
                    "or data.text_pair_column",
                    ("distillation.rest_of_texts", "data.text_pair_column"),
                )
            return
        if self.pruning.vocabulary is not None:
            yield _Clash(
                f"pruning.vocabulary splits whole texts anew, and cannot with {other}: remove it",
                ("pruning.vocabulary", key),
            )
        if distillation is not None and distillation.augmentation and key == "task":
            yield _Clash(
                "distillation.augmentation varies texts that have one label each, and cannot with "
                f"{other}: remove it",
                ("distillation.augmentation", key),
            )
        if rest:
            yield _Clash(
                "distillation.rest_of_texts is for whole texts that data.max_length cuts, and has "
                f"no meaning with {other}: remove it",
                ("distillation.rest_of_texts", key),
            )

    def _weight_clashes(self) -> Iterator[_Clash]:
        weights, names = self.training.class_weights, self.data.label_names
        if weights is not None and self.task == "regression":
            yield _Clash(
                "training.class_weights has no meaning for task regression, which has no classes: "
                "remove it",
                ("training.class_weights", "task"),
            )
        elif isinstance(weights, list) and names is not None and len(weights) != len(names):
            yield _Clash(
                f"training.class_weights lists {len(weights)} weights for the {len(names)} labels "
                "of data.label_names: give one for each",
                ("training.class_weights", "data.label_names"),
            )

    def _metric_clashes(self) -> Iterator[_Clash]:
        allowed = METRICS[self.task]
        for metric in self.evaluation.metrics:
            if metric not in allowed and "/" not in metric:
                yield _Clash(
                    f"evaluation.metrics: {metric!r} is not a metric of task {self.task}. "
                    + _suggest(metric, allowed, "Choose from"),
                    ("evaluation.metrics", "task"),
                )
            elif "/" in metric and not self.model.trust_remote_code:
                yield _Clash(
                    f"evaluation.metrics: {metric!r} is Python code from elsewhere, which is not "
                    "run unless the recipe says so: read it, then set model.trust_remote_code: "
                    f"true, or choose from {', '.join(allowed)}",
                    ("evaluation.metrics", "model.trust_remote_code"),
                )
        best, greater = self.training.metric_for_best_model, self.training.greater_is_better
        computed = [*(self.evaluation.metrics or DEFAULT_METRICS[self.task]), "loss"]
        if best is not None and best not in computed:
            yield _Clash(
                f"training.metric_for_best_model {best!r} is not computed: add it to "
                f"evaluation.metrics, or choose from {', '.join(computed)}",
                ("training.metric_for_best_model", "evaluation.metrics", "task"),
            )
        elif greater is not None:
            best = best or computed[0]
            if greater != (best not in LOWER_IS_BETTER):
                yield _Clash(
                    f"training.greater_is_better: {_yaml_word(greater)} keeps the worst "
                    f"checkpoint, since the best {best} is the "
                    f"{'lowest' if greater else 'highest'}: remove it",
                    ("training.greater_is_better", "training.metric_for_best_model"),
                )

    def _output_clashes(self) -> Iterator[_Clash]:
        output = PurePath(os.path.normpath(self.output_dir))
        inputs = {
            "model.name_or_path": self.model.name_or_path,
            "model.tokenizer": self.model.tokenizer,
            "teacher.name_or_path": self.teacher.name_or_path,
            "data.name": self.data.name,
            "data.train_file": self.data.train_file,
            "data.validation_file": self.data.validation_file,
            "data.test_file": self.data.test_file,
        }
        for key, value in inputs.items():
            if value is None:
                continue
            path = PurePath(os.path.normpath(value))
            if output == path or (self.overwrite and output in path.parents):
                yield _Clash(
                    f"output_dir {self.output_dir!r} would be written over {key} {value!r}: "
                    "choose a folder of its own",
                    ("output_dir", key, "overwrite"),
                )

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
        resolved = {
            "evaluation": self.evaluation.model_copy(update={"metrics": metrics}),
            "training": self.training.model_copy(
                update={
                    "metric_for_best_model": best,
                    "greater_is_better": best not in LOWER_IS_BETTER,
                }
            ),
            "benchmark": self.benchmark.model_copy(update={"sequence_lengths": lengths}),
        }
        for key, section in resolved.items():
            # The recipe is still being made; it is frozen from here on.
            object.__setattr__(self, key, section)
        return self


def _twice(key: str, values: Sequence[object]) -> Iterator[_Clash]:
    for value, times in Counter(values).items():
        if times > 1:
            yield _Clash(f"lists {_yaml_word(value)} more than once", (key,))


# ------------------------------------------------------------------------- the public functions


def repo_id_problem(name: str) -> str:
    """What is wrong with the name of a Hub repository to write to; empty if nothing is.

    The Hub's rules, and an owner is required: without one the name would depend on who runs it.
    """
    owner, slash, rest = name.partition("/")
    parts = (owner, rest)
    if not slash or "/" in rest:
        return f"must be an owner and a name, such as user/my-model, got {_came(name)}"
    if any(not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", p) for p in parts):
        return (
            "may hold letters, digits, '_', '-' and '.', and must neither start nor end with '-' "
            f"or '.', got {_came(name)}"
        )
    if "--" in name or ".." in name or name.endswith(".git") or len(rest) > 96:
        return (
            "may not hold '--' or '..', end with '.git', or have a name of more than 96 letters, "
            f"got {_came(name)}"
        )
    return ""


def branch_problem(name: str) -> str:
    """What is wrong with the name of a branch to write to; empty if nothing is."""
    if re.fullmatch(r"[0-9a-f]{40}", name):
        return f"must name a branch, but a commit cannot be written to, got {_came(name)}"
    if (
        not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?", name)
        or any(part in name for part in ("..", "//", "/.", "./"))
        or name.startswith("refs/")
        or name.endswith(".lock")
    ):
        return f"must be the name of a branch, such as main or v2, got {_came(name)}"
    return ""


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: the file, UTF-8.
        overrides: ``"key.path=value"``, the value written as in the file; applied in order over
            the file. ``distillation=null`` switches a section off, ``distillation.temperature=3``
            makes it where it is missing or null.

    Raises:
        RecipeError: the file cannot be read or is no usable recipe. The message lists every
            problem with its line (or override) and its key.
    """
    return parse_recipe(_read_file(path), source=os.fspath(path), overrides=overrides)


def parse_recipe(text: str, *, source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML text; ``source`` names it in errors. Else as :func:`load_recipe`."""
    reading = _Reading(source)
    values = reading.file(text)
    for override in [overrides] if isinstance(overrides, str) else overrides:
        reading.override(values, override)
    recipe, problems = _validated(Recipe, _with_required_sections(Recipe, values))
    problems = [*reading.problems, *problems]
    if recipe is None or problems:
        raise RecipeError(_render(source, problems, reading.origins))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out; :func:`parse_recipe` reads back an equal one."""
    return yaml.dump(
        recipe.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe, for editors and for the reference."""
    schema = Recipe.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for key in section["properties"].values():
            key.pop("title", None)  # the key again, in capitals
    # The class is described for Python; this is for people who write YAML.
    schema["title"] = "hfprune recipe"
    schema["description"] = (Recipe.__doc__ or "").partition("\n")[0]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# -------------------------------------------------------------------------------- reading YAML

_MAX_BYTES: Final = 1 << 18
_MAX_DEPTH: Final = 20
_MOST_SHOWN: Final = 50
_TAG: Final = "tag:yaml.org,2002:"

_PLAIN_SCALARS: Final = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """Composes nodes only (nothing is constructed), without anchors, aliases and tags.

    Anchors are what small files that expand to gigabytes are made of, and tags name Python types;
    a recipe needs neither.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - filled below with YAML 1.2, not PyYAML's 1.1
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(
                None,
                None,
                "anchors and aliases (& and *) are not allowed: write the value out",
                event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"the tag {event.tag} is not allowed: remove it", event.start_mark
            )
        if self.depth >= _MAX_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {_MAX_DEPTH} levels", event.start_mark
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or YAML 1.2 would read as something else than text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Unicode's own line breaks survive only as escapes, which need double quotes.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _represent_text)


for _kind, _pattern, _first in _PLAIN_SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _TAG + _kind,
            re.compile(rf"(?:{_pattern})\Z"),
            ["" if letter == "\0" else letter for letter in _first],
        )


@dataclass(frozen=True)
class _Origin:
    """Where a value was written: a line of the file, or an override."""

    line: int = 0
    override: str = ""

    def __str__(self) -> str:
        return f"override {self.override!r}" if self.override else f"line {self.line}"


@dataclass(frozen=True)
class _Problem:
    """One thing that is wrong: what to show before the text, and the keys it is about."""

    text: str
    shown: _Path
    keys: tuple[_Path, ...]
    origin: _Origin | None = None  # where the keys alone do not say it

    def under(self, path: _Path) -> _Problem:
        """The same problem, seen from above: its keys lie below ``path``."""
        keys = tuple((*path, *key) for key in self.keys)
        return replace(self, shown=(*path, *self.shown), keys=keys)


class _Reading:
    """The values of one recipe, where each was written, and what was wrong with the writing."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.origins: dict[_Path, _Origin] = {}
        self.problems: list[_Problem] = []

    def file(self, text: str) -> dict[str, Any]:
        """The values of a whole file; raises on what is not a YAML mapping at all."""
        try:
            node = _compose(text)
        except _NotYAML as error:
            where = f", line {error.line}" if error.line else ""
            raise RecipeError(f"{self.source}{where}: unusable YAML: {error}") from error
        if node is None or (isinstance(node, yaml.ScalarNode) and _scalar(node) is None):
            raise RecipeError(
                f"{self.source}: the recipe is empty; it needs at least {_required_keys()}"
            )
        if not isinstance(node, yaml.MappingNode):
            value = self._value(node, (), None)
            raise RecipeError(
                f"{self.source}, line {node.start_mark.line + 1}: a recipe is a mapping "
                f"(key: value), got {_came(value)}"
            )
        return self._mapping(node, (), None)

    def override(self, values: dict[str, Any], override: str) -> None:
        """Apply ``key.path=value`` to ``values`` in place."""
        origin = _Origin(override=_short(override))
        dotted, equals, text = override.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            self.problems.append(
                _Problem(
                    "write key.path=value, for example training.learning_rate=1e-4",
                    shown=(),
                    keys=(),
                    origin=origin,
                )
            )
            return
        try:
            node = _compose(text)
        except _NotYAML as error:
            self.problems.append(_Problem(f"unusable YAML: {error}", keys, (), origin))
            return
        below = values
        for depth, key in enumerate(keys[:-1], start=1):
            inner = below.get(key)
            if inner is None:
                inner = below[key] = {}
                self.origins[keys[:depth]] = origin
            if not isinstance(inner, dict):
                whole = _dotted(keys[:depth])
                self.problems.append(
                    _Problem(
                        f"{whole} holds {_came(inner)}, not keys: give it whole, as "
                        f"{whole}={_example(inner)}",
                        keys,
                        (),
                        origin,
                    )
                )
                return
            below = inner
        for path in [path for path in self.origins if path[: len(keys)] == keys]:
            del self.origins[path]
        self.origins[keys] = origin
        below[keys[-1]] = None if node is None else self._value(node, keys, origin)

    def _value(self, node: yaml.Node, path: _Path, origin: _Origin | None) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, origin)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.origins[*path, index] = origin or _Origin(item.start_mark.line + 1)
                items.append(self._value(item, (*path, index), origin))
            return items
        return _scalar(node)

    def _mapping(
        self, node: yaml.MappingNode, path: _Path, origin: _Origin | None
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            here = origin or _Origin(key_node.start_mark.line + 1)
            key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else ...
            if not isinstance(key, str):
                came = "a list or mapping" if key is ... else _came(key)
                self.problems.append(_Problem(f"a key must be text, got {came}", path, (), here))
            elif key in values:
                first = self.origins[*path, key]
                self.problems.append(
                    _Problem(
                        f"the key is given twice, first in {first}: remove one",
                        (*path, key),
                        (),
                        here,
                    )
                )
            else:
                self.origins[*path, key] = here
                values[key] = self._value(value_node, (*path, key), origin)
        return values


class _NotYAML(Exception):
    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


def _compose(text: str) -> yaml.Node | None:
    """The node tree of one YAML document; None where it holds nothing."""
    if re.search(r"[\ud800-\udfff]", text):
        raise _NotYAML("it holds half of a surrogate pair, which is no text", 0)
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        raise _NotYAML(", ".join(parts), mark.line + 1 if mark else 0) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _NotYAML(f"the character U+{error.character:04X} is not allowed", line) from error
    except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:
        # PyYAML lets some of Python's own errors through, as for the escape "\\UFFFFFFFF".
        raise _NotYAML(f"it cannot be read ({error})", 0) from error
    return node


def _scalar(node: yaml.Node) -> Any:
    """A plain scalar as Python's null, bool, int, float or str, after YAML 1.2."""
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    # Python refuses to read integers of thousands of digits; as text they are refused below.
    if kind == "int" and len(text) <= 100:
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        return int(text, base)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


def _read_file(path: str | os.PathLike[str]) -> str:
    shown = os.fspath(path)
    if "\0" in shown:
        raise RecipeError(f"{shown!r}: not a usable path: it holds a null character")
    file = Path(path)
    try:
        if file.is_dir():
            raise RecipeError(f"{shown}: a folder, not a recipe: give the path of a YAML file")
        if not file.exists():
            near: list[str] = []
            if file.parent.is_dir():
                recipes = [entry.name for entry in file.parent.glob("*.y*ml")]
                near = difflib.get_close_matches(file.name, recipes, n=1)
            hint = f" Did you mean {file.with_name(near[0])}?" if near else ""
            raise RecipeError(f"{shown}: no such recipe file.{hint}")
        if not file.is_file():
            raise RecipeError(f"{shown}: not a regular file")
        with file.open("rb") as handle:
            data = handle.read(_MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{shown}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise RecipeError(f"{shown}: larger than {_MAX_BYTES} bytes; is it a recipe?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{shown}, line {line}: not UTF-8 text (byte 0x{data[error.start]:02x} at position "
            f"{error.start}): save the file as UTF-8"
        ) from error


# ------------------------------------------------------------------------- finding the problems


def _validated(
    section: type[_SectionT], values: Mapping[str, Any]
) -> tuple[_SectionT | None, list[_Problem]]:
    try:
        return section.model_validate(values), []
    except ValidationError as error:
        return None, _problems_of(section, values, error)


def _problems_of(
    section: type[_Section], values: Mapping[str, Any], error: ValidationError
) -> list[_Problem]:
    """Every problem of ``values``, as a list that is never empty.

    Pydantic stops at the first kind of problem: clashes are looked for only among values that are
    right alone. So the wrong ones are set aside here, and the clashes of the rest added.
    """
    problems: dict[_Path, _Problem] = {}
    looked_into: set[_Path] = set()
    blamed: set[_Path] = set()
    try:
        section.model_validate(values)  # `values` may have more sections than `error` knew
    except ValidationError as again:
        error = again
    for detail in error.errors(include_url=False):
        if detail["type"] == "value_error":
            continue  # a clash; found again below, with its keys
        place = _locate(section, detail["loc"])
        if (
            detail["type"] == "literal_error"
            and isinstance(detail["input"], Mapping)
            and _section_in(place.annotation) is not None
        ):
            continue  # a section where a word would do too: its own problems say what is wrong
        blamed.add(place.key)
        # A value of several types gets an error from each: what is wrong inside a list says
        # more than "not a list", and that more than "not text".
        if place.path in looked_into or (
            place.path in problems and detail["type"].endswith("_type")
        ):
            continue
        if place.path != place.key:
            problems.pop(place.key, None)
            looked_into.add(place.key)
        # Finding near words takes time: no more of it than is shown.
        text = ""
        if len(problems) < _MOST_SHOWN:
            text = _describe(place, detail["type"], detail["input"], detail.get("ctx") or {})
        problems[place.path] = _Problem(text, place.path, (place.path,))
    found = list(problems.values())
    for clash in _all_clashes(_salvage(section, values, (), blamed), ()):
        if not any(key[: len(bad)] == bad for key in clash.keys for bad in blamed):
            found.append(clash)
    return found or [_Problem(str(error), (), ())]


def _all_clashes(section: _Section, path: _Path) -> Iterator[_Problem]:
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), _Section):
            yield from _all_clashes(inner, (*path, name))
    for clash in section._clashes():
        keys = tuple(tuple(key.split(".")) for key in clash.keys)
        shown = keys[0] if len(keys) == 1 else ()
        yield _Problem(clash.text, shown, keys).under(path)


def _salvage(
    section: type[_Section], values: Mapping[str, Any], path: _Path, blamed: set[_Path]
) -> _Section:
    """The section with what is right in ``values``, and defaults or examples for the rest.

    What an example stands for is added to ``blamed``: no clash with it is to be believed.
    """
    made: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        here = (*path, name)
        inner = _section_in(field.annotation)
        if name in values and here not in blamed:
            value = values[name]
            if inner is not None and isinstance(value, Mapping):
                value = _salvage(inner, value, here, blamed)
        elif not field.is_required():
            value = field.get_default(call_default_factory=True)
        else:
            blamed.add(here)
            value = (
                (field.examples or [None])[0]
                if inner is None
                else _salvage(inner, {}, here, blamed)
            )
        made[name] = value
    return section.model_construct(_fields_set=set(values) & set(made), **made)


def _with_required_sections(section: type[_Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``{}`` for required sections that are missing.

    The error then names the keys that they need.
    """
    filled = dict(values)
    for name, field in section.model_fields.items():
        if field.is_required() and _section_in(field.annotation) is not None:
            filled.setdefault(name, {})
    return filled


@dataclass(frozen=True)
class _Place:
    """What a pydantic location points to."""

    path: _Path  # as shown: down to the item of a list
    key: _Path  # the key of the recipe that holds it
    section: type[_Section]  # the section that holds the key
    field: FieldInfo | None  # None: the key is unknown
    annotation: Any  # type of what the path points to


def _locate(section: type[_Section], location: Iterable[str | int]) -> _Place:
    inner: type[_Section] | None = section
    place = _Place((), (), section, None, None)
    named = False  # whether the next part may name a branch: a section, or something else
    for part in location:
        if named and inner is not None and _names_branch(inner, part):
            named = False
        elif inner is not None:
            field = inner.model_fields.get(str(part))
            path = (*place.path, part)
            annotation = field.annotation if field else None
            place = _Place(path, path, inner, field, annotation)
            inner = _section_in(annotation)
            named = inner is not None and len(set(_branches(annotation)) - {NoneType}) > 1
        elif isinstance(part, int):
            place = replace(
                place, path=(*place.path, part), annotation=_item_type(place.annotation)
            )
        # Else the name of a branch of a union, which is no key.
    return place


def _names_branch(section: type[_Section], part: str | int) -> bool:
    # pydantic wraps the name of a class that has validators.
    return str(part).startswith("literal[") or str(part).endswith(f" {section.__name__}]")


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _branches(annotation: Any) -> list[Any]:
    """The types that an annotation allows: of ``int | None``, int and NoneType."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return [branch for part in get_args(annotation) for branch in _branches(part)]
    return [annotation]


def _section_in(annotation: Any) -> type[_Section] | None:
    for branch in _branches(annotation):
        if isinstance(branch, type) and get_origin(branch) is None and issubclass(branch, _Section):
            return branch
    return None


def _item_type(annotation: Any) -> Any:
    for branch in _branches(annotation):
        if get_origin(branch) is list:
            return get_args(branch)[0]
    return None


# ------------------------------------------------------------------------- wording the problems


def _render(source: str, problems: Sequence[_Problem], origins: Mapping[_Path, _Origin]) -> str:
    placed = []
    for problem in problems:
        found = [problem.origin] if problem.origin else _origins_of(problem.keys, origins)
        where = _where(found)
        shown = f"{_dotted(problem.shown)}: " if problem.shown else ""
        order = (bool(found and found[-1].override), found[0].line if found else 0)
        placed.append((order, where, problem.text and f"{shown}{problem.text}"))
    shown_of = [item for item in placed if item[2]][:_MOST_SHOWN]
    shown_of.sort(key=lambda item: item[0])
    if len(placed) == 1:
        _, where, text = placed[0]
        return _printable(f"{source}, {where}: {text}" if where else f"{source}: {text}")
    lines = [f"{source}: {len(placed)} problems"]
    lines += [f"  {where}: {text}" if where else f"  {text}" for _, where, text in shown_of]
    if more := len(placed) - len(shown_of):
        lines.append(f"  and {more} more")
    return "\n".join(_printable(line) for line in lines)


def _printable(line: str) -> str:
    """Control characters and half surrogates (any text can be a key) as escapes; no token."""
    line = re.sub(r"hf_[A-Za-z0-9]{20,}", "hf_***", line)
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in line
    )


def _origins_of(keys: Sequence[_Path], origins: Mapping[_Path, _Origin]) -> list[_Origin]:
    """Where the keys were written, lines first; of keys not written, the nearest section above."""
    found = {origins[key] for key in keys if key in origins}
    for key in keys if not found else ():
        above = [origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in origins]
        if above:
            found.add(above[0])
    return sorted(found, key=lambda origin: (origin.override, origin.line))


def _where(found: Sequence[_Origin]) -> str:
    lines = [str(origin.line) for origin in found if not origin.override]
    overrides = [str(origin) for origin in found if origin.override]
    numbers = [f"line{'s' if len(lines) > 1 else ''} {' and '.join(lines)}"] if lines else []
    return " and ".join(numbers + overrides)


def _describe(place: _Place, kind: str, value: object, context: Mapping[str, Any]) -> str:
    """One pydantic error in our words: what was expected, what came, what to write."""
    if kind == "missing":
        examples = place.field.examples if place.field else None
        meaning = place.field.description if place.field else None
        return (
            f"the key is missing: {_clause(meaning or '')}, for example "
            f"`{place.path[-1]}: {(examples or ['...'])[0]}`"
        )
    if kind in ("extra_forbidden", "invalid_key"):
        if re.search(r"(?:^|_)(?:token|password|secret|api_key)$", str(place.path[-1])):
            return (
                "unknown key. Recipes are published with the models, so they hold no secrets: run "
                "`hf auth login`, or set the variable HF_TOKEN, and remove the key"
            )
        return f"unknown key, with {_came(value)}. {_nearest_key(place)}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    if kind == "finite_number":
        return f"must be a finite number, got {_came(value)}"
    if kind == "string_unicode":
        return "must be text that UTF-8 can write; it holds half of a surrogate pair"
    if bounds := _bounds(place, context):
        return f"must be {bounds}, got {_came(value)}{_percent_hint(value, bounds)}"
    return (
        f"expected {_human(place.annotation)}, got {_came(value)}"
        f"{_type_hint(place.annotation, value)}"
    )


def _bounds(place: _Place, context: Mapping[str, Any]) -> str:
    """Both bounds of the value in words, if it broke one of them."""
    words = {
        "ge": "at least {}",
        "gt": "greater than {}",
        "le": "at most {}",
        "lt": "less than {}",
    }
    if not set(words) & set(context):
        return ""
    limits = dict(context)
    if place.field is not None and place.path == place.key:
        for limit in place.field.metadata:
            limits |= {name: getattr(limit, name) for name in words if hasattr(limit, name)}
    return " and ".join(text.format(limits[name]) for name, text in words.items() if name in limits)


def _percent_hint(value: object, bounds: str) -> str:
    if (
        isinstance(value, int | float)
        and 1 < value <= 100
        and bounds.endswith(("than 1", "most 1"))
    ):
        return f"; it is a fraction: {value:g} percent is {value / 100:g}"
    return ""


def _type_hint(annotation: Any, value: object) -> str:
    branches = _branches(annotation)
    if isinstance(value, str):
        if bool in branches and value.lower() in ("yes", "on", "y", "no", "off", "n"):
            return f": write {_yaml_word(value.lower() in ('yes', 'on', 'y'))}"
        number = value.replace("_", "")
        if int in branches and re.fullmatch(r"[-+]?[0-9]{1,20}", number):
            return f": write {number}, without quotes"
        if float in branches and re.fullmatch(_PLAIN_SCALARS[3][1], number):
            return f": write {number}, without quotes"
        literals = [choice for branch in branches for choice in _choices(branch)]
        if near := _near(value, literals):
            return f". Did you mean {near}?"
    elif str in branches and isinstance(value, int | float):
        return f': write "{_yaml_word(value)}", in quotes'
    elif isinstance(value, float) and value.is_integer() and int in branches:
        return f": write {value:.0f}"
    if any(get_origin(branch) is list for branch in branches) and isinstance(
        value, str | int | float
    ):
        return f": write [{_yaml_word(value)}]"
    if _section_in(annotation) is not None and value is None:
        return ": remove the key, or indent what belongs to it below it"
    return ""


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _human(annotation: Any, many: bool = False) -> str:
    names: dict[Any, tuple[str, str]] = {
        str: ("text", "text"),
        bool: ("true or false", "true or false"),
        int: ("a whole number", "whole numbers"),
        float: ("a number", "numbers"),
        NoneType: ("null", "null"),
    }
    words = []
    for branch in _branches(annotation):
        if get_origin(branch) is list:
            words.append(f"a list of {_human(_item_type(branch), many=True)}")
        elif choices := _choices(branch):
            words.append(f"one of {', '.join(choices)}")
        elif _section_in(branch) is not None:
            words.append("a section (key: value)")
        else:
            words.append(names[branch][many] if branch in names else str(branch))
    return " or ".join(words)


def _came(value: object) -> str:
    """A value from a recipe in words, short enough for an error."""
    if isinstance(value, str):
        return f"{_short(value)!r} (text)"
    if value is None or isinstance(value, bool):
        return _yaml_word(value)
    if isinstance(value, int):
        return f"{_yaml_word(value)} (a whole number)"
    if isinstance(value, float):
        return f"{_yaml_word(value)} (a number)"
    if isinstance(value, list):
        return f"the list {_short(_example(value))}"
    if isinstance(value, dict):
        return f"the keys {_short(', '.join(map(str, value)))}" if value else "an empty mapping"
    return f"a value of type {type(value).__name__}"


def _yaml_word(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return _short(str(value))


def _example(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_yaml_word(item) for item in value[:8])}]"
    return _yaml_word(value)


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _clause(description: str) -> str:
    """The first sentence of a description, to go on within another sentence."""
    first = re.split(r"\.(?:\s|$)| \(", description)[0]
    return first[:1].lower() + first[1:]


def _dotted(path: _Path) -> str:
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            # Any text can be a key: quote what would not be seen as one.
            plain = re.fullmatch(r"[\w-]{1,80}", part)
            parts.append(f"{'.' if parts else ''}{part if plain else repr(_short(part))}")
    return "".join(parts)


def _nearest_key(place: _Place) -> str:
    key = str(place.path[-1])
    elsewhere = [_dotted(path) for path in _all_keys(Recipe) if path[-1] == key]
    belongs = f"It belongs to {' or '.join(elsewhere)}."
    near = _near(key, tuple(place.section.model_fields))
    if elsewhere and near:
        return f"Did you mean {near}? {belongs}"
    return belongs if elsewhere else _suggest(key, tuple(place.section.model_fields), "Allowed:")


def _near(word: str, allowed: Sequence[str]) -> str:
    """The allowed words that look like ``word``, quoted; empty where there is none."""
    word = word.lower()
    near = difflib.get_close_matches(word, allowed, n=1)
    if not near and len(word) >= 4:
        near = [choice for choice in allowed if word in choice][:3]
    return " or ".join(repr(choice) for choice in near)


def _suggest(word: str, allowed: Sequence[str], otherwise: str) -> str:
    if near := _near(word, allowed):
        return f"Did you mean {near}?"
    return f"{otherwise} {', '.join(allowed)}."


def _all_keys(section: type[_Section], path: _Path = ()) -> Iterator[_Path]:
    for name, field in section.model_fields.items():
        yield (*path, name)
        if inner := _section_in(field.annotation):
            yield from _all_keys(inner, (*path, name))


def _required_keys() -> str:
    return ", ".join(name for name, field in Recipe.model_fields.items() if field.is_required())
