"""Words and tags: reading them, and giving each word's tag to its first token.

Tags follow their words to tokens as in BERT's paper: the first token of a word carries its tag;
its further tokens and the special tokens carry :data:`IGNORED` and count for nothing, in training
and in scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

IGNORED: Final = -100
"""Label of a token that stands for no word; what PyTorch's losses leave out."""


def align(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """The labels of a row's tokens.

    Args:
        word_ids: for each token the number of its word, ``None`` for special tokens, as a fast
            tokenizer's ``word_ids`` gives them.
        labels: of the words.

    >>> align([None, 0, 0, 1, None], [3, 5])
    [-100, 3, -100, 5, -100]
    """
    found = []
    previous = None
    for word in word_ids:
        found.append(IGNORED if word is None or word == previous else labels[word])
        previous = word
    return found


def encode_words(
    tokenizer: Any, rows: Sequence[Sequence[str]], labels: Sequence[Sequence[int]], max_length: int
) -> tuple[dict[str, list[list[int]]], int]:
    """Tokens of rows of words, with aligned labels.

    Args:
        tokenizer: a fast one.
        rows: words.
        labels: class numbers, one a word.
        max_length: in tokens; what is longer is cut.

    Returns:
        Columns (the tokenizer's, and ``labels``), and how many rows were cut.
    """
    options: dict[str, Any] = {"is_split_into_words": True, "verbose": False}
    words = [list(row) for row in rows]
    whole = tokenizer(words, truncation=False, **options)
    names = [n for n in ("input_ids", "attention_mask", "token_type_ids") if n in whole]
    columns: dict[str, list[list[int]]] = {name: list(whole[name]) for name in names}
    columns["labels"] = [align(whole.word_ids(row), labels[row]) for row in range(len(words))]
    long = [row for row, ids in enumerate(whole["input_ids"]) if len(ids) > max_length]
    if long:
        cut = tokenizer(
            [words[row] for row in long], truncation=True, max_length=max_length, **options
        )
        for place, row in enumerate(long):
            for name in names:
                columns[name][row] = cut[name][place]
            columns["labels"][row] = align(cut.word_ids(place), labels[row])
    return columns, len(long)
