"""What rows are to a model, by the first of them: pieces of how many tokens, of how many labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import HFPruneError
from hfprune.early.model import ModelFacts, as_text, guessed_lengths, lengths_of
from hfprune.recipe.sections.whole import Recipe

# Tokens that frame a text, and those that frame a pair.
_FRAME: Final = 2
_FRAME_OF_PAIRS: Final = 3


@dataclass(frozen=True)
class Shape:
    """The rows that a model reads of some texts.

    Attributes:
        texts: how many there were.
        lengths: tokens of each row: of a text that is cut, or of each of its windows.
        rest: of the texts, rows of what is cut off and learned from all the same.
    """

    texts: int
    lengths: tuple[int, ...]
    rest: int = 0

    @property
    def tokens(self) -> float:
        """Of a row on average."""
        return sum(self.lengths) / len(self.lengths)

    @property
    def rows_a_text(self) -> float:
        """1 but for windows."""
        return len(self.lengths) / self.texts

    @property
    def rest_a_text(self) -> float:
        """Further rows to learn from."""
        return self.rest / self.texts


def shape_of(recipe: Recipe, columns: Mapping[str, Sequence[Any]], facts: ModelFacts) -> Shape:
    """How a run will read texts like these.

    Args:
        recipe: whose columns, lengths and windows count.
        columns: the first rows of the training file.
        facts: of the model, whose tokenizer measures them unless the recipe names another.
    """
    data, distillation = recipe.data, recipe.distillation
    texts = [as_text(value) for value in columns.get(data.text_column, ())]
    pairs: list[str] | None = None
    if data.text_pair_column is not None and data.text_pair_column in columns:
        pairs = [as_text(value) for value in columns[data.text_pair_column]]
    lengths = _whole_lengths(recipe, texts, pairs, facts)
    if not lengths:
        return Shape(1, (min(128, data.max_length),))
    frame = _FRAME if pairs is None else _FRAME_OF_PAIRS
    if data.stride is not None:
        found = [n for length in lengths for n in pieces(length, data.max_length, data.stride)]
        return Shape(len(lengths), tuple(found))
    rest = 0
    if distillation is not None and distillation.rest_of_texts:
        rest = sum(
            4 * n >= data.max_length
            for length in lengths
            for n in list(pieces(length, data.max_length, 0, frame))[1:]
        )
    return Shape(len(lengths), tuple(min(n, data.max_length) for n in lengths), rest)


def pieces(length: int, most: int, stride: int, frame: int = _FRAME) -> Iterator[int]:
    """Tokens of each window of a text, special ones included, as tokenizers cut it.

    >>> list(pieces(10, 8, 2)), list(pieces(8, 8, 2)), list(pieces(20, 8, 2))
    ([8, 6], [8], [8, 8, 8, 8, 4])
    """
    room, left = max(1, most - frame), length - frame
    while left > room:
        yield most
        left -= max(1, room - stride)
    yield left + frame


def labels_of(recipe: Recipe, columns: Mapping[str, Sequence[Any]], facts: ModelFacts) -> int:
    """How many numbers the model gives of a row: as many as are named, or seen in the first rows.

    Of a model that has classes already, and of rows that show fewer, at least those.
    """
    data = recipe.data
    if recipe.task in ("regression", "reranking"):
        return 1
    if recipe.task == "sentence_embedding":
        return facts.width or 1
    if data.label_names is not None:
        return len(data.label_names)
    if isinstance(data.label_column, list):
        return len(data.label_column)
    seen: set[str] = set()
    flags = 0
    for value in columns.get(data.label_column, ()):
        if isinstance(value, list):
            seen.update(map(str, value))
            flags = max(flags, len(value))
        else:
            seen.add(str(value))
    if recipe.task == "multi_label_classification" and seen <= {"0", "1", "0.0", "1.0"}:
        return max(2, flags)  # one flag a class
    return max(2, len(seen), 0 if facts.labels is None else len(facts.labels))


def _whole_lengths(
    recipe: Recipe, texts: list[str], pairs: list[str] | None, facts: ModelFacts
) -> list[int]:
    """Tokens of each text or pair, uncut."""
    tokenizer = facts.tokenizer
    if recipe.model.tokenizer is not None:
        own = Path(recipe.model.tokenizer) / "tokenizer.json"
        tokenizer = own if own.is_file() else None
    if tokenizer is not None:
        try:
            return lengths_of(tokenizer, texts, pairs)
        except HFPruneError:  # told by the checks
            pass
    found = guessed_lengths(texts)
    if pairs is None:
        return found
    return [one + other - 1 for one, other in zip(found, guessed_lengths(pairs), strict=True)]
