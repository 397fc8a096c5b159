"""How it is trained: the optimizer's settings, distillation, recovery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from hfprune.recipe.places import Clash
from hfprune.recipe.sections.base import (
    MOST,
    MOST_BATCH,
    MOST_EPOCHS,
    MOST_THREADS,
    MOST_WEIGHT,
    Interval,
    Name,
    Positive,
    Section,
)


class TrainingConfig(Section):
    """Training with pruning; the keys are spelled as in transformers' `TrainingArguments`."""

    num_train_epochs: float = Field(
        default=3.0, gt=0, le=MOST_EPOCHS, description="Passes over the training rows."
    )
    max_steps: int = Field(
        default=-1, ge=-1, le=MOST, description="Optimizer steps, instead of epochs; -1: by epochs."
    )
    learning_rate: float = Field(default=5e-5, gt=0, le=1, description="Peak learning rate.")
    per_device_train_batch_size: int = Field(
        default=32, ge=1, le=MOST_BATCH, description="Training rows in a batch, on each device."
    )
    per_device_eval_batch_size: int = Field(
        default=64, ge=1, le=MOST_BATCH, description="Evaluation rows in a batch, on each device."
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=MOST_BATCH, description="Batches summed into one optimizer step."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=100, description="Weight decay of AdamW.")
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
        default=1.0, ge=0, le=MOST, description="Gradients are scaled down to this norm; 0: never."
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
    logging_steps: int = Field(default=50, ge=1, le=MOST, description="Log every so many steps.")
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
        "loss), or loss, which tells more where validation rows are few, or divergence: how far "
        "from the teacher's predictions, where there is a teacher (else loss); null: the task's "
        "first metric (accuracy, f1_macro or pearson).",
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
        default=0, ge=0, le=MOST_THREADS, description="Extra processes that load data; 0: none."
    )
    group_by_length: bool = Field(
        default=False, description="Batch texts of like length together: less padding."
    )
    class_weights: (
        Literal["balanced"]
        | Annotated[list[Annotated[float, Field(gt=0, le=MOST_WEIGHT)]], Field(min_length=1)]
        | None
    ) = Field(
        default=None,
        description="Weights of the classes in the loss, for classes of unlike size: a list in "
        "the order of the labels' ids, or balanced, by their numbers n in the N training rows. One "
        "class each (texts, images, tokens): weight of the class, balanced is N / (classes * n). "
        "Multi-label: weight of a label where it holds, balanced is (N - n) / n. null: all alike.",
    )
    report_to: list[Name] = Field(
        default=[],
        description="Trackers to log to, for example tensorboard, whose package must be installed; "
        "[]: none.",
    )

    def _clashes(self) -> Iterator[Clash]:
        if self.bf16 and self.fp16:
            both = "bf16 is auto and fp16" if self.bf16 == "auto" else "bf16 and fp16 are both"
            yield Clash(f"{both} true: keep one", ("bf16", "fp16"))
        if self.max_steps == 0:
            yield Clash("must be -1 (by epochs) or at least 1, got 0", ("max_steps",))
        if self.lr_scheduler_type == "constant" and self.warmup_ratio > 0:
            yield Clash(
                "lr_scheduler_type constant has no warmup: write constant_with_warmup, or remove "
                "warmup_ratio",
                ("lr_scheduler_type", "warmup_ratio"),
            )
        for kind in ("eval", "save"):
            strategy, steps = f"{kind}_strategy", f"{kind}_steps"
            if getattr(self, strategy) == "steps" and getattr(self, steps) is None:
                yield Clash(
                    f"{strategy} is steps: say how many in {steps}, for example {steps}: 500",
                    (strategy, steps),
                )
            if getattr(self, strategy) != "steps" and getattr(self, steps) is not None:
                yield Clash(
                    f"{steps} is only used with {strategy}: steps, but {strategy} is "
                    f"{getattr(self, strategy)}: change one of them",
                    (steps, strategy),
                )
        if self.load_best_model_at_end:
            yield from self._best_model_clashes()
        elif self.early_stopping_patience is not None:
            yield Clash(
                "early_stopping_patience needs load_best_model_at_end: true",
                ("early_stopping_patience", "load_best_model_at_end"),
            )

    def _best_model_clashes(self) -> Iterator[Clash]:
        keys = ("load_best_model_at_end", "eval_strategy", "save_strategy")
        if "no" in (self.eval_strategy, self.save_strategy) or (
            self.eval_strategy != self.save_strategy
        ):
            yield Clash(
                "load_best_model_at_end needs eval_strategy and save_strategy to be the same, "
                f"epoch or steps; got {self.eval_strategy} and {self.save_strategy}: change them, "
                "or set load_best_model_at_end: false",
                keys,
            )
        elif self.eval_steps and self.save_steps and self.save_steps % self.eval_steps:
            yield Clash(
                f"load_best_model_at_end needs save_steps ({self.save_steps}) to be a multiple of "
                f"eval_steps ({self.eval_steps})",
                ("save_steps", "eval_steps", "load_best_model_at_end"),
            )


