"""Losses that make a pruned model follow its dense teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfprune.errors import TrainingError
from hfprune.tasks import IMAGE_INPUTS, TEXT_INPUTS, image_tokens

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


def logits_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    problem: str,
    mask: Tensor | None = None,
) -> Tensor:
    """How far the student's outputs are from the teacher's, averaged over the batch. A scalar.

    * single label: ``T^2 * KL(teacher || student)`` of the softmax at temperature T (Hinton et
      al. 2015; the T^2 keeps the gradient's size independent of T);
    * multi label: the same for the two-way distribution of each label, averaged over labels;
    * regression: mean squared difference (temperature has no meaning there).

    Outputs for tokens are averaged over the tokens that count, of all rows together.

    Args:
        student, teacher: float ``(batch, labels)``, or ``(batch, length, labels)`` for tokens.
        problem: ``config.problem_type``.
        mask: bool ``(batch, length)``, the tokens that count; only for tokens.
    """
    student, teacher = student.float(), teacher.float()
    if student.dim() == 3:
        width = student.shape[-1]
        chosen = slice(None) if mask is None else mask
        student, teacher = student[chosen].reshape(-1, width), teacher[chosen].reshape(-1, width)
        if not len(student):
            return student.sum()
    if problem == REGRESSION:
        return F.mse_loss(student, teacher)
    if problem == SINGLE_LABEL:
        target = F.log_softmax(teacher / temperature, dim=-1)
        guess = F.log_softmax(student / temperature, dim=-1)
        return F.kl_div(guess, target, reduction="batchmean", log_target=True) * temperature**2
    if problem == MULTI_LABEL:
        target = torch.sigmoid(teacher / temperature)
        scaled = student / temperature
        cross = F.binary_cross_entropy_with_logits(scaled, target)
        entropy = F.binary_cross_entropy_with_logits(teacher / temperature, target)
        return (cross - entropy) * temperature**2
    raise TrainingError(
        f"cannot distil a model with problem_type {problem!r}; expected {SINGLE_LABEL}, "
        f"{MULTI_LABEL} or {REGRESSION}"
    )


def hidden_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], attention_mask: Tensor | None
) -> Tensor:
    """Mean squared difference of hidden states at the same index, over real tokens. A scalar.

    The hidden size is never pruned, so no projection stands between the two. The embeddings are
    left out: no block has touched them.

    Args:
        student, teacher: one float tensor ``(batch, length, hidden)`` a layer.
        attention_mask: ``(batch, length)``, 1 = real token; ``None`` = all are.
    """
    if len(student) != len(teacher):
        raise TrainingError(
            f"the student has {len(student)} layers and the teacher {len(teacher)}; hidden "
            "states can only be compared layer by layer (set distillation.hidden_weight to 0)"
        )
    if student[0].shape != teacher[0].shape:
        raise TrainingError(
            f"hidden states of the student have shape {tuple(student[0].shape)}, the teacher's "
            f"{tuple(teacher[0].shape)}; distil from the model that is pruned, or set "
            "distillation.hidden_weight to 0"
        )
    total = student[0].new_zeros((), dtype=torch.float32)
    for mine, theirs in zip(student, teacher, strict=True):
        difference = (mine.float() - theirs.float()).square().mean(-1)
        if attention_mask is None:
            total = total + difference.mean()
        else:
            weight = attention_mask.to(difference.dtype)
            total = total + (difference * weight).sum() / weight.sum().clamp(min=1)
    return total / len(student)


class TeacherCache:
    """A teacher's outputs on a data set, computed once, looked up by row.

    The teacher never changes and sees every row once an epoch, so for a few epochs its forward
    passes cost more than the memory. Logits are kept in float32, hidden states in float16 (their
    rounding is far below what a student gets near to), real tokens only. An image has as many
    tokens as the model makes of it.

    Args:
        teacher: in eval mode.
        dataset: rows with ``input_ids``, or images.
        collate: rows to a padded batch.
        hidden: whether to keep hidden states, of all layers but the embeddings.
        batch_size: rows a forward pass.
        progress: called with rows done and rows in all.
    """

    def __init__(
        self,
        teacher: Any,
        dataset: Any,
        collate: Callable[[list[Any]], Any],
        *,
        hidden: bool,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        rows = len(dataset)
        lengths = _lengths(dataset, teacher.config)
        self._starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        self._logits: Tensor | None = None
        self._hidden: Tensor | None = None
        self._of_tokens = False
        order = lengths.argsort(descending=True).tolist()
        device = next(teacher.parameters()).device
        for start in range(0, rows, batch_size):
            chosen = order[start : start + batch_size]
            batch = _inputs(collate([dataset[row] for row in chosen]), device)
            with torch.no_grad():
                found = teacher(**batch, output_hidden_states=hidden)
            logits = found.logits.float().cpu()
            if self._logits is None:
                tokens = logits.dim() == 3
                places = int(self._starts[-1]) if tokens else rows
                self._logits = torch.empty(places, *logits.shape[1 + tokens :])
                self._of_tokens = tokens
            if self._of_tokens:
                self._put(self._logits, chosen, logits)
            else:
                self._logits[chosen] = logits
            if hidden:
                # (batch, length, layers, hidden)
                states = torch.stack(found.hidden_states[1:], 2).half().cpu()
                if self._hidden is None:
                    self._hidden = torch.empty(
                        int(self._starts[-1]), *states.shape[2:], dtype=torch.float16
                    )
                self._put(self._hidden, chosen, states)
            if progress is not None:
                progress(min(start + batch_size, rows), rows)

    def _put(self, store: Tensor, chosen: list[int], values: Tensor) -> None:
        """Write the real tokens of a padded batch into a store of all tokens."""
        for place, row in enumerate(chosen):
            begin, end = int(self._starts[row]), int(self._starts[row + 1])
            if end - begin > values.shape[1]:
                raise TrainingError(
                    f"the teacher gives {values.shape[1]} hidden states where its config says "
                    f"{end - begin}; set distillation.cache_limit_gb to 0"
                )
            store[begin:end] = values[place, : end - begin]

    def _padded(self, store: Tensor, rows: Tensor, length: int) -> Tensor:
        padded = store.new_zeros(len(rows), length, *store.shape[1:])
        for place, row in enumerate(rows.tolist()):
            begin, end = int(self._starts[row]), int(self._starts[row + 1])
            padded[place, : end - begin] = store[begin:end]
        return padded

    @staticmethod
    def size(teacher: nn.Module, tokens: int, hidden: bool) -> int:
        """Bytes that the cache of so many tokens would take."""
        config: Any = teacher.config
        return tokens * config.num_hidden_layers * config.hidden_size * 2 if hidden else 0

    def logits(self, rows: Tensor, length: int) -> Tensor:
        """float32 ``(batch, labels)``; for tokens ``(batch, length, labels)``, padding is zero."""
        if self._logits is None:
            raise TrainingError("the teacher's outputs were computed on an empty data set")
        return self._padded(self._logits, rows, length) if self._of_tokens else self._logits[rows]

    def hidden_states(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        """One float16 ``(batch, length, hidden)`` a layer, embeddings left out; padding is zero."""
        if self._hidden is None:
            raise TrainingError("the teacher's hidden states were not kept")
        return self._padded(self._hidden, rows, length).unbind(2)


def _inputs(batch: Any, device: torch.device) -> dict[str, Tensor]:
    names = (*TEXT_INPUTS, *IMAGE_INPUTS)
    return {name: batch[name].to(device) for name in names if name in batch}


def _lengths(dataset: Any, config: Any) -> Tensor:
    """Tokens of each row, int64."""
    if "input_ids" in dataset.column_names:
        return torch.tensor([len(ids) for ids in dataset["input_ids"]])
    return torch.full((len(dataset),), image_tokens(config))
