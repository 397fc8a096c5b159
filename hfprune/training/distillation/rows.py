"""The rows that are trained on with a teacher: those given, more that it labels, its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow  # type: ignore[import-untyped]
import torch
from datasets import Dataset, Features, concatenate_datasets
from torch import Tensor
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    default_data_collator,
)
from transformers.utils import logging

from hfprune.core.errors import TrainingError
from hfprune.core.files import cache_folder
from hfprune.core.kinds import TEXT_INPUTS, TOKENS, image_tokens
from hfprune.core.shares import together
from hfprune.data.candidates import QUERY_ROW
from hfprune.data.collate import ImageCollator
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.token_rows import TokenRows
from hfprune.training.distillation.cache import TeacherCache, depends_on_padding
from hfprune.training.distillation.losses import (
    EMBEDDING,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
)
from hfprune.training.distillation.room import room_on_disk
from hfprune.training.distillation.teaching import ROW_COLUMN, Teaching, asked
from hfprune.training.distillation.variations import with_variations

_LABELLED_AT_ONCE = 10_000


@dataclass(frozen=True)
class Lessons:
    """Attributes:
    dataset: to train on, with ``ROW_COLUMN`` where outputs are looked up.
    cache: the teacher's outputs on it, if they were computed.
    looked_up: whether training takes them from there.
    """

    dataset: Any
    cache: TeacherCache | None = None
    looked_up: bool = False


class TaughtRows:
    """Prepares the rows of a training, anew for each from the rows that were given.

    Args:
        unlabeled: more rows of token ids, which the teacher labels.
        cache: what an earlier trainer left; its outputs are not computed again.
    """

    def __init__(self, unlabeled: Dataset | None, cache: TeacherCache | None) -> None:
        self._unlabeled = unlabeled
        self._given_cache = cache
        self._rows: Dataset | None = None
        self._made: Any = None

    def prepare(self, trainer: Trainer, teaching: Teaching) -> Lessons:
        """Compute the teacher's outputs once, where that pays and fits; add variations of rows.

        Args:
            trainer: whose rows, collator, arguments and precision count.
            teaching: with the teacher.

        Raises:
            TrainingError: for rows that cannot be added to.
        """
        dataset: Any = trainer.train_dataset
        collate, args = trainer.data_collator, trainer.args
        precision: Any = trainer.compute_loss_context_manager
        settings, teacher = teaching.settings, teaching.teacher
        columns = dataset.column_names if isinstance(dataset, Dataset) else []
        of_texts = "input_ids" in columns
        # Another collator may change images at random, so that no two epochs are alike.
        of_images = IMAGE_COLUMN in columns and isinstance(collate, ImageCollator)
        if settings.augmentation:
            _check_augmentable(teaching, of_texts, "distillation.augmentation varies")
        if self._unlabeled is not None:
            _check_augmentable(teaching, of_texts, "unlabeled_dataset adds to")
        if not isinstance(dataset, Dataset) or not (of_texts or of_images):
            return Lessons(dataset)
        if self._rows is None or dataset is not self._made:
            self._rows = dataset
        labelled, copies = len(self._rows), settings.augmentation
        rows = dataset = _with_unlabeled(self._rows, self._unlabeled)
        if copies:
            dataset = with_variations(rows, _special_ids(trainer), copies, args.seed)
        more = len(dataset) > labelled
        hidden = len(rows) if teaching.wants_hidden else 0
        tokens = 0
        if hidden and of_texts:
            tokens = int(TokenRows(rows).starts[-1])
        elif hidden:
            tokens = len(rows) * image_tokens(teacher.config)
        size = TeacherCache.size(teacher, tokens)
        # With more rows the teacher is asked about each, however short this training is.
        pays = settings.cache_limit_gb > 0 and (more or _epochs(args, len(dataset)) >= 2)
        cache, room = self._given_cache, None
        fits = size <= settings.cache_limit_gb * 1e9 or (cache is not None and cache.keeps_hidden)
        if cache is None and pays and not fits and _on_one_cpu(teacher):
            room = room_on_disk(size, Path(args.output_dir or "."))
            fits = room is not None
        if not more and not (pays and fits):
            return self._lessons(dataset)
        inputs = trainer._remove_unused_columns(dataset, "training")
        if of_texts:
            with asked(teacher), precision():
                fits = fits and _only_pads(collate)
                fits = fits and not depends_on_padding(teacher, inputs, collate)
            if not more and not fits:
                return self._lessons(dataset)
        hidden = hidden if fits else 0
        if cache is None:
            with asked(teacher), precision(), _progress(trainer) as progress:
                cache = TeacherCache(
                    teacher,
                    inputs,
                    collate,
                    hidden=hidden,
                    batch_size=args.per_device_eval_batch_size,
                    folder=cache_folder("teacher") if more else None,
                    progress=progress,
                    room=room,
                )
        cache.require(len(dataset), hidden)
        if more:
            dataset = _with_teacher_labels(dataset, labelled, cache, teaching.problem)
        looked_up = fits and settings.cache_limit_gb > 0
        if looked_up:
            dataset = dataset.add_column(ROW_COLUMN, list(range(len(dataset))))
        return self._lessons(dataset, cache, looked_up)

    def _lessons(
        self, dataset: Dataset, cache: TeacherCache | None = None, looked_up: bool = False
    ) -> Lessons:
        self._made = dataset
        return Lessons(dataset, cache, looked_up)


def _on_one_cpu(teacher: Any) -> bool:
    """Whether reading a disk takes less time than the teacher, and one process writes to it.

    The forward pass of a GPU is over before a disk has given as much.
    """
    return next(teacher.parameters()).device.type == "cpu" and not together()


def _only_pads(collate: Any) -> bool:
    """Whether a collator of texts does nothing but pad, each row the same in every epoch.

    A class of the user's may draw at random or read the batch around a row: with it the teacher
    sees what the student sees, batch by batch.
    """
    return collate is default_data_collator or type(collate) in (
        DataCollatorWithPadding,
        DataCollatorForTokenClassification,
    )


def _epochs(args: Any, rows: int) -> float:
    """How often so many rows are gone through, by the arguments of a training."""
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return float(args.max_steps * batch / max(rows, 1))


def _special_ids(trainer: Trainer) -> list[int]:
    tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    found = getattr(tokenizer, "all_special_ids", None)
    if found is None:
        raise TrainingError(
            "distillation.augmentation must know the special tokens: pass "
            "processing_class=tokenizer, or set it to 0"
        )
    return list(found)


@contextmanager
def _progress(trainer: Trainer) -> Iterator[Callable[[int, int], None]]:
    """What shows how far a teacher's answers are: the trainer's own, or a bar as its training's."""
    own = getattr(trainer, "teacher_progress", None)
    if own is not None:
        yield own
        return
    hidden = trainer.args.disable_tqdm or not trainer.is_local_process_zero()
    shown = 0
    with logging.tqdm(
        desc="the teacher's answers", unit="rows", disable=hidden, leave=False
    ) as bar:

        def move(done: int, total: int) -> None:
            nonlocal shown
            bar.total = total
            bar.update(done - shown)
            shown = done

        yield move


