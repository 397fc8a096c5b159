"""More sentences for the teacher to label: variations of the training rows.

A small model that learns from a few thousand sentences learns them by heart, and the teacher's
opinion of them is overconfident, as it has seen them too. The teacher's opinion of sentences that
nobody wrote is as good a lesson (TinyBERT, Jiao et al. 2020). No label is carried over: what a
variation means is for the teacher to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hfprune.core.errors import DataError
from hfprune.core.kinds import TEXT_INPUTS

# Share of the tokens that a variation replaces, or leaves out.
REPLACED, OMITTED = 0.2, 0.15


def with_variations(rows: Dataset, special_ids: Sequence[int], copies: int, seed: int) -> Dataset:
    """The rows, followed by ``copies`` times as many variations of them, row by row in order.

    Each variation is one of three, by lot: its first part is kept and continued by the end of
    another row; one token in five is replaced by a token drawn as often as it occurs in the rows;
    one token in seven is left out. Special tokens stay where they are, and a text of several
    segments is never mixed with others. A variation is never longer than the longer of its rows.

    Args:
        rows: with ``input_ids`` (lists of token ids without padding) and, if the model takes
            them, ``attention_mask`` and ``token_type_ids``.
        special_ids: ids that frame or separate texts; all others may be varied.
        copies: >= 0.
        seed: of the variations; the same seed and rows give the same result.

    Returns:
        A data set with the columns of ``rows``. Labels of variations are copies of the original
        rows' and mean nothing: put the teacher's in their place.

    Raises:
        DataError: if ``rows`` has no token ids.
    """
    if "input_ids" not in rows.column_names:
        raise DataError(
            "variations are made of token ids, but the rows have no input_ids; columns: "
            f"{', '.join(rows.column_names)}. Set distillation.augmentation to 0"
        )
    if copies == 0 or len(rows) == 0:
        return rows
    made = [rows]
    for copy in range(copies):
        varied = list(_variations(rows, set(special_ids), np.random.default_rng([seed, copy])))
        columns: dict[str, Any] = {
            name: [row[name] for row in varied] if name in TEXT_INPUTS else rows[name]
            for name in rows.column_names
        }
        made.append(Dataset.from_dict(columns, features=rows.features))
    return concatenate_datasets(made)


def _variations(
    rows: Dataset, special: set[int], rng: np.random.Generator
) -> Iterator[dict[str, list[int]]]:
    ids: list[list[int]] = [list(row) for row in rows["input_ids"]]
    types: list[list[int]] | None = (
        [list(row) for row in rows["token_type_ids"]]
        if "token_type_ids" in rows.column_names
        else None
    )
    free = [[place for place, token in enumerate(row) if token not in special] for row in ids]
    drawn = [row[place] for row, places in zip(ids, free, strict=True) for place in places]
    for number, row in enumerate(ids):
        kinds = [0] * len(row) if types is None else types[number]
        tokens = list(zip(row, kinds, strict=True))
        places = free[number]
        if places:
            kind = int(rng.integers(3))
            other = int(rng.integers(len(ids)))
            if kind == 0 and _one_run(places) and free[other] and _one_run(free[other]):
                begin, end = places[0], places[-1] + 1
                cut = float(rng.random())
                head = tokens[begin : begin + max(1, int(len(places) * cut))]
                theirs = free[other]
                tail = [(ids[other][p], kinds[begin]) for p in theirs[int(len(theirs) * cut) :]]
                room = max(len(row), len(ids[other])) - (len(row) - len(places))
                tokens = tokens[:begin] + [*head, *tail][:room] + tokens[end:]
            elif kind == 1:
                chosen = [place for place in places if rng.random() < REPLACED]
                for place in chosen:
                    tokens[place] = (drawn[int(rng.integers(len(drawn)))], tokens[place][1])
            else:
                gone = {place for place in places if rng.random() < OMITTED}
                if len(gone) < len(places):
                    tokens = [pair for place, pair in enumerate(tokens) if place not in gone]
        yield {
            "input_ids": [token for token, _ in tokens],
            "attention_mask": [1] * len(tokens),
            "token_type_ids": [kind for _, kind in tokens],
        }


def _one_run(places: Sequence[int]) -> bool:
    """Whether the text is of one segment: nothing special within it."""
    return places[-1] - places[0] + 1 == len(places)
