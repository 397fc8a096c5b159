"""Batches of texts through a fast tokenizer, without what nobody reads.

A tokenizer's own call also tracks the place of each token in the text and copies every column,
number by number, into Python: a third of the time that a million rows take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hfprune.core.kinds import TEXT_INPUTS

# Enough to see that a tokenizer does something of its own around its backend.
_COMPARED_ROWS = 8


def columns_of(encoding: Any) -> dict[str, list[Any]]:
    """The columns that a model reads, of what a tokenizer's call returned."""
    return {name: encoding[name] for name in TEXT_INPUTS if name in encoding}


def encode_fast(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> tuple[dict[str, list[Any]], int]:
    """Token ids as the tokenizer's own call gives them, and how many rows were cut.

    Args:
        tokenizer: a fast one.
        texts, pairs: of one batch; ``pairs`` None for single texts.
        max_length: in tokens; what is longer is cut, the longer of a pair first.

    Returns:
        Columns of ints (those of :data:`TEXT_INPUTS` that the tokenizer gives), row by row.
    """
    some = slice(0, _COMPARED_ROWS)
    own = columns_of(_call(tokenizer, texts[some], pairs and pairs[some], max_length))
    rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
    # Its call has just told the backend how to cut and that nothing is filled up.
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(rows)
    found = _columns(encodings, list(own))
    if any(_differ(own[name], found[name][some]) for name in own):
        whole = _call(tokenizer, texts, pairs, max_length)
        encodings, found = whole.encodings or (), columns_of(whole)
    return found, sum(len(row) == max_length and bool(row.overflowing) for row in encodings)


def _call(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, length: int) -> Any:
    return tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        padding=False,
        truncation=True,
        max_length=length,
        return_attention_mask=True,
        verbose=False,
    )


def _columns(encodings: Sequence[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    lengths = [len(row) for row in encodings]
    ones = np.ones(max(lengths, default=0), dtype=np.int8)  # nothing is filled up
    found: dict[str, list[Any]] = {
        "input_ids": [row.ids for row in encodings],
        "attention_mask": [ones[:length] for length in lengths],
    }
    if "token_type_ids" in names:
        found["token_type_ids"] = [row.type_ids for row in encodings]
    return {name: found[name] for name in names}


def _differ(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return [list(row) for row in one] != [list(row) for row in other]
