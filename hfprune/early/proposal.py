"""The recipe that rows and a model suggest: a pure function of what was read of them.

The numbers are those of the shipped recipes, which were tried (docs/targets.md): more epochs and
variations where rows are few, lengths that cut next to nothing, shapes as texts really come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from hfprune.core.errors import RecipeError
from hfprune.core.tasks import Task
from hfprune.data.class_names import spelled
from hfprune.early.columns import Chosen
from hfprune.early.duration import Work, seconds_of
from hfprune.early.model import ModelFacts
from hfprune.early.ranks import RANKS, TASKS, adapted, few_to_test_on, other_head, read_as

LENGTHS: Final = (16, 32, 64, 96, 128, 192, 256, 384, 512)
# No longer than this unless the recipe is changed by hand: attention grows with the square.
LONGEST: Final = 512
# Of texts that are cut.
CUT: Final = 0.02
# The largest class over the smallest: beyond this an accuracy hides the small ones.
UNEVEN: Final = 3.0
USUAL_SPEEDUP: Final = 6.0


class Target(NamedTuple):
    """What the user asked for; at most one of the three."""

    speedup: float | None = None
    sparsity: float | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class RowFacts:
    """What was read of the rows.

    Attributes:
        file, test_file: as recipes name them.
        rows: of ``file``, about where it was not read whole; of reranking pairs.
        queries: of reranking, about.
        chosen: its columns and the task.
        labels: how often each occurs in what was read; empty for numbers.
        lengths: tokens of texts, special ones included.
        measured: whether by the model's own tokenizer.
    """

    file: str
    rows: int
    chosen: Chosen
    labels: Mapping[str, int]
    lengths: Sequence[int]
    measured: bool
    test_file: str | None = None
    queries: int | None = None


class Key(NamedTuple):
    """A key of a section, its value, and the comment behind it."""

    name: str
    value: Any
    comment: str


@dataclass(frozen=True)
class Proposal:
    """A recipe with its comments.

    Attributes:
        sections: keys by section, and by themselves under an empty name at the ends.
        said: what was assumed and what a person should know, in sentences.
        seconds: how long the run may take, at least and at most.
    """

    sections: Mapping[str, Sequence[Key]]
    said: tuple[str, ...]
    seconds: tuple[float, float]
    teacher: str | None = field(default=None)


def propose(
    rows: RowFacts,
    model: ModelFacts,
    *,
    output: str,
    target: Target = Target(),  # noqa: B008 (a tuple)
    teacher: str | None = None,
    cores: int = 2,
) -> Proposal:
    """The recipe for these rows and this model.

    Args:
        rows, model: what was read.
        output: folder of the run.
        target: what the user asked for; nothing: :data:`USUAL_SPEEDUP`.
        teacher: a fine-tuned model that the user named. Without, the model itself is the teacher
            where it is fine-tuned for these labels.
        cores: of this machine, for how long it takes.

    Raises:
        RecipeError: more than one target, or images.
    """
    task, said = rows.chosen.task, list(rows.chosen.said)
    if model.unseen is not None:
        said.append(model.unseen)
    if task == "image_classification":
        raise RecipeError("rows of images are not proposed for: begin with recipes/digits-vit.yaml")
    given = {name: value for name, value in target._asdict().items() if value is not None}
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise RecipeError(f"{names} are different targets: name one")
    order, own, why = teacher_of(rows, model)
    said += why
    said += read_as(model, task)
    teacher = teacher or (model.name if own else None)
    shape = _shape(rows, model, said)
    work = _work(rows, model, shape, target, trained=teacher is None, cores=cores)
    sections: dict[str, Any] = {
        "model": [Key("name_or_path", model.name, _sizes(model))],
        "": [Key("task", task, TASKS[task])],
        "data": _data(rows, shape, order),
        "teacher": _teacher(teacher, work),
        "training": _training(rows, shape, task),
        "pruning": _pruning(target, work),
        "distillation": _distillation(rows, shape, task, work),
        "recovery": [
            Key("num_train_epochs", work.recovery_epochs, "training of the small model"),
            Key("learning_rate", 2e-4, "its peak learning rate"),
            Key("freeze_embeddings", True, "as the teacher's: faster"),
        ],
        "evaluation": [Key("metrics", metrics_of(rows), _metrics_comment(rows))],
        "export": [
            Key("quantization", "auto", "int8: the fastest, as measured here, that stays accurate")
        ],
        "benchmark": [
            Key("batch_sizes", shape.batches, "one text, and many at once; the first decides"),
            Key("sequence_lengths", shape.times, "tokens: half of the texts are shorter; the most"),
            Key("threads", 1, "CPU threads"),
        ],
        "end": [Key("output_dir", output, "everything is written here")],
    }
    if task in RANKS:
        sections = adapted(task, sections, Key, model.bare)
    if rows.test_file is None:
        said += few_to_test_on(task, rows.rows if rows.queries is None else rows.queries)
    return Proposal(sections, tuple(said), seconds_of(work), teacher)


@dataclass(frozen=True)
class _Shape:
    most: int
    times: list[int]
    batches: list[int]
    train_batch: int
    cut: float
    mean: float


def length_for(lengths: Sequence[int], limit: int | None) -> int:
    """Where to cut texts: the least of :data:`LENGTHS` that cuts at most :data:`CUT` of them.

    Args:
        lengths: tokens of texts.
        limit: of the model.
    """
    most = min(limit or LONGEST, LONGEST)
    wanted = _quantile(lengths, 1 - CUT)
    return next((length for length in LENGTHS if length >= wanted and length <= most), most)


def _quantile(values: Sequence[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0


def _shape(rows: RowFacts, model: ModelFacts, said: list[str]) -> _Shape:
    most = length_for(rows.lengths, model.limit)
    cut = sum(length > most for length in rows.lengths) / max(1, len(rows.lengths))
    median = _quantile(rows.lengths, 0.5)
    usual = next((length for length in LENGTHS if length >= median), most)
    source = "" if rows.measured else " (guessed from words: the tokenizer is not at hand)"
    said.append(
        f"texts: half have at most {median} tokens, the longest {max(rows.lengths, default=0)}"
        f"{source}; cut at {most}" + (f", which cuts {cut:.0%} of them" if cut >= 0.005 else "")
    )
    return _Shape(
        most=most,
        times=sorted({min(usual, most), most}),
        batches=[1, 8] if most >= 256 else [1, 32],
        train_batch=8 if most >= 512 else 16 if most >= 256 else 32,
        cut=cut,
        mean=sum(min(length, most) for length in rows.lengths) / max(1, len(rows.lengths)),
    )


def teacher_of(rows: RowFacts, model: ModelFacts) -> tuple[list[str] | None, bool, list[str]]:
    """Whether the model is the teacher already, and in which order its labels stand.

    Returns:
        Labels as the rows spell them, in the order of the model's numbers (``None`` where the data
        decides); whether it is fine-tuned for them; and what to tell.
    """
    labels, task = list(model.labels or ()), rows.chosen.task
    if model.kind is None:
        return None, False, []
    if task == "sentence_embedding":
        return None, False, []
    if task == "reranking":
        own = len(labels) == 1 and model.kind.ending == "ForSequenceClassification"
        return None, own, _as_teacher(model.name) if own else other_head(model.name, len(labels))
    tokens = task == "token_classification"
    if tokens != (model.kind.ending == "ForTokenClassification"):
        return None, False, [f"{model.name} is fine-tuned for another kind of task: it is trained"]
    if task == "regression":
        own = len(labels) == 1
        return None, own, _as_teacher(model.name) if own else []
    if model.problem not in (None, task):
        return None, False, [f"{model.name} is fine-tuned for {model.problem}: it is trained anew"]
    mine = list(rows.labels)
    by_form = {spelled(label).casefold(): label for label in mine}
    alike = {spelled(name).casefold() for name in labels} == set(by_form)
    if len(labels) != len(mine):
        return None, False, [
            f"{model.name} is fine-tuned for these labels, which the rows spell in several ways: "
            "write them alike, and it is the teacher as it stands" if alike else
            f"{model.name} has {len(labels)} labels and the rows {len(mine)}: if training stops at "
            "that, set model.new_head: true"
        ]  # fmt: skip
    if len(by_form) == len(mine) and alike:
        ordered = [by_form[spelled(name).casefold()] for name in labels]
        return ordered, True, _as_teacher(model.name)
    numbers = sorted(mine, key=lambda label: (len(label), label))
    if not model.named_labels and numbers == [str(number) for number in range(len(mine))]:
        return None, True, _as_teacher(model.name)
    told = ", ".join(map(repr, labels[:5]))
    return None, False, [
        f"{model.name} is fine-tuned for the labels {told}, which are not those of the rows: it is "
        "fine-tuned again; if they mean the same, give data.label_names in its order and --teacher"
    ]  # fmt: skip


def _as_teacher(name: str) -> list[str]:
    return [f"{name} is fine-tuned for these labels already: it is the teacher as it stands"]


def metrics_of(rows: RowFacts) -> list[str]:
    """Metrics to report, the one first that the classes' sizes ask for."""
    task = rows.chosen.task
    if task == "regression":
        return ["pearson", "spearman", "mse"]
    if task == "token_classification":
        return ["entity_f1", "entity_precision", "entity_recall", "token_accuracy"]
    if task == "multi_label_classification" or _uneven(rows):
        return ["f1_macro", "accuracy"]
    return ["accuracy", "f1_macro"]


