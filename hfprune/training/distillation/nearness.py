"""How near a model comes to its teacher on rows that are evaluated."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import Trainer

from hfprune.core.errors import TrainingError
from hfprune.data.words import IGNORED
from hfprune.pruning.reconstruction.passes import divergence
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.teaching import Teaching, asked
from hfprune.training.samplers import order_of

DIVERGENCE: Final = "divergence"
"""The metric's name, for ``metric_for_best_model``."""


def is_divergence(name: str | None) -> bool:
    """Whether a metric by which checkpoints are chosen is this one, of whichever evaluation set.

    >>> is_divergence("divergence"), is_divergence("eval_first_divergence"), is_divergence("loss")
    (True, True, False)
    """
    return name is not None and f"_{name}".endswith(f"_{DIVERGENCE}")


def with_predictions(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of ``Trainer.evaluation_loop`` for which it keeps predictions and labels."""
    if len(args) > 2:
        return (*args[:2], False, *args[3:]), kwargs
    return args, {**kwargs, "prediction_loss_only": False}


class Nearness:
    """Mean divergence from the teacher's predictions, whose logits are computed once a data set.

    Args:
        teaching: with the teacher.
    """

    def __init__(self, teaching: Teaching) -> None:
        self._teaching = teaching
        self._known: dict[str, TeacherCache] = {}

    def of(self, trainer: Trainer, dataset: Any, predictions: Any, labels: Any) -> float:
        """KL divergence in nats a row (of tokens: a labelled token); at least 0.

        Args:
            trainer: whose collator, batch size and precision count.
            dataset: that was evaluated.
            predictions: in the order of the trainer's sampler, the student's logits ``(rows,
                labels)``, of tokens ``(rows, longest, labels)``; or a tuple that begins with them.
            labels: of tokens int ``(rows, longest)``, -100 where none is learned.

        Raises:
            TrainingError: for rows that have no place of their own or came in another order, or
                predictions that are no logits.
        """
        if not isinstance(dataset, Dataset):
            raise TrainingError(
                f"metric_for_best_model is {DIVERGENCE}, which compares each evaluated row with "
                f"the teacher, and eval_dataset is a {type(dataset).__name__}; expected a "
                "datasets.Dataset"
            )
        first = predictions[0] if isinstance(predictions, tuple) else predictions
        mine = torch.from_numpy(np.asarray(first, dtype=np.float32))
        order = order_of(trainer._get_eval_sampler(dataset), len(dataset))
        if mine.dim() == 2:
            _check_order(trainer, dataset, order, labels)
        rows = torch.from_numpy(order)
        kept = self._cache(trainer, dataset)
        length = mine.shape[1] if mine.dim() == 3 else 0
        theirs = kept.logits(rows, length)
        if mine.shape != theirs.shape:
            raise TrainingError(
                f"metric_for_best_model is {DIVERGENCE}, but predictions of shape "
                f"{tuple(mine.shape)} are not logits like the teacher's "
                f"{tuple(theirs.shape)}: leave preprocess_logits_for_metrics out, or choose "
                "another metric"
            )
        if mine.dim() == 3:
            mine = mine[torch.from_numpy(np.asarray(labels)) != IGNORED]
            # Batches of left-padded rows are joined padded right: each side by places of its own.
            counted = torch.zeros(theirs.shape[:2], dtype=torch.bool)
            known = dataset["labels"][:]
            for row, given in enumerate(known[int(place)] for place in order):
                counted[row, kept.place(len(given), length)] = torch.tensor(given) != IGNORED
            theirs = theirs[counted]
        return divergence(mine, theirs, self._teaching.problem)

    def _cache(self, trainer: Trainer, dataset: Dataset) -> TeacherCache:
        key = dataset._fingerprint
        if key not in self._known:
            precision: Any = trainer.compute_loss_context_manager
            teacher = self._teaching.teacher
            inputs = trainer._remove_unused_columns(dataset, "evaluation")
            with asked(teacher), precision():
                self._known[key] = TeacherCache(
                    teacher,
                    inputs,
                    trainer.data_collator,
                    hidden=0,
                    batch_size=trainer.args.per_device_eval_batch_size,
                )
        return self._known[key]


def _check_order(trainer: Trainer, dataset: Dataset, order: NDArray[np.int64], labels: Any) -> None:
    """That predictions are of the rows that they are taken for, by the labels beside them."""
    name = next((n for n in trainer.label_names if n in dataset.column_names), None)
    seen = labels[0] if isinstance(labels, tuple) else labels
    if name is None or seen is None:
        return
    wanted = np.asarray(dataset[name][:], dtype=np.float64)[order]
    found = np.asarray(seen, dtype=np.float64)
    if wanted.size != found.size or not np.allclose(
        wanted.reshape(len(wanted), -1), found.reshape(len(found), -1), rtol=1e-3, atol=1e-4
    ):
        raise TrainingError(
            f"metric_for_best_model is {DIVERGENCE}, which compares each evaluated row with the "
            "teacher, and the rows were evaluated in another order than eval_dataset has (a data "
            "loader, sampler or collator of your own): keep their order, or choose another metric"
        )
