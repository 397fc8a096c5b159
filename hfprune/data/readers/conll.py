"""CoNLL-like files: a word and its tag a line, a blank line between sentences."""

from __future__ import annotations

from collections.abc import Iterable

from hfprune.core.errors import DataError
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Table


def read_conll_file(file: RowsFile) -> Table:
    """Read words and their tags, a word a line; the columns get the names that the recipe uses."""
    with file.text(newline="\n") as text:
        words, tags, bad = _read(text)
    if bad is not None:
        raise DataError(
            f"{file.where}, line {bad}: expected a word and its tag, parted by a blank or tab; a "
            "blank line ends a sentence"
        )
    columns = dict(zip(file.wanted, (words, tags), strict=False))
    return Table(list(columns), columns, len(words))


def read_conll(text: str) -> tuple[list[list[str]], list[list[str]], int | None]:
    """Sentences of a CoNLL-like text: a word a line, its tag last; a blank line ends a sentence.

    Columns are parted by blanks or tabs; those between the word and the tag are passed over, and
    so are comments of CoNLL-U (``# ``) and the ``-DOCSTART-`` lines of CoNLL 2003.

    Returns:
        Words, tags, and the number of the first line (from 1) that has no tag, ``None`` if all do.

    >>> read_conll("Ada NNP B-PER\\nslept VBD O\\n\\nYes UH O\\n")
    ([['Ada', 'slept'], ['Yes']], [['B-PER', 'O'], ['O']], None)
    """
    return _read(text.split("\n"))


def _read(lines: Iterable[str]) -> tuple[list[list[str]], list[list[str]], int | None]:
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(lines, start=1):
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