def _uneven(rows: RowFacts) -> bool:
    counts = rows.labels.values()
    return bool(counts) and max(counts) > UNEVEN * min(counts)


def _metrics_comment(rows: RowFacts) -> str:
    if _uneven(rows) and rows.chosen.task == "single_label_classification":
        return "classes are of unlike size: each counts the same in f1_macro, which comes first"
    return "on the test rows; the first is the one that counts"


def _held_out(rows: RowFacts) -> tuple[float, float]:
    """Fractions for validation and test: more of few rows."""
    return (0.15 if rows.rows < 3000 else 0.1), (0.0 if rows.test_file else 0.2)


def _data(rows: RowFacts, shape: _Shape, order: list[str] | None) -> list[Key]:
    chosen, (validation, test) = rows.chosen, _held_out(rows)
    of_what = "rows" if rows.queries is None else f"pairs, of {rows.queries:,} queries"
    keys = [Key("train_file", rows.file, f"{rows.rows:,} {of_what}")]
    if rows.test_file:
        keys.append(Key("test_file", rows.test_file, "only reported on"))
    keys.append(Key("text_column", chosen.text, "column of the text"))
    if chosen.pair is not None:
        keys.append(Key("text_pair_column", chosen.pair, "column of the second text"))
    if chosen.negatives:
        named = chosen.negatives[0] if len(chosen.negatives) == 1 else list(chosen.negatives)
        keys.append(Key("negative_column", named, "of texts that do not answer"))
    else:
        keys.append(Key("label_column", chosen.label, "column of the label"))
    if order is not None:
        keys.append(Key("label_names", order, "in the order of the model's classes"))
    keys.append(
        Key("validation_fraction", validation, "of the rows, to choose the best checkpoint")
    )
    if test:
        keys.append(Key("test_fraction", test, "of the rows, only reported on"))
    source = "from the texts' lengths" if rows.measured else "guessed from the texts' words"
    keys.append(Key("max_length", shape.most, f"tokens, {source}; longer ones are cut"))
    return keys


