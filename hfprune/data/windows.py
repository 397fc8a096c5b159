"""Long texts in windows, and the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.data.fast import columns_of
from hfprune.data.words import IGNORED


def padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Label lists as one int64 array ``(rows, longest)``, filled up with :data:`IGNORED`."""
    longest = max((len(row) for row in rows), default=0)
    found = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def windows(
    tokenizer: Any, texts: Sequence[str], max_length: int, stride: int
) -> tuple[dict[str, list[list[int]]], list[int]]:
    """Texts as windows of at most ``max_length`` tokens, each sharing ``stride`` with the last.

    Args:
        tokenizer: a fast one.

    Returns:
        The tokenizer's columns, and for each window the number of its text; in order.
    """
    found = _cut(tokenizer, texts, max_length, stride)
    return columns_of(found), list(found["overflow_to_sample_mapping"])


def later_windows(
    tokenizer: Any, texts: Sequence[str], max_length: int
) -> dict[str, list[list[int]]]:
    """What lies behind the first ``max_length`` tokens of texts, in windows of so many at most.

    Args:
        tokenizer: a fast one.

    Returns:
        The tokenizer's columns, in order; ends shorter than a quarter of that are left out.
    """
    found = _cut(tokenizer, texts, max_length)
    places = _later(found, max_length)
    return {name: [values[place] for place in places] for name, values in columns_of(found).items()}


def later_parts(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[str]:
    """The letters that :func:`later_windows` stand for, as they are in the texts."""
    found = _cut(tokenizer, texts, max_length, return_offsets_mapping=True)
    parts = []
    for place in _later(found, max_length):
        # Special tokens stand for no letter.
        seen = [(begin, end) for begin, end in found["offset_mapping"][place] if end > begin]
        if seen:
            owner = found["overflow_to_sample_mapping"][place]
            parts.append(texts[owner][seen[0][0] : seen[-1][1]])
    return parts


def _cut(
    tokenizer: Any, texts: Sequence[str], max_length: int, stride: int = 0, **more: bool
) -> Any:
    """The tokenizer's encoding of texts in windows; ``more`` is asked of it besides."""
    found = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_attention_mask=True,
        verbose=False,
        **more,
    )
    # It remembers the truncation of its last call and would save it with the model.
    tokenizer("", truncation=False, padding=False)
    return found


def _later(found: Any, max_length: int) -> list[int]:
    """The windows that are not the first of their text, without short ends."""
    owners, ids = found["overflow_to_sample_mapping"], found["input_ids"]
    return [
        place
        for place in range(1, len(owners))
        if owners[place - 1] == owners[place] and 4 * len(ids[place]) >= max_length
    ]


def mean_by_text(logits: NDArray[Any], owners: Sequence[int] | NDArray[Any]) -> NDArray[np.float32]:
    """The mean of the logits of each text's windows.

    Args:
        logits: ``(windows, labels)``.
        owners: the number of each window's text, from 0, none left out; in any order.

    Returns:
        float32 ``(texts, labels)``.
    """
    numbers = np.asarray(owners, dtype=np.int64)
    sums = np.zeros((int(numbers.max()) + 1, *logits.shape[1:]), dtype=np.float64)
    np.add.at(sums, numbers, logits)
    counts = np.bincount(numbers, minlength=len(sums))
    return np.asarray(sums / counts.reshape(-1, *[1] * (sums.ndim - 1)), dtype=np.float32)
