"""What of a recipe is found wrong within two seconds, before anything is loaded.

A run calls this first, and so do ``recipe check`` and ``--dry-run``: whatever can be known from the
files' heads, the model's small files and sizes is not found out after a teacher was trained. Names
on the Hub are not looked up. All rows are checked again, whole, when a run reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hfprune.core.errors import CheckpointError, DataError, RecipeError
from hfprune.core.files import check_output_dir
from hfprune.core.tasks import Task, problem_type_of
from hfprune.core.trackers import check_trackers
from hfprune.data.labels import encode_labels
from hfprune.data.loading import parted
from hfprune.data.notices import Notice, notices_of
from hfprune.data.readers.named import saved_kind
from hfprune.data.readers.paths import files_of, listed
from hfprune.data.readers.reading import read_splits
from hfprune.data.unlabeled import apart, read_unlabeled
from hfprune.data.uses import read_use, uses_of
from hfprune.early.model import ModelFacts, check_tokenizer, encoder_layout, look_at
from hfprune.early.speed import check_speed, daring
from hfprune.models.encoder_checks import check_said, prompt_before
from hfprune.models.layout import similarity_of
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.evaluation import EvaluationConfig
from hfprune.recipe.sections.whole import Recipe

# Rows that are read of files that are too large to be read whole in a second.
ROWS: Final = 1000
_WHOLE_BYTES: Final = 8_000_000
_FILES: Final = ("train", "validation", "test", "unlabeled")


def check_early(recipe: Recipe) -> tuple[str, ...]:
    """Refuse what can be refused at once.

    Returns:
        What a person should know, a sentence each.

    Raises:
        HFPruneError: naming what came, what was expected and which key to change.
    """
    check_trackers(recipe.training.report_to)
    check_output_dir(recipe.output_dir, recipe.overwrite or recipe.resume)
    labels, notices = check_data(recipe.data, recipe.task)
    labels = labels or recipe.data.label_names
    _check_uses(recipe.evaluation)
    told = [notice.text for notice in notices if notice.level == "warning"]
    model = look_at(recipe.model.name_or_path, "model.name_or_path")
    if model.near is not None and model.unseen is not None:
        told.append(model.unseen)
    check_tokenizer(model, "model.name_or_path", recipe.model.tokenizer)
    _check_lengths(recipe, model)
    dense, key = model, "model.name_or_path"
    if recipe.teacher.name_or_path is not None:
        teacher = look_at(recipe.teacher.name_or_path, "teacher.name_or_path")
        if recipe.task != "sentence_embedding":
            _check_teacher(teacher, recipe, labels)
        dense, key = teacher, "teacher.name_or_path"
        model = teacher if model.block_weights is None else model
    if recipe.task == "sentence_embedding":
        _check_encoder(dense, key, recipe)
    told += reading_notes(dense, key, recipe)
    told += check_target(recipe, model)
    return tuple(told)


def check_target(recipe: Recipe, model: ModelFacts) -> list[str]:
    """Refuse a target that a model of these sizes cannot reach; what to tell otherwise.

    Raises:
        RecipeError: a speed beyond any, or a layer that is not there.
    """
    pruning, benchmark = recipe.pruning, recipe.benchmark
    layers = model.layers
    wrong = [n for n in pruning.keep_layers or () if layers is not None and n >= layers]
    if wrong:
        raise RecipeError(
            f"pruning.keep_layers names layer {wrong[0]}, but {model.name} has {layers}: numbers "
            f"are 0 to {(layers or 1) - 1}"
        )
    if pruning.speedup is None or not benchmark.sequence_lengths:
        return []
    speeds = pruning.speedup if isinstance(pruning.speedup, list) else [pruning.speedup]
    shape = benchmark.batch_sizes[0], benchmark.sequence_lengths[0]
    check_speed(speeds, model, *shape, "pruning.speedup")
    note = daring(speeds)
    return [] if note is None else [note]


def check_data(data: DataConfig, task: Task) -> tuple[list[str] | None, tuple[Notice, ...]]:
    """Look into the files of rows.

    Returns:
        The labels and what to tell, where the files are small enough to be read whole.

    Raises:
        DataError: a file is not there, lacks a column, or its first rows do not fit the task.
    """
    if data.train_file is None or task == "image_classification":
        _check_files(data)
        return None, ()
    whole = _size(data) <= _WHOLE_BYTES
    most = None if whole else ROWS
    rows, more = read_splits(data, task, most), read_unlabeled(data, most)
    if not whole:
        return None, ()
    names, labels = encode_labels(rows, data, task)
    pieces, seen = parted(rows, labels, data, task)
    told = () if more is None else apart(more, pieces, task).notices()
    return names, (*notices_of(pieces, names, seen, data, task), *told)


def _check_files(data: DataConfig) -> None:
    for split in _FILES:
        named = getattr(data, f"{split}_file")
        if named is not None:
            files_of(split, named)


def _size(data: DataConfig) -> int:
    """Bytes of all files of rows; folders count as large, as they are opened by `datasets`."""
    return sum(
        _size_of(Path(file))
        for split in _FILES
        for file in files_of(split, listed(getattr(data, f"{split}_file")))
    )


def _size_of(path: Path) -> int:
    return _WHOLE_BYTES + 1 if saved_kind(path) is not None else path.stat().st_size


def _check_uses(evaluation: EvaluationConfig) -> None:
    """What embeddings are tried on at the end: without a look, a training would come first."""
    for use, file in uses_of(evaluation):
        small = not Path(file).exists() or _size_of(Path(file)) <= _WHOLE_BYTES
        read_use(use, file, None if small else ROWS)


def _check_lengths(recipe: Recipe, model: ModelFacts) -> None:
    if recipe.task == "image_classification":
        return
    longest = model.tokenizer_limit if recipe.model.tokenizer is None else None
    if longest is not None and recipe.data.max_length > longest:
        raise DataError(
            f"data.max_length is {recipe.data.max_length}, but the model reads at most {longest} "
            f"tokens (the tokenizer's model_max_length): set data.max_length to {longest} or less"
        )
    timed, positions = max(recipe.benchmark.sequence_lengths, default=0), model.positions
    if positions is not None and timed > positions:
        raise RecipeError(
            f"benchmark.sequence_lengths asks for {timed} tokens, but the model has positions for "
            f"{positions}: list shorter lengths"
        )


def _check_encoder(dense: ModelFacts, key: str, recipe: Recipe) -> None:
    """A sentence encoder gives embeddings, and its folder says what the recipe says."""
    layout, where = encoder_layout(dense, key), f"{key} {dense.name!r}"
    if dense.root is not None:
        check_said(layout, recipe.model.pooling, recipe.model.normalize, where)
        prompt_before(layout, dense.root, recipe.data.prompt, where)


def reading_notes(dense: ModelFacts, key: str, recipe: Recipe) -> list[str]:
    """What to tell of a model that is used otherwise than its folder means it.

    Args:
        dense: that is pruned.
        key: of the recipe, which names it.
    """
    where = f"{key} {dense.name!r}"
    if recipe.task != "sentence_embedding":
        if not dense.cross_encoder or recipe.data.text_pair_column is not None:
            return []
        return [
            f"{where} is a CrossEncoder, which reads two texts together, and one of each row is "
            "read: name the column of the second ones in data.text_pair_column; for a reranker set "
            "task: reranking"
        ]
    layout = encoder_layout(dense, key)
    if layout is None or layout.normalize or similarity_of(layout) == "cosine":
        return []
    loss = recipe.distillation.embedding_loss if recipe.distillation is not None else None
    return [
        f"{where} compares embeddings by {similarity_of(layout)!r} (similarity_fn_name), in which "
        "their lengths count, and does not scale them to length 1; metrics here are of cosines"
        + (
            ", and so is distillation.embedding_loss: set it to mse, which learns lengths as well"
            if loss == "cosine"
            else ""
        )
    ]


def _check_teacher(teacher: ModelFacts, recipe: Recipe, labels: list[str] | None) -> None:
    """A teacher must be fine-tuned for the task and its labels."""
    key = f"teacher.name_or_path {teacher.name!r}"
    if teacher.folder is None or teacher.model_type is None:
        return
    if teacher.kind is None:
        raise CheckpointError(
            f"{key} was not fine-tuned as a classifier, and random weights would teach nothing. "
            "Name a fine-tuned model, or set teacher.name_or_path to null to fine-tune one first"
        )
    fits = teacher.problem in (None, problem_type_of(recipe.task))
    if not fits and teacher.kind.ending.startswith("ForSeq"):
        raise CheckpointError(
            f"{key} was fine-tuned for {teacher.problem}, the recipe's task is {recipe.task}: name "
            "a teacher of this task"
        )
    theirs = teacher.labels or ()
    if recipe.task in ("reranking", "regression") and len(theirs) != 1:
        what = "one score of a pair" if recipe.task == "reranking" else "one number"
        raise CheckpointError(
            f"{key} has a head for {len(theirs)} labels ({_shown(theirs)}), but {recipe.task} "
            f"takes {what}: name a teacher of this task, or set teacher.name_or_path to null to "
            "fine-tune one first"
        )
    if labels and len(theirs) != len(labels):
        raise CheckpointError(
            f"{key} has a head for {len(theirs)} labels ({_shown(theirs)}), the data has "
            f"{len(labels)} ({_shown(labels)}): name a teacher of this task"
        )


def _shown(labels: tuple[str, ...] | list[str]) -> str:
    return ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")


def label_counts(values: Mapping[str, int], most: int = 10) -> str:
    """Labels and how often each occurs, the most frequent first.

    >>> label_counts({"bad": 2, "good": 5})
    "'good' 5, 'bad' 2"
    """
    ordered = sorted(values.items(), key=lambda entry: (-entry[1], entry[0]))
    shown = ", ".join(f"{name!r} {count}" for name, count in ordered[:most])
    rest = len(ordered) - most
    return shown + (f", and {rest} more" if rest > 0 else "")
