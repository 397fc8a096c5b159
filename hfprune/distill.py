"""Losses that make a pruned model follow its dense teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hfprune.errors import TrainingError
from hfprune.files import atomic_write_bytes

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


def logits_loss(student: Tensor, teacher: Tensor, temperature: float, problem: str) -> Tensor:
    """How far the student's outputs are from the teacher's, averaged over the batch. A scalar.

    * single label: ``T^2 * KL(teacher || student)`` of the softmax at temperature T (Hinton et
      al. 2015; the T^2 keeps the gradient's size independent of T);
    * multi label: the same for the two-way distribution of each label, averaged over labels;
    * regression: mean squared difference (temperature has no meaning there).

    Args:
        student, teacher: float ``(batch, labels)``.
        problem: ``config.problem_type``.
    """
    student, teacher = student.float(), teacher.float()
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


class TeacherCache:
    """A teacher's outputs on a data set, computed once, looked up by row.

    The teacher never changes and sees every row once an epoch, so for a few epochs its forward
    passes cost more than the memory. Logits are kept in float32, hidden states in float16 (their
    rounding is far below what a student gets near to), real tokens only.

    Args:
        teacher: in eval mode.
        dataset: rows with ``input_ids``.
        collate: rows to a padded batch.
        hidden: of how many rows, from the first, to keep hidden states too (of all layers but the
            embeddings); rows after them have logits only.
        batch_size: rows a forward pass.
        folder: where logits are kept from one run to the next, by the teacher's weights and the
            rows' token ids; ``None``: nowhere.
        progress: called with rows done and rows in all.
    """

    def __init__(
        self,
        teacher: Any,
        dataset: Any,
        collate: Callable[[list[Any]], Any],
        *,
        hidden: int,
        batch_size: int = 64,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        rows = len(dataset)
        ids: list[list[int]] = [list(row) for row in dataset["input_ids"]]
        lengths = torch.tensor([len(row) for row in ids])
        self._starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        self._hidden_rows = hidden
        self._hidden: Tensor | None = None
        place = None if folder is None else folder / f"{_digest(teacher, ids)}.safetensors"
        self._logits = None if place is None else _kept_logits(place, rows)
        known = self._logits is not None
        todo = [row for row in range(rows) if row < hidden or not known]
        todo.sort(key=lambda row: (row >= hidden, -len(ids[row])))
        device = next(teacher.parameters()).device
        done = 0
        while done < len(todo):
            chosen = todo[done : done + batch_size]
            # A batch has rows of one sort, with or without hidden states.
            chosen = [row for row in chosen if (row < hidden) == (chosen[0] < hidden)]
            batch = _inputs(collate([dataset[row] for row in chosen]), device)
            wants = chosen[0] < hidden
            with torch.no_grad():
                found = teacher(**batch, output_hidden_states=wants)
            logits = found.logits.float().cpu()
            if self._logits is None:
                self._logits = torch.empty(rows, *logits.shape[1:])
            if not known:
                self._logits[chosen] = logits
            if wants:
                self._store(chosen, lengths, torch.stack(found.hidden_states[1:], 2))
            done += len(chosen)
            if progress is not None:
                progress(done, len(todo))
        if place is not None and not known and self._logits is not None:
            atomic_write_bytes(place, save({"logits": self._logits}))

    def _store(self, chosen: list[int], lengths: Tensor, states: Tensor) -> None:
        states = states.half().cpu()  # (batch, length, layers, hidden)
        if self._hidden is None:
            self._hidden = torch.empty(
                int(self._starts[self._hidden_rows]), *states.shape[2:], dtype=torch.float16
            )
        for place, row in enumerate(chosen):
            begin, count = int(self._starts[row]), int(lengths[row])
            self._hidden[begin : begin + count] = states[place, :count]

    @staticmethod
    def size(teacher: nn.Module, tokens: int) -> int:
        """Bytes that the hidden states of so many tokens would take."""
        config: Any = teacher.config
        return tokens * int(config.num_hidden_layers) * int(config.hidden_size) * 2

    def has_hidden(self, rows: Tensor) -> Tensor:
        """bool ``(batch,)``: of which rows hidden states are kept."""
        return rows < self._hidden_rows

    def logits(self, rows: Tensor) -> Tensor:
        """float32 ``(batch, labels)``."""
        if self._logits is None:
            raise TrainingError("the teacher's outputs were computed on an empty data set")
        return self._logits[rows]

    def hidden_states(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        """One float16 ``(batch, length, hidden)`` a layer, embeddings left out.

        Padding, and rows whose hidden states are not kept, are zero.
        """
        if self._hidden is None:
            raise TrainingError("the teacher's hidden states were not kept")
        padded = self._hidden.new_zeros(len(rows), length, *self._hidden.shape[1:])
        for place, row in enumerate(rows.tolist()):
            if row < self._hidden_rows:
                begin, end = int(self._starts[row]), int(self._starts[row + 1])
                padded[place, : end - begin] = self._hidden[begin:end]
        return padded.unbind(2)


def _digest(teacher: nn.Module, ids: Sequence[Sequence[int]]) -> str:
    """Of all that logits depend on: weights, what the model makes of them, inputs, precision."""
    digest = hashlib.sha256(repr((type(teacher).__name__, torch.__version__)).encode())
    digest.update(repr((torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled())).encode())
    digest.update(cast(Any, teacher).config.to_json_string().encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for row in ids:
        digest.update(np.asarray(row, dtype=np.int64).tobytes() + b";")
    return digest.hexdigest()[:32]


def _kept_logits(place: Path, rows: int) -> Tensor | None:
    """Logits of an earlier run, or ``None`` where there are none or the file is damaged."""
    try:
        found = load_file(place)["logits"].clone()
    except (OSError, KeyError, SafetensorError):
        return None
    return found if len(found) == rows else None


def _inputs(batch: Any, device: torch.device) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name].to(device) for name in names if name in batch}
