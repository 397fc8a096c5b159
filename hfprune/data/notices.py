"""What a person should know of the data before hours of work: counts, and what looks wrong."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from hfprune.core.tasks import WITHOUT_CLASSES, Task
from hfprune.data.labels import ONE_LABEL
from hfprune.data.queries import query_notices
from hfprune.data.splits import Piece

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig

# Fewer training rows of a class than these teach a model nothing that a test could confirm.
FEW: Final = 5
_SHOWN: Final = 10


@dataclass(frozen=True)
class Notice:
    """A sentence for the console.

    Attributes:
        text: Without a line break; what comes from the data stands in it as ``repr`` writes it.
        level: ``note`` for facts, ``warning`` for what is probably not meant.
    """

    text: str
    level: Literal["note", "warning"] = "note"


def notices_of(
    pieces: Mapping[str, Piece],
    label_names: Sequence[str],
    seen_in_train: Mapping[str, int],
    config: DataConfig,
    task: Task,
) -> tuple[Notice, ...]:
    """What to tell of the splits, in the order in which it is told.

    Args:
        pieces: The splits.
        label_names: In the order of their numbers; empty for regression.
        seen_in_train: Of the held-out splits, rows whose content is also in train.
        config, task: The recipe's.
    """
    if task == "reranking":
        told = [Notice(text, "warning" if bad else "note") for text, bad in query_notices(pieces)]
        return (
            *told,
            *_of_sources(pieces),
            *_blank(pieces, config, task),
            *_repeated(pieces["train"], any(seen_in_train.values()), task),
            *_seen(pieces, seen_in_train, task),
        )
    return tuple(
        [
            *(() if task == "sentence_embedding" else _counts(pieces, label_names, task)),
            *_of_sources(pieces),
            *(() if config.label_names is not None else _alike(label_names)),
            *_rare(pieces, label_names, task),
            *_blank(pieces, config, task),
            *_repeated(pieces["train"], any(seen_in_train.values()), task),
            *_seen(pieces, seen_in_train, task),
        ]
    )


def _item(task: Task) -> str:
    return "image" if task == "image_classification" else "text"


def _class_counts(piece: Piece, task: Task) -> Counter[int]:
    """Rows of every class number; of tokens words."""
    if task in ONE_LABEL:
        return Counter(piece.chosen_labels)
    if task == "token_classification":
        return Counter(tag for tags in piece.chosen_labels for tag in tags)
    return Counter(
        number for flags in piece.chosen_labels for number, flag in enumerate(flags) if flag
    )


def _counts(
    pieces: Mapping[str, Piece], label_names: Sequence[str], task: Task
) -> Iterator[Notice]:
    train = pieces["train"]
    if task == "regression":
        targets = train.chosen_labels
        mean = sum(targets) / len(targets)
        yield Notice(
            f"numbers to predict in train: {min(targets):g} to {max(targets):g}, mean {mean:.4g}"
        )
        return
    counts = _class_counts(train, task)
    ordered = sorted(range(len(label_names)), key=lambda number: (-counts[number], number))
    shown = ", ".join(f"{label_names[number]!r} {counts[number]}" for number in ordered[:_SHOWN])
    rest = [counts[number] for number in ordered[_SHOWN:]]
    if rest:
        shown += f", and {len(rest)} more classes of {min(rest)} to {max(rest)}"
    if task == "multi_label_classification":
        none = sum(not any(flags) for flags in train.chosen_labels)
        shown += f"; no class: {none}"
    unit = "words" if task == "token_classification" else "rows"
    yield Notice(f"{unit} of each class in train: {shown}")


def _of_sources(pieces: Mapping[str, Piece]) -> Iterator[Notice]:
    # Splits that were held out share their source with train.
    told = {notice: None for piece in pieces.values() for notice in piece.rows.notices}
    yield from (Notice(text, "warning") for text in told)


def _alike(label_names: Sequence[str]) -> Iterator[Notice]:
    """Classes that a person would take for one."""
    by_form: dict[str, list[str]] = defaultdict(list)
    for name in label_names:
        by_form[_plain(name)].append(name)
    for names in by_form.values():
        if len(names) > 1:
            yield Notice(
                f"the classes {', '.join(map(repr, names))} differ only in case, spaces, the form "
                "of a letter, marks that are not seen or leading zeros: if they are one, write "
                "them alike (or name the classes in data.label_names, which refuses all others)",
                "warning",
            )


def _plain(name: str) -> str:
    """What a reader sees of a name: no spaces, unseen marks, or digits of other scripts."""
    seen = "".join(
        str(unicodedata.decimal(letter, letter))
        for letter in unicodedata.normalize("NFKC", name).casefold()
        if not letter.isspace() and unicodedata.category(letter) not in ("Cc", "Cf")
    )
    digits = seen.removeprefix("+")
    return digits.lstrip("0") or "0" if digits.isdecimal() else seen


def _rare(pieces: Mapping[str, Piece], label_names: Sequence[str], task: Task) -> Iterator[Notice]:
    if task in WITHOUT_CLASSES:
        return
    unit = "words" if task == "token_classification" else "rows"
    counts = _class_counts(pieces["train"], task)
    rare = [number for number in range(len(label_names)) if counts[number] < FEW]
    if rare:
        shown = ", ".join(f"{label_names[number]!r} {counts[number]}" for number in rare[:_SHOWN])
        more = f", and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
        yield Notice(
            f"classes with fewer than {FEW} training {unit}: {shown}{more}; a model cannot learn "
            "them, and averages over classes (macro) count each like the others",
            "warning",
        )
    for name, piece in pieces.items():
        if name == "train":
            continue
        held = _class_counts(piece, task)
        absent = [number for number in range(len(label_names))
                  if not held[number] and counts[number] >= FEW]  # fmt: skip
        if absent:
            shown = ", ".join(repr(label_names[number]) for number in absent[:_SHOWN])
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            yield Notice(
                f"the {name} {unit} hold none of the class {shown}{more}: the score says nothing "
                "of it",
                "warning",
            )


def _blank(pieces: Mapping[str, Piece], config: DataConfig, task: Task) -> Iterator[Notice]:
    if task in ("token_classification", "image_classification"):
        return  # refused before
    what = "what is said of nothing" if task == "sentence_embedding" else "the label"
    for name, piece in pieces.items():
        columns = {config.text_column: piece.texts}
        if config.text_pair_column is not None:
            columns[config.text_pair_column] = piece.text_pairs or []
        for column, texts in columns.items():
            blank = [place for place, text in enumerate(texts) if not text or text.isspace()]
            if blank:
                first = piece.rows.where(piece.chosen[blank[0]], column)
                yield Notice(
                    f"{len(blank)} of {len(texts)} {name} rows have an empty text (the first: "
                    f"{first}): a model reads nothing there, and learns {what} all the same",
                    "warning",
                )


def _repeated(train: Piece, outside: bool, task: Task) -> Iterator[Notice]:
    """Copies of one text in train, and whether they have different labels."""
    labels: dict[Hashable, Any] = {}
    repeated = 0
    other: set[Hashable] = set()
    for content, label in zip(train.contents(), train.chosen_labels, strict=True):
        if content not in labels:
            labels[content] = label
            continue
        repeated += 1
        if labels[content] != label:
            other.add(content)
    if repeated:
        item = "pair" if task == "reranking" else _item(task)
        text = f"{repeated} of {len(train.chosen)} train rows repeat the {item} of another row"
        text += "" if outside else "; all copies are in train"
        if other:
            yield Notice(f"{text}; {len(other)} {item}s have more than one label", "warning")
        else:
            yield Notice(text)


def _seen(
    pieces: Mapping[str, Piece], seen_in_train: Mapping[str, int], task: Task
) -> Iterator[Notice]:
    items = "queries" if task == "reranking" else f"{_item(task)}s"
    for name, count in seen_in_train.items():
        if count:
            yield Notice(
                f"{count} of {len(pieces[name].chosen)} {name} rows have {items} that are "
                f"also in train: the score on them says nothing of new {items}",
                "warning",
            )
