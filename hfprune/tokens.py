"""Words and tags: reading them, and giving each word's tag to its first token.

Tags follow their words to tokens as in BERT's paper: the first token of a word carries its tag;
its further tokens and the special tokens carry :data:`IGNORED` and count for nothing, in training
and in scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IGNORED: Final = -100
"""Label of a token that stands for no word; what PyTorch's losses leave out."""


def read_conll(text: str) -> tuple[list[list[str]], list[list[str]], int | None]:
    """Sentences of a CoNLL-like file: a word a line, its tag last; a blank line ends a sentence.

    Columns are parted by blanks or tabs; those between the word and the tag are passed over, and
    so are comments of CoNLL-U (``# ``) and the ``-DOCSTART-`` lines of CoNLL 2003.

    Returns:
        Words, tags, and the number of the first line (from 1) that has no tag, ``None`` if all do.

    >>> read_conll("Ada NNP B-PER\\nslept VBD O\\n\\nYes UH O\\n")
    ([['Ada', 'slept'], ['Yes']], [['B-PER', 'O'], ['O']], None)
    """
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if not fields:
            if words[-1]:
                words.append([])
                tags.append([])
            continue
        if fields[0] == "-DOCSTART-" or (fields[0] == "#" and not words[-1]):
            continue
        if len(fields) < 2:
            return words, tags, number
        words[-1].append(fields[0])
        tags[-1].append(fields[-1])
    if not words[-1]:
        words.pop()
        tags.pop()
    return words, tags, None


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
