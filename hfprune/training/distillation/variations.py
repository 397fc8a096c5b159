"""More sentences for the teacher to label: variations of the training rows.

A small model that learns from a few thousand sentences learns them by heart, and the teacher's
opinion of them is overconfident, as it has seen them too. The teacher's opinion of sentences that
nobody wrote is as good a lesson (TinyBERT, Jiao et al. 2020). No label is carried over: what a
variation means is for the teacher to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow  # type: ignore[import-untyped]
from datasets import Dataset, DatasetInfo, concatenate_datasets

from hfprune.core.errors import DataError
from hfprune.core.kinds import TEXT_INPUTS
from hfprune.data.token_rows import TokenRows

# Share of the tokens that a variation replaces, or leaves out.
REPLACED, OMITTED = 0.2, 0.15

_ROWS_AT_ONCE = 1000


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
    ids = TokenRows(rows)
    made = [rows]
    for copy in range(copies):
        varied = _variations(rows, ids, set(special_ids), np.random.default_rng([seed, copy]))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            table = rows.with_format("arrow")[start : start + _ROWS_AT_ONCE]
            some = list(islice(varied, len(table)))
            for place, field in enumerate(table.schema):
                if field.name in TEXT_INPUTS:
                    values = [row[field.name] for row in some]
                    table = table.set_column(place, field, pyarrow.array(values, type=field.type))
            made.append(Dataset(table, info=DatasetInfo(features=rows.features)))
    return concatenate_datasets(made)


def _variations(
    rows: Dataset, ids: TokenRows, special: set[int], rng: np.random.Generator
) -> Iterator[dict[str, list[int]]]:
    types = TokenRows(rows, "token_type_ids") if "token_type_ids" in rows.column_names else None
    varies = ~np.isin(ids.values, sorted(special))
    drawn = ids.values[varies]

    def free_of(number: int) -> list[int]:
        found = np.flatnonzero(varies[ids.starts[number] : ids.starts[number + 1]])
        return [int(place) for place in found]

    for number in range(len(ids)):
        row = ids[number].tolist()
        kinds = [0] * len(row) if types is None else types[number].tolist()
        tokens = list(zip(row, kinds, strict=True))
        places = free_of(number)
        if places:
            kind = int(rng.integers(3))
            other = int(rng.integers(len(ids)))
            theirs = free_of(other) if kind == 0 else []
            if kind == 0 and _one_run(places) and theirs and _one_run(theirs):
                begin, end = places[0], places[-1] + 1
                cut = float(rng.random())
                head = tokens[begin : begin + max(1, int(len(places) * cut))]
                beside = ids[other].tolist()
                tail = [(beside[p], kinds[begin]) for p in theirs[int(len(theirs) * cut) :]]
                room = max(len(row), len(beside)) - (len(row) - len(places))
                tokens = tokens[:begin] + [*head, *tail][:room] + tokens[end:]
            elif kind == 1:
                chosen = [place for place in places if rng.random() < REPLACED]
                for place in chosen:
                    token = int(drawn[int(rng.integers(len(drawn)))])
                    tokens[place] = (token, tokens[place][1])
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
