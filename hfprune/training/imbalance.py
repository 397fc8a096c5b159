"""Losses with weights of classes, for data in which some classes are rare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hfprune.core.errors import DataError
from hfprune.data.words import IGNORED

MULTI_LABEL = "multi_label_classification"


def balanced_weights(labels: NDArray[Any], num_labels: int, task: str) -> list[float]:
    """Weights that make up for classes of unlike size.

    Args:
        labels: of the training rows: class numbers ``(rows,)``, of tokens ``(rows, length)`` with
            -100 for what does not count, or flags ``(rows, num_labels)``.
        num_labels: number of classes.
        task: the recipe's.

    Returns:
        For flags ``(N - n) / n`` of each label that n of N rows have: the two sides of each label
        weigh the same. Otherwise ``N / (num_labels * n)`` (King and Zeng 2001): every class weighs
        the same, and the mean weight of a row is 1. 1 for a class without rows.

    >>> balanced_weights(np.array([0, 0, 0, 1]), 2, "single_label_classification")
    [0.6666666666666666, 2.0]
    """
    if task == MULTI_LABEL:
        counts, total = (labels > 0).sum(axis=0), len(labels)
        return [float((total - n) / n) if 0 < n < total else 1.0 for n in counts]
    counted = labels[labels != IGNORED].astype(np.int64)
    counts = np.bincount(counted, minlength=num_labels)
    return [float(len(counted) / (num_labels * n)) if n else 1.0 for n in counts]


def weighted_loss(weights: Sequence[float], task: str, num_labels: int) -> Callable[..., Tensor]:
    """A ``compute_loss_func`` for the Trainer.

    For one class a row (or token), the sum of ``weight[label] * cross entropy`` over the rows,
    divided by their number; for flags, ``weight[l] * y * log p + (1 - y) * log (1 - p)`` likewise
    over all decisions. The number, and not the sum of the weights that PyTorch's mean divides by:
    so a batch in parts (accumulation, several processes) gives the loss of the whole.

    Args:
        weights: one a class.
        task: the recipe's.
        num_labels: of the model.

    Raises:
        DataError: if there are not as many weights as classes.
    """
    if len(weights) != num_labels:
        raise DataError(
            f"training.class_weights lists {len(weights)} weights, the data has {num_labels} "
            "classes: give one for each, in the order of their ids"
        )
    values = torch.tensor(weights, dtype=torch.float32)

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs["logits"].float()
        weight = values.to(logits.device)
        if task == MULTI_LABEL:
            total = F.binary_cross_entropy_with_logits(
                logits, labels.float(), pos_weight=weight, reduction="sum"
            )
            count: Any = labels.numel()
        else:
            flat = labels.reshape(-1)
            total = F.cross_entropy(
                logits.reshape(-1, logits.shape[-1]),
                flat,
                weight=weight,
                ignore_index=IGNORED,
                reduction="sum",
            )
            count = (flat != IGNORED).sum().clamp(min=1)
        found: Tensor = total / (count if num_items_in_batch is None else num_items_in_batch)
        return found

    return loss
