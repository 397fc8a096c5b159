"""Which column is the text and which the label, by names and values; nothing is guessed silently.

Where two columns would do, an error names them with an example each and says which option chooses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.core.text import one_line
from hfprune.data.answers import PAIRS, Answers, asked_in, find_answers, found_answers, spell_lists
from hfprune.data.class_names import spelled
from hfprune.data.readers.columns import check_columns
from hfprune.data.readers.table import is_null

TEXT_NAMES: Final = (
    *("text", "sentence", "texts", "review", "content", "body", "message", "description"),
    *("comment", "question", "utterance", "query", "document", "article", "tweet", "post", "words"),
    *("tokens", "subject", "title", "headline", "input", "abstract", "ticket", "email"),
)
LABEL_NAMES: Final = (
    *("label", "labels", "class", "category", "topic", "sentiment", "intent", "target", "tag"),
    *("tags", "ner_tags", "stars", "rating", "score", "emotion", "y", "output", "priority"),
)
# More classes than these of whole numbers may be a quantity: the user says which.
MANY_NUMBERS: Final = 20


@dataclass(frozen=True)
class Chosen:
    """Which columns a recipe names, for which task, and what was assumed.

    Attributes:
        label: one column, or several of 0/1; none for embeddings, and beside negatives.
        said: sentences for a person.
        negatives: of reranking, columns of texts that do not answer.
    """

    text: str
    label: str | list[str]
    pair: str | None
    task: Task
    said: tuple[str, ...]
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Column:
    """What the values of a column look like.

    Attributes:
        words: of a cell on average, where cells are texts.
        numbers: whether all cells are numbers; ``whole``: whole ones.
        lists: whether cells are lists.
        flags: whether all cells are 0 or 1.
        distinct: values, of ``filled`` cells.
    """

    name: str
    filled: int
    distinct: int
    words: float
    numbers: bool
    whole: bool
    lists: bool
    flags: bool
    example: str

    @property
    def is_text(self) -> bool:
        return not self.lists and not self.numbers and self.filled > 0

    @property
    def repeats(self) -> bool:
        """Whether values come again, as those of classes do."""
        return 2 <= self.distinct <= max(2, self.filled // 2)


def choose_columns(
    columns: Mapping[str, Sequence[Any]],
    where: str,
    *,
    text: str | None = None,
    label: Sequence[str] = (),
    pair: str | None = None,
    task: Task | None = None,
    ranker: bool | None = None,
) -> Chosen:
    """Which columns to read, for which task.

    Args:
        columns: values by name, in the file's order.
        where: the file, for errors.
        text, label, pair, task: what the user said; the rest is found.
        ranker: whether the model gives one score, as rerankers do; ``None``: it has no head that
            says so.

    Raises:
        DataError: a named column is not there, or it is unclear which is meant.
    """
    _check_named(columns, where, text, label, pair)
    if task == "reranking":
        return _ranked(columns, where, text, label, pair)
    if task is None and (text is None or pair is not None) and len(label) < 2:
        found = _ranks_by_itself(columns, text, label, pair, ranker)
        if found is not None:
            return found
    looks = {name: _look(name, values) for name, values in columns.items()}
    if task == "sentence_embedding":
        found_text = text or _text(looks, (), where)
        return Chosen(found_text, [], None, task, (f"texts: column {found_text!r}",))
    if len(looks) == 1:
        _check_one(next(iter(looks)), where)
    said: list[str] = []
    given = [name for name in (pair, *label) if name is not None]
    if text is None and pair is None:
        two = next((two for two in PAIRS if set(two) <= set(looks) and not set(two) & set(given)),
                   None)  # fmt: skip
        if two is not None:
            text, pair = two
            said.append(f"pairs of texts: {text!r} and {pair!r}")
            given.append(pair)
    if text is None:
        text = _text(looks, given, where)
        said.append(f"texts: column {text!r}")
    rest = [look for name, look in looks.items() if name not in (text, pair)]
    asked = asked_in(list(looks))
    chosen = list(label) or _label(rest, where, said, asked)
    settled = task or _task(looks, text, chosen, where)
    if asked is not None and pair is None and asked not in chosen:
        unread = "" if asked == text else f"column {asked!r} is not read. "
        said.append(
            f"{unread}Queries with texts that may answer them? For a reranker say --task "
            "reranking, for pairs --text-column and --text-pair-column"
        )
    named: str | list[str] = chosen if len(chosen) > 1 else chosen[0]
    if isinstance(named, list) and settled != "multi_label_classification":
        raise DataError(
            f"{where}: several label columns ({', '.join(map(repr, named))}) are for "
            "multi_label_classification, 0 or 1 in each; name one for another task"
        )
    return Chosen(text, named, pair, settled, tuple(said))


def _ranks_by_itself(
    columns: Mapping[str, Sequence[Any]],
    text: str | None,
    label: Sequence[str],
    pair: str | None,
    ranker: bool | None,
) -> Chosen | None:
    """Rows that can hardly be for anything but a reranker, by a model that can become one.

    Those are triplets, lists of texts with their labels, and, unless the model is fine-tuned for
    classes, queries with a text each whose labels are relevance from 0 to 1; to a model of one
    score also grades.
    """
    found = found_answers(columns, query=text, text=pair, label=label[0] if label else None)
    if found is None or (text is not None and text != asked_in(list(columns))):
        return None
    if found.label is not None and not _are_relevance(columns, found, ranker):
        return None
    told = "a reranker is proposed; for something else say --task, such as --task " + (
        "sentence_embedding" if found.label is None else "single_label_classification"
    )
    return _as_chosen(found, (*found.said, told))


def _are_relevance(
    columns: Mapping[str, Sequence[Any]], found: Answers, ranker: bool | None
) -> bool:
    """Whether labels can be how relevant texts are, and are not all the same."""
    cells = columns[str(found.label)]
    if spell_lists(cells):
        return True  # and refused as such, when the rows are checked
    listed = {isinstance(cell, list) for cell in (*cells, *columns[found.text])}
    if len(listed) > 1 or (ranker is False and listed == {False}):
        return False  # of a pair a classifier may say something else
    numbers = [_number(one) for cell in cells for one in (cell if True in listed else [cell])]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or len(set(known)) < 2 or min(known) < 0:
        return False
    graded = ranker is True or True in listed
    return max(known) <= 1 or (graded and all(number.is_integer() for number in known))


def _ranked(
    columns: Mapping[str, Sequence[Any]],
    where: str,
    text: str | None,
    label: Sequence[str],
    pair: str | None,
) -> Chosen:
    if len(label) > 1:
        raise DataError(
            f"{where}: a reranker learns one relevance of each text, got the label columns "
            f"{', '.join(map(repr, label))}: name one"
        )
    found = find_answers(columns, where, query=text, text=pair, label=label[0] if label else None)
    return _as_chosen(found, found.said)


def _as_chosen(found: Answers, said: tuple[str, ...]) -> Chosen:
    named: str | list[str] = [] if found.label is None else found.label
    return Chosen(found.query, named, found.text, "reranking", said, found.negatives)


def _check_named(
    columns: Mapping[str, Sequence[Any]],
    where: str,
    text: str | None,
    label: Sequence[str],
    pair: str | None,
) -> None:
    wanted = {name: "--label-column" for name in label}
    wanted |= {} if text is None else {text: "--text-column"}
    wanted |= {} if pair is None else {pair: "--text-pair-column"}
    check_columns(where, list(columns), wanted)


def _check_one(name: str, where: str) -> None:
    for mark, remedy in (("\t", "name it .tsv"), ("|", "save it with commas")):
        if mark in name:
            raise DataError(
                f"{where}: the header is one cell that holds {mark!r}, so the file may not be "
                f"parted by commas: {remedy}"
            )
    raise DataError(
        f"{where} has one column, {name!r}; a classifier learns from two, a text and its label. "
        "A sentence encoder learns from texts alone: say --task sentence_embedding"
    )


def _look(name: str, values: Sequence[Any]) -> _Column:
    cells = [value for value in values if not is_null(value) and value != ""]
    lists = bool(cells) and all(isinstance(value, list) for value in cells)
    shown = [str(value) for value in cells]
    numbers = [_number(value) for value in cells] if not lists else [None]
    are = bool(cells) and all(number is not None for number in numbers)
    whole = are and all(float(number or 0).is_integer() for number in numbers)
    return _Column(
        name=name,
        filled=len(cells),
        distinct=len(set(shown)),
        words=0.0 if lists or not cells else sum(len(text.split()) for text in shown) / len(cells),
        numbers=are,
        whole=whole,
        lists=lists,
        flags=are and {number for number in numbers} <= {0.0, 1.0},
        example=one_line(shown[0], 60) if shown else "",
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _known(name: str, names: Sequence[str]) -> bool:
    return name.strip().lower() in names


def _text(looks: Mapping[str, _Column], taken: Sequence[str], where: str) -> str:
    free = [look for name, look in looks.items() if name not in taken]
    words = [look for look in free if look.lists and _known(look.name, TEXT_NAMES)]
    if len(words) == 1:
        return words[0].name
    free = [look for look in free if look.is_text]
    exact = [look for look in free if look.name.lower() == "text"]
    if len(exact) == 1:
        return exact[0].name
    likely = [look for look in free if look.words >= 2 and not _is_code(look)]
    if len(likely) > 1:
        longest = max(likely, key=lambda look: look.words)
        others = max(look.words for look in likely if look is not longest)
        named = [look for look in likely if _known(look.name, TEXT_NAMES)]
        if longest.words >= 4 * others and (not named or longest in named):
            return longest.name
        likely = named if len(named) == 1 else likely
    if not likely:
        likely = [look for look in free if _known(look.name, TEXT_NAMES)]
    if len(likely) == 1:
        return likely[0].name
    candidates = likely or free or list(looks.values())
    why = "more than one column may be the text" if likely else "no column looks like a text"
    raise DataError(f"{where}: {why}: {_listed(candidates)}. Say which with --text-column")


def _is_code(look: _Column) -> bool:
    """Whether cells are names of classes in words rather than texts of their own."""
    return look.repeats and look.distinct <= 50 and look.words < 6


def _label(rest: Sequence[_Column], where: str, said: list[str], asked: str | None) -> list[str]:
    """The columns of labels; queries that stand beside texts come again and are none."""
    rest = [look for look in rest if look.name != asked]
    lists = [look for look in rest if look.lists and _known(look.name, LABEL_NAMES)]
    likely = [look for look in rest if (look.repeats and look.words < 8) or look in lists]
    named = [look for look in rest if _known(look.name, LABEL_NAMES) and look.distinct > 1]
    if not named:
        flags = [look for look in likely if look.flags]
        if len(flags) > 1 and len(flags) == len(likely):
            said.append(f"labels: {len(flags)} columns of 0 and 1")
            return [look.name for look in flags]
    _check_not_the_same(rest, bool(named), bool(likely), where, asked)
    chosen = named if len(named) == 1 else []
    exact = [look for look in named if look.name.lower() in ("label", "labels")]
    chosen = exact if len(exact) == 1 else chosen or (likely if len(likely) == 1 else [])
    if chosen:
        said.append(f"labels: column {chosen[0].name!r}")
        return [chosen[0].name]
    if asked is not None and not (named or likely):
        raise DataError(
            f"{where}: no column says how relevant the texts are to the queries in column "
            f"{asked!r}: give it a column 'label', 1 where a text answers its query and 0 where "
            "not, or name the one that does with --label-column. A sentence encoder learns from "
            "texts alone (--task sentence_embedding); if the queries are the labels, say "
            f"--label-column {asked}"
        )
    candidates = named or likely or list(rest)
    if not candidates:
        raise DataError(f"{where} has no column for the labels beside the text")
    why = "more than one column may be the label" if named or likely else "no column looks like one"
    raise DataError(
        f"{where}: {why}: {_listed(candidates)}. Say which with --label-column"
        + ("" if named or likely else " (labels are few values that come again and again)")
    )


def _check_not_the_same(
    rest: Sequence[_Column], named: bool, likely: bool, where: str, asked: str | None
) -> None:
    """Refuse labels that are all the same, where no other column may hold them."""
    same = [look for look in rest if look.distinct == 1 and _known(look.name, LABEL_NAMES)]
    plain = [look for look in same if look.name.lower() in ("label", "labels")]
    if named or not (plain or (same and not likely)):
        return
    look = (plain or same)[0]
    raise DataError(
        f"{where}: all {look.filled:,} labels in column {look.name!r} are the same, "
        f"{look.example!r}: to learn takes rows of two labels or more"
        + ("" if asked is None else ", of a query also texts that do not answer it")
        + "; or name another column with --label-column"
    )


def _task(looks: Mapping[str, _Column], text: str, label: Sequence[str], where: str) -> Task:
    if looks[text].lists:
        return "token_classification"
    if len(label) > 1 or looks[label[0]].lists:
        return "multi_label_classification"
    look = looks[label[0]]
    if look.numbers and not look.whole:
        return "regression"
    if look.numbers and look.distinct > MANY_NUMBERS:
        raise DataError(
            f"{where}, column {look.name!r}: {look.distinct} different whole numbers, which may be "
            "quantities or classes: say --task regression or --task single_label_classification"
        )
    return "single_label_classification"


def _listed(looks: Sequence[_Column]) -> str:
    shown = [f"{look.name!r} (such as {look.example!r})" for look in looks[:6]]
    more = len(looks) - 6
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def label_cells(values: Sequence[Any]) -> list[str]:
    """Labels as they count: one spelling of a number; those of lists one after the other."""
    found: list[str] = []
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if not is_null(one) and one != "":
                found.append(spelled(str(one)))
    return found
