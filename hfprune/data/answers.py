"""Which columns of a reranker's rows are the query, its texts and their relevance, by their names.

The three forms are those of :mod:`hfprune.data.candidates`; what is found is said.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from hfprune.core.errors import DataError

QUERIES: Final = ("query", "question", "anchor", "search", "headline", "title")
# Those that hold nothing else: titles and headlines are also read with a text, or left out.
ASKED: Final = ("query", "question", "anchor")
ANSWERS: Final = (
    *("text", "passage", "document", "answer", "response", "positive", "doc", "content"),
    *("texts", "passages", "documents", "answers", "responses", "docs"),
)
# Two texts of one rank, which a score compares.
PAIRS: Final = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2")),
    *(("text_a", "text_b"), ("text1", "text2")),
)
RELEVANCE: Final = ("label", "labels", "relevance", "score", "grade", "relevant", "rating")
OPTIONS: Final = ("--text-column", "--text-pair-column", "--label-column")
# Cells that are looked at for what all of them spell.
_SPELLED: Final = 20
_NEGATIVE: Final = re.compile(r"negatives?(_\d+)?")


class Answers(NamedTuple):
    """Columns of queries and texts.

    Attributes:
        query, text: their columns.
        label: of relevance; ``None`` where ``negatives`` hold the texts that do not answer.
        negatives: columns.
        said: sentences for a person.
    """

    query: str
    text: str
    label: str | None
    negatives: tuple[str, ...]
    said: tuple[str, ...]


def find_answers(
    columns: Mapping[str, Sequence[Any]],
    where: str,
    *,
    query: str | None = None,
    text: str | None = None,
    label: str | None = None,
    options: tuple[str, str, str] = OPTIONS,
) -> Answers:
    """The columns that the user named, and those that are known by their names.

    Args:
        columns: values by name.
        where: the file, for errors.
        query, text, label: what the user said.
        options: what says so, for errors.

    Raises:
        DataError: there is no such column; it names the ones that there are, and the option.
    """
    names = list(columns)
    of_query = query or _known(names, QUERIES, (text, label), where, "queries", options[0])
    negatives = tuple(name for name in names if _NEGATIVE.fullmatch(name.lower()))
    if label is None and negatives and (text or "positive") in columns:
        of_text = text or "positive"
        others = ", ".join(map(repr, negatives))
        said = f"queries: {of_query!r}; texts that answer: {of_text!r}, and that do not: {others}"
        return Answers(of_query, of_text, None, negatives, (said,))
    taken = (of_query, label)
    of_text = text or _known(names, ANSWERS, taken, where, "texts", options[1])
    taken = (of_query, of_text)
    of_label = label or _known(names, RELEVANCE, taken, where, "relevance", options[2])
    said = f"queries: {of_query!r}; texts: {of_text!r}; how relevant they are: {of_label!r}"
    return Answers(of_query, of_text, of_label, (), (said,))


def asked_in(names: Sequence[str]) -> str | None:
    """The column that can be nothing but a query, beside one of texts that may answer it."""
    low = {name: name.strip().lower() for name in names}
    asked = next((name for known in ASKED for name in names if low[name] == known), None)
    return asked if any(name in ANSWERS for name in low.values()) else None


def found_answers(
    columns: Mapping[str, Sequence[Any]],
    *,
    query: str | None = None,
    text: str | None = None,
    label: str | None = None,
) -> Answers | None:
    """As :func:`find_answers`; ``None`` where the names do not tell queries, texts and labels.

    Here :data:`ASKED` alone are names of queries, unless the user names one.
    """
    query = query or asked_in(list(columns))
    if query is None:
        return None
    try:
        return find_answers(columns, "", query=query, text=text, label=label)
    except DataError:
        return None


def spell_lists(cells: Sequence[Any]) -> bool:
    """Whether cells are texts that spell lists, as a CSV file has them of a program's lists.

    >>> [spell_lists([text]) for text in ("[1, 0]", "['a', 'b']", "[1 0]", "[1] as he says", "[a]")]
    [True, True, True, False, False]
    """
    return bool(cells) and all(map(_spells_list, cells[:_SPELLED]))


def _spells_list(cell: Any) -> bool:
    if not isinstance(cell, str) or not (cell.startswith("[") and cell.endswith("]")):
        return False
    # NumPy parts numbers by blanks, and texts too, which Python reads as one.
    for text in (cell, f"[{','.join(cell[1:-1].split())}]"):
        try:
            return isinstance(ast.literal_eval(text), list)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return False


def _known(
    names: Sequence[str],
    known: Sequence[str],
    taken: Sequence[str | None],
    where: str,
    what: str,
    option: str,
) -> str:
    """The first of the known names that is there and means nothing else yet."""
    for wanted in known:
        for name in names:
            if name.strip().lower() == wanted and name not in taken:
                return name
    raise DataError(
        f"{where}: no column is known to hold the {what} (such as {known[0]!r}), got "
        f"{', '.join(map(repr, names[:12]))}; say which with {option}"
    )
