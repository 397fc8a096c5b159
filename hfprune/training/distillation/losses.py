"""Losses that make a pruned model follow its dense teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hfprune.core.errors import TrainingError

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
EMBEDDING = "sentence_embedding"


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


def query_loss(
    student: Tensor, teacher: Tensor, queries: Tensor, kind: str, temperature: float
) -> Tensor:
    """How far the scores of each query's texts are from the teacher's, among each other. A scalar.

    * ``margin_mse``: mean squared difference of the margins of each two texts of a query
      (Hofstaetter et al. 2020), over all pairs of the batch;
    * ``listwise``: ``T^2 * KL(teacher || student)`` of the softmax over a query's texts at
      temperature T (ListNet, Cao et al. 2007), the mean over queries of more than one text.

    A text whose query has no other in the batch says nothing: its loss is 0.

    Args:
        student, teacher: float ``(batch, 1)`` or ``(batch,)``.
        queries: int64 ``(batch,)``, the number of each row's query.
        kind: which of them.

    Worked value: one query, student (0, 0), teacher (2, 0): the margin is 0 in place of 2, so
    ``margin_mse`` is 4.
    """
    student, teacher = student.float().reshape(-1), teacher.float().reshape(-1)
    together = queries[:, None] == queries[None, :]
    pairs = together & ~torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    if not bool(pairs.any()):
        return student.sum() * 0.0
    if kind == "margin_mse":
        margins = [scores[:, None] - scores[None, :] for scores in (student, teacher)]
        return (margins[0] - margins[1])[pairs].square().mean()
    if kind != "listwise":
        raise TrainingError(
            f"there is no loss {kind!r} of a query's texts; choose from margin_mse and listwise"
        )
    several = pairs.any(dim=1)
    # A row's distribution is that of its query; each query is counted once, by shares of its rows.
    shares = several.float() / together.sum(dim=1)
    guess, target = (
        torch.where(together, (scores / temperature)[None, :], -torch.inf).log_softmax(dim=1)
        for scores in (student, teacher)
    )
    gaps = torch.where(together, target.exp() * (target - guess), 0.0)
    # Where two are apart, both are minus infinity and their difference is no number.
    each = torch.nan_to_num(gaps).sum(dim=1)
    return (each * shares).sum() / shares.sum() * temperature**2


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


def compared_layers(sizes: Sequence[Sequence[int]]) -> list[int]:
    """Layers after which the student's hidden states should be the teacher's; indices from 0.

    Those that a layer with something left in it reads, and the last. Behind a layer, emptied ones
    change nothing: the student's states there are one and the same, and could not follow several
    of the teacher's. Where nothing has been read yet there is nothing to learn either.

    Args:
        sizes: ``(heads, neurons)`` that each layer keeps.

    Worked value: sizes ``[(2, 8), (0, 0), (1, 0), (0, 0)]`` give ``[1, 3]``.
    """
    present = [bool(sum(layer)) for layer in sizes]
    last = len(present) - 1
    return [
        layer
        for layer in range(len(present))
        if any(present[: layer + 1]) and (layer == last or present[layer + 1])
    ]
