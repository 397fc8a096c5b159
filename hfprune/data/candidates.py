"""Queries and texts that may answer them: rows as others write them -> one row a pair.

Three forms are read, those of sentence-transformers' data sets: a query, a text and how relevant it
is; a query with lists of texts and of their relevance; and a query, a text that answers it and
texts that do not (``data.negative_column``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from hfprune.core.errors import DataError
from hfprune.data.readers.columns import label_columns, negative_columns
from hfprune.data.readers.table import Rows, is_null, show

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


# Column of reranking: the number of the row's query in its split.
QUERY_ROW: Final = "query_row"
# From this relevance on a text is one that should be found: of grades 0 to 3, those of 2 and 3.
RELEVANT: Final = 0.5


@dataclass(frozen=True)
class Candidate:
    """A text that may answer a query.

    Attributes:
        row: of its file, from 0.
        column: that it stands in.
        text: not checked yet.
        label: how relevant it is, as it is written; 1 or 0 where its column says it.
    """

    row: int
    column: str
    text: Any
    label: Any


def candidates_of(
    rows: Rows, columns: Mapping[str, Sequence[Any]], config: DataConfig
) -> list[Candidate]:
    """The texts of all rows, in order, of a row the answers first.

    Args:
        rows: for the names of cells in errors.
        columns: of the file.
        config: names the columns.

    Raises:
        DataError: lists of texts and of labels that are not of one length.
    """
    count = len(rows.texts)
    column = config.text_pair_column or ""
    if config.negative_column is None:
        return [one for row in range(count) for one in _labelled(rows, row, columns, config)]
    found: list[Candidate] = []
    for row in range(count):
        answers = [Candidate(row, column, text, 1) for text in _listed(columns[column][row])]
        if any(is_null(one.text) or one.text == "" for one in answers):
            raise DataError(
                f"{rows.where(row, column)}: the text that answers is empty; of each query one "
                "text at least must be known to answer it: fill it in, or remove the row"
            )
        others = [
            Candidate(row, name, text, 0)
            for name in negative_columns(config)
            for text in _listed(columns[name][row])
            if not (is_null(text) or text == "")  # rows may have fewer than there are columns
        ]
        found += (*answers, *others)
    return found


def _labelled(
    rows: Rows, row: int, columns: Mapping[str, Sequence[Any]], config: DataConfig
) -> Iterator[Candidate]:
    column, of_label = config.text_pair_column or "", label_columns(config)[0]
    texts, labels = columns[column][row], columns[of_label][row]
    if isinstance(texts, list) != isinstance(labels, list):
        raise DataError(
            f"{rows.where(row, column)}: a list of texts needs a list of their relevance, one for "
            f"each, and a text a number; got {show(texts)} and {show(labels)}"
        )
    texts, labels = _listed(texts), _listed(labels)
    if len(texts) != len(labels):
        raise DataError(
            f"{rows.where(row, column)}: {len(texts)} texts, but {len(labels)} numbers in column "
            f"{of_label!r}; each text needs one"
        )
    for text, label in zip(texts, labels, strict=True):
        yield Candidate(row, column, text, label)


def expanded(rows: Rows, candidates: Sequence[Candidate], config: DataConfig) -> Rows:
    """One row a candidate; errors name the row that it came from."""
    if not candidates:
        raise DataError(
            f"{rows.split} ({rows.source}) has queries, but no text for any of them; check "
            "data.text_pair_column"
        )
    return replace(
        rows,
        texts=[rows.texts[one.row] for one in candidates],
        text_pairs=[one.text for one in candidates],
        labels={label_columns(config)[0]: [one.label for one in candidates]},
        written=[one.row for one in candidates],
    )


def each_once(rows: Rows, config: DataConfig) -> Rows:
    """Of answers and texts that do not answer, each text of a query once; other forms as they are.

    Other rows of a query, and of other files, often name the same answer again. What answers by one
    row answers by all: texts that do not are mostly drawn or searched for, by no one who read them.

    Args:
        rows: checked, of all files of a split.
        config: names the columns.
    """
    if config.negative_column is None:
        return rows
    labels, pairs = rows.labels[label_columns(config)[0]], rows.text_pairs or []
    contents = list(zip(rows.texts, pairs, strict=True))
    answers = {content for content, label in zip(contents, labels, strict=True) if label == 1}
    kept: dict[tuple[Any, Any], int] = {}
    both: dict[tuple[Any, Any], None] = {}
    for place, (content, label) in enumerate(zip(contents, labels, strict=True)):
        if label != 1 and content in answers:
            both[content] = None
        else:
            kept.setdefault(content, place)
    if both:
        query, text = next(iter(both))
        rows.notices.append(
            f"{len(both)} texts of {rows.split} ({rows.source}) stand as an answer and as none of "
            f"the same query (the first: {text!r:.80} for {query!r:.80}): they count as answers"
        )
    return rows.select(list(kept.values()))


def scaled(rows: Mapping[str, Rows], config: DataConfig) -> dict[str, list[list[float]]]:
    """How relevant each text is, by split, as a list of one number in [0, 1].

    Labels are divided by :func:`highest_of`; without ``data.highest_relevance`` those above 1 are
    grades, whole numbers.

    Raises:
        DataError: what is no number, negative, above the highest, or no grade; or all texts of
            train are equally relevant.
    """
    column = label_columns(config)[0]
    grades = _grades(rows, column)
    known = _known(grades)
    if "train" in grades and len(set(known)) == 1:
        raise DataError(
            f"train ({rows['train'].source}): all {len(known)} texts have the relevance "
            f"{known[0]:g}; to learn which text comes first takes some that are more relevant to "
            "their query than others"
        )
    highest = highest_of(rows, config)
    of_what = "the highest of train" if config.highest_relevance is None else "which is set"
    whole = config.highest_relevance is None and highest > 1
    for name, split in rows.items():
        for row, grade in enumerate(grades[name]):
            if grade > highest:
                raise DataError(
                    f"{split.where(row, column)}: the relevance {grade:g} is above {highest:g}, "
                    f"{of_what}: set data.highest_relevance to the highest grade that there is"
                )
            if whole and grade != int(grade):
                raise DataError(
                    f"{split.where(row, column)}: the relevance {grade:g} is neither within 0 and "
                    f"1 nor a whole number, and other rows go up to {highest:g}: set "
                    "data.highest_relevance to what counts as wholly relevant"
                )
    return {name: [[grade / highest] for grade in some] for name, some in grades.items()}


def highest_of(rows: Mapping[str, Rows], config: DataConfig) -> float:
    """What labels are divided by: ``data.highest_relevance``, or what stands in its place.

    That is 1 where none in train is above it, else the highest in train (in all rows, where there
    is no train).

    Raises:
        DataError: a label that is no number, or negative.
    """
    if config.highest_relevance is not None:
        return config.highest_relevance
    return max(1.0, *_known(_grades(rows, label_columns(config)[0])))


def _grades(rows: Mapping[str, Rows], column: str) -> dict[str, list[float]]:
    return {
        name: [_grade(split, row, column) for row in range(len(split.texts))]
        for name, split in rows.items()
    }


def _known(grades: Mapping[str, list[float]]) -> list[float]:
    """Those by which the highest is found: of train, or all of them."""
    return grades.get("train", [grade for some in grades.values() for grade in some])


def _grade(rows: Rows, row: int, column: str) -> float:
    value = rows.labels[column][row]
    number: float | None = None
    if isinstance(value, int | float | str):  # bool is an int: yes or no
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = None
    if number is None or not math.isfinite(number) or number < 0:
        raise DataError(
            f"{rows.where(row, column)}: expected how relevant the text is to its query, a number "
            f"from 0, such as 0 or 1, got {show(value)}"
        )
    return number


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