class DistillationConfig(Section):
    """What the pruned model learns from the teacher: a weighted sum of three losses."""

    temperature: float = Field(
        default=2.0,
        gt=0,
        le=MOST_WEIGHT,
        description="Softens both predictions before they are compared.",
    )
    logits_weight: float = Field(
        default=1.0, ge=0, le=MOST_WEIGHT, description="Weight of the teacher's predictions."
    )
    hidden_weight: float = Field(
        default=1.0, ge=0, le=MOST_WEIGHT, description="Weight of the teacher's hidden states."
    )
    label_weight: float = Field(
        default=0.1, ge=0, le=MOST_WEIGHT, description="Weight of the true labels."
    )
    embedding_loss: Literal["cosine", "mse"] = Field(
        default="cosine",
        description="Sentence embedding: how far two embeddings of a text are from each other. "
        "cosine: 1 less their cosine. mse: their squared distance, over the teacher's mean squared "
        "length.",
    )
    similarity_weight: float = Field(
        default=1.0,
        ge=0,
        le=MOST_WEIGHT,
        description="Sentence embedding: weight of the similarities of each two texts of a batch, "
        "beside the embeddings themselves.",
    )
    ranking_loss: Literal["pointwise", "margin_mse", "listwise"] = Field(
        default="pointwise",
        description="Reranking: what following the teacher's scores means. pointwise: each score "
        "alone (binary cross entropy). margin_mse: the differences of the scores of each two texts "
        "of a query. listwise: the order of a query's texts, as probabilities of being the first "
        "(KL divergence). The last two keep a query's texts together in batches.",
    )
    augmentation: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Variations of each training row that are added to an epoch, labelled by the "
        "teacher: a small model that has few rows generalizes better. Text only.",
    )
    rest_of_texts: bool = Field(
        default=False,
        description="Add to an epoch what data.max_length cut off the training texts, in rows of "
        "that length, labelled by the teacher: more real text, where texts are long.",
    )
    dropout: bool | None = Field(
        default=None,
        description="Whether the dropout of the model acts while it learns from the teacher. "
        "Without it the small model comes nearer to the teacher, and a step is faster. null: "
        "of embeddings until nothing more is pruned, of all else always.",
    )
    cache_limit_gb: float = Field(
        default=4.0,
        ge=0,
        le=MOST_WEIGHT,
        description="The teacher's outputs on the training rows are computed once and kept in "
        "memory where they take no more than this. On a CPU hidden states that take more lie in a "
        "file in the run's folder, if half of the free disk holds them. 0: computed anew at every "
        "step.",
    )

    def _clashes(self) -> Iterator[Clash]:
        if not (self.logits_weight or self.hidden_weight or self.label_weight):
            yield Clash(
                "all weights are 0, so there is nothing to learn: raise one of logits_weight, "
                "hidden_weight, label_weight",
                ("logits_weight", "hidden_weight", "label_weight"),
            )
        elif not (self.logits_weight or self.hidden_weight):
            yield Clash(
                "logits_weight and hidden_weight are 0, so the teacher teaches nothing: raise one, "
                "or set distillation to null",
                ("logits_weight", "hidden_weight"),
            )


# Epochs of a round, where there are rounds.
ROUND_EPOCHS: Final = 3.0


class RecoveryConfig(Section):
    """Training of the small model after the physical removal."""

    num_train_epochs: Annotated[float, Field(ge=0, le=MOST_EPOCHS)] | Literal["auto"] = Field(
        default=0.0,
        description="Epochs of training after the removal; 0: none. auto: rounds of three epochs, "
        "each with a whole course of the rate, as long as the last one is shown to have brought "
        "the model nearer to the teacher on the validation rows; a round that has not is left out.",
    )
    max_rounds: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="So many at most, where num_train_epochs is auto.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] | None = Field(
        default=None,
        description="Its peak learning rate; null: as under `training`. auto: of 1e-4, 2e-4, 5e-4 "
        "and 1e-3 the one that brings the model nearest to the teacher on the validation rows, "
        "tried in half as many steps as the recovery itself takes; 2e-4 where none is shown to be "
        "better.",
    )
    freeze_embeddings: bool = Field(
        default=False,
        description="Leave the word embeddings as the teacher's. Trains faster, and generalizes "
        "better from few rows.",
    )

    @property
    def trains(self) -> bool:
        """Whether the small model is trained at all."""
        return self.num_train_epochs == "auto" or self.num_train_epochs > 0

    @property
    def in_rounds(self) -> bool:
        """Whether it is trained until that no longer helps."""
        return self.num_train_epochs == "auto"

    @property
    def round_epochs(self) -> float:
        """Epochs of one training."""
        return ROUND_EPOCHS if self.num_train_epochs == "auto" else self.num_train_epochs

    @property
    def most_rounds(self) -> int:
        """How many trainings there may be."""
        return self.max_rounds if self.in_rounds else 1

    def _clashes(self) -> Iterator[Clash]:
        usual = type(self).model_fields["max_rounds"].default
        if self.max_rounds != usual and not self.in_rounds:
            yield Clash(
                "max_rounds is only for num_train_epochs: auto: remove it, or set "
                "num_train_epochs to auto",
                ("max_rounds", "num_train_epochs"),
            )
