"""What is said when a training has to stop: the step, the cause, the last good checkpoint."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from hfprune.core.errors import OutputError
from hfprune.core.faults import why_not_written
from hfprune.core.text import one_line
from hfprune.training.checkpoints import last_checkpoint


def brief(error: BaseException, most: int) -> str:
    """The text of an error in one line of at most so many characters."""
    return " ".join(str(error).split())[:most]


def last_good(folder: str | Path, needed: Sequence[str]) -> str:
    """Where training can go on, in words; arguments as of :func:`last_checkpoint`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = last_checkpoint(folder, needed)
    if found is None:
        return "no checkpoint has been written yet"
    return f"the last good checkpoint is {found}"


def describe_batch(inputs: Any) -> str:
    """How large a batch of texts is, for the end of a sentence; empty for other batches."""
    ids = inputs.get("input_ids")
    shape = () if ids is None else tuple(ids.shape)
    return f" (a batch of {shape[0]} rows of {shape[1]} tokens)" if len(shape) == 2 else ""


def loss_not_finite(loss: float, step: int, batch: str, good: str) -> str:
    value = "no finite number in another process" if math.isfinite(loss) else str(loss)
    return (
        f"the loss is {value} at step {step}{batch}: lower the learning rate, or check the labels "
        f"and the starting weights for extreme values; {good}"
    )


def gradients_not_finite(step: int, good: str) -> str:
    return (
        f"gradients are not finite at step {step}: lower the learning rate, or check the data for "
        f"extreme values; {good}"
    )


def finite_gradients(model: nn.Module) -> bool:
    """Whether all gradients of a model are finite numbers."""
    norms = [
        torch.linalg.vector_norm(parameter.grad)
        for parameter in model.parameters()
        if parameter.grad is not None
    ]
    return not norms or bool(torch.isfinite(torch.stack(norms)).all())


def out_of_memory(error: Exception, args: Any, step: int, batch: str, good: str) -> str:
    return (
        f"out of memory at step {step}{batch}: lower "
        f"per_device_train_batch_size ({args.per_device_train_batch_size}) and raise "
        f"gradient_accumulation_steps ({args.gradient_accumulation_steps}) by the same factor, "
        "which keeps the result and can be resumed; or set gradient_checkpointing; or lower "
        "data.max_length, or "
        f"per_device_eval_batch_size ({args.per_device_eval_batch_size}) if it was evaluating; "
        f"{good} ({brief(error, 200)})"
    )


@contextmanager
def explained_writing(folder: Path, writes: bool, good: Callable[[], str]) -> Iterator[None]:
    """A checkpoint that cannot be written as an error that says what is safe.

    Args:
        folder: the checkpoint's.
        writes: whether this process writes it; half a checkpoint, which only takes space, is then
            removed.
        good: says afterwards where training can go on.

    Raises:
        OutputError: for a full disk, and for files that cannot be written.
    """
    try:
        yield
    except Exception as error:
        full = why_not_written(error, folder)
        if full is None and not isinstance(error, OSError | OutputError | SafetensorError):
            raise
        if writes:
            shutil.rmtree(folder, ignore_errors=True)
        why = full or one_line(str(error))
        raise OutputError(
            f"cannot write the checkpoint {folder}: {why}; {good()}, and nothing earlier was "
            "changed: resume from there (resume_from_checkpoint)"
        ) from error
