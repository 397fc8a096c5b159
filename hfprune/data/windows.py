"""Long texts in windows, and the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    found = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_attention_mask=True,
        verbose=False,
    )
    # It remembers the truncation of its last call and would save it with the model.
    tokenizer("", truncation=False, padding=False)
    names = [n for n in ("input_ids", "attention_mask", "token_type_ids") if n in found]
    return {name: list(found[name]) for name in names}, list(found["overflow_to_sample_mapping"])


def later_parts(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[str]:
    """What lies behind the first ``max_length`` tokens of texts, in parts of so many at most.

    Args:
        tokenizer: a fast one.

    Returns:
        As it stands in the texts; ends shorter than a quarter of that are left out.
    """
    found = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    tokenizer("", truncation=False, padding=False)  # as above
    owners = found["overflow_to_sample_mapping"]
    parts = []
    for place, (owner, spans) in enumerate(zip(owners, found["offset_mapping"], strict=True)):
        later = place > 0 and owners[place - 1] == owner
        # Special tokens stand for no letter.
        seen = [(begin, end) for begin, end in spans if end > begin]
        if later and seen and 4 * len(spans) >= max_length:
            parts.append(texts[owner][seen[0][0] : seen[-1][1]])
    return parts


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