def _check_augmentable(teaching: Teaching, of_texts: bool, what: str) -> None:
    if not of_texts:
        raise TrainingError(
            f"{what} rows of token ids (a datasets.Dataset with input_ids), and the training "
            "data are others; leave it out"
        )
    if teaching.kind is TOKENS:
        raise TrainingError(
            f"{what} rows whose label the teacher decides, and a token classifier has a label "
            "for each token; leave it out"
        )


def _with_unlabeled(rows: Dataset, extra: Dataset | None) -> Dataset:
    """The rows, followed by the unlabeled ones; what is no input is copied from the first."""
    if extra is None or len(extra) == 0:
        return rows
    inputs = [name for name in rows.column_names if name in TEXT_INPUTS]
    missing = [name for name in inputs if name not in extra.column_names]
    if missing or len(rows) == 0:
        raise TrainingError(
            f"unlabeled_dataset has the columns {', '.join(extra.column_names)}, but the "
            f"{len(rows)} training rows have {', '.join(inputs)} for the model, which it needs "
            "as well"
        )
    more = extra.select_columns(inputs)
    for name in rows.column_names:
        if name not in inputs:
            values = [rows[0][name]] * len(extra)
            if name == QUERY_ROW:  # none of theirs is a query of the rows'
                own = extra[name] if name in extra.column_names else range(len(extra))
                first = max(rows[name]) + 1
                values = [first + number for number in own]
            more = more.add_column(name, values, feature=rows.features[name])
    more = more.select_columns(rows.column_names)
    if more.features != rows.features:
        more = more.cast(rows.features)
    return concatenate_datasets([rows, more])


def _with_teacher_labels(
    dataset: Dataset, start: int, cache: TeacherCache, problem: str
) -> Dataset:
    """The rows with the teacher's decisions as labels from row ``start`` on."""
    name = next((n for n in ("labels", "label") if n in dataset.column_names), None)
    if name is None and problem == EMBEDDING:  # which is learned from the teacher alone
        return dataset
    if name is None:
        raise TrainingError(
            "rows that are added for distillation get the teacher's decision as label, but the "
            "training data has no column 'labels' or 'label'; columns: "
            f"{', '.join(dataset.column_names)}"
        )
    schema = Features({name: dataset.features[name]}).arrow_schema
    # Some at a time, and as arrays: of many labels, numbers of Python's take gigabytes.
    parts = [dataset.select_columns(name).select(range(start))]
    for begin in range(start, len(dataset), _LABELLED_AT_ONCE):
        end = min(begin + _LABELLED_AT_ONCE, len(dataset))
        decided = _decided(cache.logits(torch.arange(begin, end)), problem)
        parts.append(Dataset(pyarrow.table({name: decided}).cast(schema)))
    labels = concatenate_datasets(parts)
    whole = concatenate_datasets([dataset.remove_columns(name), labels], axis=1)
    return whole.select_columns(list(dataset.features))


def _decided(logits: Tensor, problem: str) -> Any:
    """What a teacher decides of rows by their logits ``(rows, labels)``, as an Arrow array."""
    if problem == SINGLE_LABEL:
        return pyarrow.array(logits.argmax(-1).numpy())
    rows, width = logits.shape
    if problem == REGRESSION and width == 1:
        return pyarrow.array(logits.squeeze(-1).numpy())
    # Several numbers a row: what is predicted, an embedding, or which labels it has.
    values = (logits > 0).float() if problem == MULTI_LABEL else logits.float()
    starts = np.arange(rows + 1, dtype=np.int32) * width
    flat = pyarrow.array(values.contiguous().numpy().reshape(-1))
    return pyarrow.ListArray.from_arrays(pyarrow.array(starts), flat)
