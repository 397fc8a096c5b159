"""Logits of a model, PyTorch or an opened file, on the rows of a data set."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hfprune.core.arrays import zeros
from hfprune.core.errors import DataError
from hfprune.core.kinds import IMAGE_INPUTS, TEXT_INPUTS
from hfprune.data.collate import ImageCollator
from hfprune.data.images import IMAGE_COLUMN
from hfprune.deploy.files import MODEL_INPUTS, Batch
from hfprune.deploy.runtimes.base import Session, dtype_of

if TYPE_CHECKING:
    import datasets


def predict_logits(
    model: nn.Module | Session,
    dataset: datasets.Dataset | Sequence[Mapping[str, Any]],
    collator: Any,
    *,
    batch_size: int = 64,
    order: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """The logits of a whole data set, from PyTorch and from files of any runtime alike.

    Batches are made of samples of like length, so that little padding is computed; the rows come
    back in the order of the data set. A PyTorch model runs where it is, in eval mode, and gets its
    mode back.

    Args:
        model: a transformers classifier, or an opened file of any runtime.
        dataset: tokenised samples, unpadded, with ``input_ids``, or images that the collator
            reads; columns that are no input of the model (labels, text) are left out.
        collator: a tokenizer, or a callable that pads a list of samples to a batch.
        batch_size: samples a batch.
        order: in which the samples come; ``None``: the longest first. What a file with one scale
            for a whole batch says depends on it.
        progress: called with samples done and samples in all.

    Returns:
        float32, shape ``[samples, labels]``; of tokens ``[samples, longest, labels]``, zero where
        a row has no more tokens (padding is on the right, and takes next to no memory).

    Raises:
        DataError: if the data set is empty or not tokenised, or ``order`` is not one of it.
    """
    if len(dataset) == 0:
        raise DataError("cannot predict on a data set without samples")
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    columns = getattr(dataset, "column_names", None) or sorted(dataset[0])
    if getattr(dataset, "format", {}).get("type") == "custom":
        columns = list(dataset[0])  # what a transform gives, which the data set does not name
    of_files = isinstance(collator, ImageCollator)
    images = of_files or IMAGE_INPUTS[0] in columns
    if not images and "input_ids" not in columns:
        raise DataError(f"expected tokenised samples with 'input_ids', got the columns {columns}")
    pad = padding(collator)
    names = [name for name in TEXT_INPUTS if name in columns]
    if images:
        names = [IMAGE_COLUMN] if of_files else list(IMAGE_INPUTS)
    if images:
        lengths = [1] * len(dataset)
    elif hasattr(dataset, "column_names"):
        lengths = [len(ids) for ids in dataset["input_ids"]]  # type: ignore[call-overload]
    else:
        lengths = [len(sample["input_ids"]) for sample in dataset]
    by_length = np.argsort(-np.asarray(lengths), kind="stable")
    places = by_length if order is None else np.asarray(order)
    if sorted(places.tolist()) != list(range(len(lengths))):
        raise DataError(f"order must hold the numbers 0 to {len(lengths) - 1}, each of them once")

    restored: NDArray[np.float32] | None = None
    left = _pads_left(collator)
    with logits_function(model) as logits:
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size].tolist()
            samples = [dataset[row] for row in chosen]
            padded = pad([{name: sample[name] for name in names} for sample in samples])
            batch = {name: np.asarray(padded[name]) for name in MODEL_INPUTS if name in padded}
            found = logits(batch)
            # Each batch goes to its place at once: of tokens and of many labels, all of them
            # beside the whole would take twice the memory.
            if restored is None:
                whole = (len(places), *([max(lengths)] if found.ndim == 3 else ()), found.shape[-1])
                restored = zeros(whole)
            if found.ndim == 2:
                restored[chosen] = found
            else:
                for row, of_row in zip(chosen, found, strict=True):
                    count = lengths[row]
                    # Of what a tokenizer padded on the left, the tokens are at the end.
                    restored[row, :count] = of_row[-count:] if left else of_row[:count]
            if progress is not None:
                progress(start + len(chosen), len(places))
    if restored is None:
        raise DataError("cannot predict on a data set without samples")
    return restored


def _pads_left(collator: Any) -> bool:
    tokenizer = getattr(collator, "tokenizer", collator)
    return getattr(tokenizer, "padding_side", "right") == "left"


def padding(collator: Any) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
    """A function that pads rows to a batch of arrays, of a tokenizer or a collator.

    Raises:
        DataError: for something else.
    """
    if hasattr(collator, "pad"):  # a tokenizer
        from transformers import DataCollatorWithPadding

        made: Callable[[list[dict[str, Any]]], Mapping[str, Any]] = DataCollatorWithPadding(
            collator, return_tensors="np"
        )
        return made
    if not callable(collator):
        raise DataError(f"expected a tokenizer or a collator, got {type(collator).__name__}")
    found: Callable[[list[dict[str, Any]]], Mapping[str, Any]] = collator
    return found


@contextlib.contextmanager
def logits_function(
    model: nn.Module | Session,
) -> Iterator[Callable[[Batch], NDArray[np.float32]]]:
    """One way to call both kinds; a PyTorch model is in eval mode inside."""
    if not isinstance(model, nn.Module):
        yield model.logits
        return
    device = next(model.parameters()).device
    # Several models as one take what the first takes.
    takes = inspect.signature(getattr(model, "takes_as", model).forward).parameters
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    passes_on = all(one.kind in unnamed for one in takes.values())  # to a model within

    def run(batch: Batch) -> NDArray[np.float32]:
        tensors = {
            name: torch.as_tensor(np.asarray(value, dtype=dtype_of(name)), device=device)
            for name, value in batch.items()
            if passes_on or name in takes
        }
        with torch.inference_mode():
            logits = model(**tensors).logits
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield run
    finally:
        for module, training in modes.items():  # a model may have been frozen in parts
            module.training = training
