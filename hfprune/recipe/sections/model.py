"""Which model is pruned, and which one teaches it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hfprune.recipe.places import Clash
from hfprune.recipe.sections.base import MOST_EPOCHS, MOST_OTHERS, MOST_SEEDS, Name, Section


class ModelConfig(Section):
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
    new_head: bool = Field(
        default=False,
        description="Exchange the model's head (its last projection) for a new, random one that "
        "the fine-tuning fits to the data's labels: for a model that was fine-tuned for other "
        "labels. false: a head of another size is an error.",
    )
    pooling: Literal["mean", "cls", "max"] | None = Field(
        default=None,
        description="Sentence embedding: how an encoder whose folder does not say so makes one "
        "vector of a text's tokens; null: as the folder's modules say, or else mean.",
    )
    normalize: bool | None = Field(
        default=None,
        description="Sentence embedding: whether embeddings of an encoder whose folder does not "
        "say so are scaled to length 1; null: as the folder's modules say, or else not.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with a model, a tokenizer or a metric of the Hub. "
        "Leave it false.",
    )

    def _clashes(self) -> Iterator[Clash]:
        if self.tokenizer_revision is not None and self.tokenizer is None:
            yield Clash(
                "tokenizer_revision belongs to a tokenizer of its own, but the model's is used, at "
                "revision: remove it, or name the tokenizer",
                ("tokenizer_revision",),
            )


class TeacherConfig(Section):
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
        default=None,
        gt=0,
        le=MOST_EPOCHS,
        description="Epochs of its fine-tuning; null: as under `training`.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Peak learning rate of its fine-tuning; null: as under `training`.",
    )
    num_seeds: int = Field(
        default=1,
        ge=1,
        le=MOST_SEEDS,
        description="Fine-tune so many times, with training.seed and the seeds after it. The first "
        "model is the one that is pruned and compared with; the mean of their predictions is what "
        "the pruned model learns from. Each costs a training.",
    )
    learn_from: list[Name] = Field(
        default_factory=list,
        max_length=MOST_OTHERS,
        description="Models already fine-tuned on this task (folders or Hub ids), larger ones as a "
        "rule, of any family and tokenizer. The mean of their predictions is what the pruned model "
        "learns from, in place of the dense model's; hidden states stay the dense model's.",
    )

    def _clashes(self) -> Iterator[Clash]:
        if self.revision is not None and self.name_or_path is None:
            yield Clash(
                "revision belongs to a teacher by name: remove it, or give name_or_path",
                ("revision",),
            )
        if self.name_or_path is not None and self.num_seeds > 1:
            yield Clash(
                f"the teacher {self.name_or_path!r} is used as it is and not trained: remove "
                "num_seeds, or set name_or_path to null",
                ("num_seeds", "name_or_path"),
            )
        if self.learn_from and self.num_seeds > 1:
            yield Clash(
                "learn_from names the models whose predictions are learned, so further seeds of "
                "the dense model would not be asked: remove num_seeds or learn_from",
                ("learn_from", "num_seeds"),
            )
        for key in ("num_train_epochs", "learning_rate"):
            if self.name_or_path is not None and getattr(self, key) is not None:
                yield Clash(
                    f"the teacher {self.name_or_path!r} is used as it is and not trained: remove "
                    f"{key}, or set name_or_path to null",
                    (key, "name_or_path"),
                )
