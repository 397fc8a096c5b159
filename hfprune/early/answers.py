"""Which columns of a reranker's rows are the query, its texts and their relevance.

The three forms are those of :mod:`hfprune.data.candidates`; what is found is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from hfprune.core.errors import DataError

QUERIES: Final = ("query", "question", "anchor", "search", "headline", "title")
ANSWERS: Final = ("text", "passage", "document", "answer", "response", "positive", "doc", "content")
RELEVANCE: Final = ("label", "labels", "relevance", "score", "grade", "relevant", "rating")
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
) -> Answers:
    """The columns that the user named, and those that are known by their names.

    Args:
        columns: values by name.
        where: the file, for errors.
        query, text, label: what the user said.

    Raises:
        DataError: there is no such column; it names the ones that there are, and the option.
    """
    names = list(columns)
    of_query = query or _known(names, QUERIES, (text, label), where, "queries", "--text-column")
    negatives = tuple(name for name in names if _NEGATIVE.fullmatch(name.lower()))
    if label is None and negatives and (text or "positive") in columns:
        of_text = text or "positive"
        others = ", ".join(map(repr, negatives))
        said = f"queries: {of_query!r}; texts that answer: {of_text!r}, and that do not: {others}"
        return Answers(of_query, of_text, None, negatives, (said,))
    taken = (of_query, label)
    of_text = text or _known(names, ANSWERS, taken, where, "texts", "--text-pair-column")
    taken = (of_query, of_text)
    of_label = label or _known(names, RELEVANCE, taken, where, "relevance", "--label-column")
    said = f"queries: {of_query!r}; texts: {of_text!r}; how relevant they are: {of_label!r}"
    return Answers(of_query, of_text, of_label, (), (said,))


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
