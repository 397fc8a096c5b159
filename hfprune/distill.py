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
    rounding is far below what a student gets near to), real tokens only. An image has as many
    tokens as the model makes of it.

    Args:
        teacher: in eval mode.
        dataset: rows with ``input_ids``, or images.
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
        rows = self._rows = len(dataset)
        ids: list[list[int]] | None = None
        if "input_ids" in dataset.column_names:
            ids = [list(row) for row in dataset["input_ids"]]
        lengths = _lengths(rows, ids, teacher.config)
        self._starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        self._hidden_rows = hidden
        self._hidden: Tensor | None = None
        self._of_tokens = False
        # Images are told apart by nothing that is cheap to read; logits of tokens are not kept.
        place = None
        if folder is not None and ids is not None:
            place = folder / f"{_digest(teacher, ids)}.safetensors"
        self._logits = None if place is None else _kept_logits(place, rows)
        known = self._logits is not None
        todo = [row for row in range(rows) if row < hidden or not known]
        todo.sort(key=lambda row: (row >= hidden, -int(lengths[row])))
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
                tokens = logits.dim() == 3
                places = int(self._starts[-1]) if tokens else rows
                self._logits = torch.empty(places, *logits.shape[1 + tokens :])
                self._of_tokens = tokens
            if self._of_tokens:
                self._put(self._logits, chosen, logits)
            elif not known:
                self._logits[chosen] = logits
            if wants:
                # (batch, length, layers, hidden)
                states = torch.stack(found.hidden_states[1:], 2).half().cpu()
                if self._hidden is None:
                    self._hidden = torch.empty(
                        int(self._starts[hidden]), *states.shape[2:], dtype=torch.float16
                    )
                self._put(self._hidden, chosen, states)
            done += len(chosen)
            if progress is not None:
                progress(done, len(todo))
        fresh = not known and not self._of_tokens
        if place is not None and fresh and self._logits is not None:
            atomic_write_bytes(place, save({"logits": self._logits}))

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
            if end <= len(store):
                padded[place, : end - begin] = store[begin:end]
        return padded

    @staticmethod
    def size(teacher: nn.Module, tokens: int) -> int:
        """Bytes that the hidden states of so many tokens would take."""
        config: Any = teacher.config
        return tokens * int(config.num_hidden_layers) * int(config.hidden_size) * 2

    def require(self, rows: int, hidden: int) -> None:
        """Refuse to serve other rows than those that the outputs are of.

        Raises:
            TrainingError: unless there are outputs of so many rows, and hidden states of so many.
        """
        if (rows, hidden) != (self._rows, self._hidden_rows):
            raise TrainingError(
                f"the teacher's outputs are of {self._rows} rows, with hidden states of "
                f"{self._hidden_rows}, but {rows} and {hidden} are trained on; pass teacher_cache "
                "only on to a trainer of the same rows and distillation"
            )

    def has_hidden(self, rows: Tensor) -> Tensor:
        """bool ``(batch,)``: of which rows hidden states are kept."""
        return rows < self._hidden_rows

    def logits(self, rows: Tensor, length: int = 0) -> Tensor:
        """float32 ``(batch, labels)``; for tokens ``(batch, length, labels)``, padding is zero."""
        if self._logits is None:
            raise TrainingError("the teacher's outputs were computed on an empty data set")
        return self._padded(self._logits, rows, length) if self._of_tokens else self._logits[rows]

    def hidden_states(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        """One float16 ``(batch, length, hidden)`` a layer, embeddings left out.

        Padding, and rows whose hidden states are not kept, are zero.
        """
        if self._hidden is None:
            raise TrainingError("the teacher's hidden states were not kept")
        return self._padded(self._hidden, rows, length).unbind(2)


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
    names = (*TEXT_INPUTS, *IMAGE_INPUTS)
    return {name: batch[name].to(device) for name in names if name in batch}


def _lengths(rows: int, ids: Sequence[Sequence[int]] | None, config: Any) -> Tensor:
    """Tokens of each row, int64; ``ids`` is ``None`` for images."""
    if ids is None:
        return torch.full((rows,), image_tokens(config))
    return torch.tensor([len(row) for row in ids])
