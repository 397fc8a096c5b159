"""What a recipe's keys say of learning from a teacher, and cannot say together."""

from __future__ import annotations

from collections.abc import Iterator

from hfprune.core.tasks import Task
from hfprune.recipe.places import Clash
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.model import TeacherConfig
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.training import DistillationConfig, RecoveryConfig

# Tasks whose texts have no label of their own that a teacher could give them.
_NOT_LABELLED_WHOLE = ("token_classification", "image_classification", "reranking")

# While embeddings are the dense model's own, the gradients that gates are scored by are 0.
NOTHING_TO_SCORE = (
    "distillation.dropout is false, but gates are scored by how what is learned changes, and a "
    "sentence encoder that begins as its own teacher has nothing to learn without dropout: leave "
    "it out (dropout then ends with the pruning), or set pruning.method to reconstruction"
)

# Tasks whose outputs are not of a text as a whole, or not of texts.
_NOT_READ_ANEW = ("token_classification", "image_classification", "sentence_embedding")


def lesson_clashes(
    task: Task,
    data: DataConfig,
    teacher: TeacherConfig,
    pruning: PruningConfig,
    distillation: DistillationConfig | None,
    recovery: RecoveryConfig,
) -> Iterator[Clash]:
    """Further texts, further teachers and a rate that is looked for, where they have no meaning."""
    distils = distillation is not None
    if data.unlabeled_file is not None:
        yield from _of_unlabeled_texts(task, data, distils)
    if teacher.num_seeds > 1:
        yield from _of_seeds(task, pruning, distils)
    if teacher.learn_from:
        yield from _of_outside(task, pruning, distils)
    quiet = distillation is not None and distillation.dropout is False
    if task == "sentence_embedding" and pruning.by_gates and quiet:
        yield Clash(NOTHING_TO_SCORE, ("distillation.dropout", "pruning.method"))
    for key, what in (("learning_rate", "a rate"), ("num_train_epochs", "a number")):
        if getattr(recovery, key) == "auto" and not distils:
            yield Clash(
                f"recovery.{key}: auto is judged by the teacher's predictions, and "
                f"distillation is null: give {what}, or distil",
                (f"recovery.{key}", "distillation"),
            )


def _of_seeds(task: Task, pruning: PruningConfig, distils: bool) -> Iterator[Clash]:
    averages = "teacher.num_seeds averages predictions to learn from, and"
    if not distils:
        yield Clash(
            f"{averages} distillation is null: remove it, or distil",
            ("teacher.num_seeds", "distillation"),
        )
    elif task == "sentence_embedding":
        yield Clash(
            f"{averages} a sentence encoder is taken as it is: remove it",
            ("teacher.num_seeds", "task"),
        )
    elif pruning.vocabulary is not None:
        yield Clash(
            f"{averages} only the first teacher's vocabulary is reduced: remove one",
            ("teacher.num_seeds", "pruning.vocabulary"),
        )


def _of_outside(task: Task, pruning: PruningConfig, distils: bool) -> Iterator[Clash]:
    key = "teacher.learn_from"
    if not distils:
        yield Clash(
            f"{key} names models to learn from, and distillation is null: remove it, or distil",
            (key, "distillation"),
        )
    elif task in _NOT_READ_ANEW:
        yield Clash(
            f"{key} reads texts by each model's own tokenizer and takes what it says of the whole "
            f"text, and cannot with task {task}: remove it",
            (key, "task"),
        )
    elif pruning.vocabulary is not None:
        yield Clash(
            f"{key} reads the texts of the rows, and pruning.vocabulary changes how they are "
            "split: remove one",
            (key, "pruning.vocabulary"),
        )


def _of_unlabeled_texts(task: Task, data: DataConfig, distils: bool) -> Iterator[Clash]:
    key = "data.unlabeled_file"
    if not distils:
        yield Clash(
            f"{key} holds texts for a teacher to label, and distillation is null: remove it, "
            "or distil",
            (key, "distillation"),
        )
    if task in _NOT_LABELLED_WHOLE:
        yield Clash(
            f"{key} holds texts that get one label each, and cannot with task {task}: remove it",
            (key, "task"),
        )
    elif task == "sentence_embedding":
        yield Clash(
            f"{key} adds texts without labels, and all texts of task sentence_embedding are: list "
            "the file in data.train_file",
            (key, "task"),
        )
    elif data.stride is not None:
        yield Clash(
            f"{key} holds whole texts, and cannot with data.stride, which cuts texts to windows: "
            "remove one",
            (key, "data.stride"),
        )