def _teacher(name: str | None, work: Work) -> list[Key]:
    if name is not None:
        return [Key("name_or_path", name, "fine-tuned already; used as it is")]
    return [
        Key("num_train_epochs", work.teacher_epochs, "fine-tuning of the dense model, the teacher"),
        Key("learning_rate", 5e-5, "its peak learning rate"),
    ]


def _training(rows: RowFacts, shape: _Shape, task: Task) -> list[Key]:
    keys = [
        Key("per_device_train_batch_size", shape.train_batch, "rows in a batch"),
        Key("bf16", "auto", "bfloat16 arithmetic where this machine is faster in it"),
        Key("group_by_length", True, "texts of like length in a batch: less padding"),
    ]
    if task != "regression" and rows.rows * _held_out(rows)[0] < 500:
        keys.append(
            Key("metric_for_best_model", "loss", "few validation rows tell losses apart, not more")
        )
    keys.append(Key("seed", 42, "same seed, same machine: same result"))
    return keys


def _pruning(target: Target, work: Work) -> list[Key]:
    if target.sparsity is not None:
        first = Key("sparsity", target.sparsity, "fraction of the encoder's weights to remove")
    elif target.max_drop is not None:
        first = Key("max_metric_drop", target.max_drop, "most that the first metric may fall")
    else:
        first = Key(
            "speedup",
            target.speedup or USUAL_SPEEDUP,
            "times as fast as the dense float32 ONNX model, at the first shape of benchmark",
        )
    return [
        first,
        Key("method", "reconstruction", "pruned at once, outputs refitted; recovery trains it"),
        Key("trial_epochs", work.trial_epochs, "of each candidate, before the best goes on"),
    ]


def _distillation(rows: RowFacts, shape: _Shape, task: Task, work: Work) -> list[Key]:
    keys = [
        Key("temperature", 2.0, "softens the predictions that are compared"),
        Key("logits_weight", 1.0, "the teacher's predictions"),
        Key("hidden_weight", 1.0, "the teacher's hidden states"),
        Key("label_weight", 0.1, "the true labels"),
    ]
    if work.augmentation:
        keys.append(
            Key("augmentation", work.augmentation, "variations of each text, labelled by it")
        )
    whole = task != "token_classification" and rows.chosen.pair is None
    if whole and shape.cut > 0.1:
        keys.append(Key("rest_of_texts", True, "what is cut off is learned from too"))
    return keys


def _work(
    rows: RowFacts,
    model: ModelFacts,
    shape: _Shape,
    target: Target,
    *,
    trained: bool,
    cores: int,
) -> Work:
    """What the run has to do; epochs and variations by how many rows there are."""
    few, many = rows.rows < 3000, rows.rows > 50_000
    of_words = rows.chosen.task == "token_classification"
    embeds = rows.chosen.task == "sentence_embedding"
    return Work(
        rows=round(rows.rows * (1 - sum(_held_out(rows)))),
        test_rows=round(rows.rows * 0.2),
        tokens=shape.mean,
        weights=model.block_weights,
        cores=cores,
        teacher_epochs=(4 if few else 2 if many else 3),
        fine_tunes=trained and not embeds,
        embeds=embeds,
        recovery_epochs=2 if many else 4,
        augmentation=0 if of_words or many else 2 if few else 1,
        trial_epochs=1.0 if few else 0.05 if many else 0.2,
        keep=1 - target.sparsity if target.sparsity is not None else 0.35,
        searches=target.max_drop is not None,
        times_blocks=target.sparsity is None,
    )


def _sizes(model: ModelFacts) -> str:
    if model.layers is None or model.width is None:
        return "folder or name on the Hub"
    return f"{model.model_type}: {model.layers} layers, hidden size {model.width}"
