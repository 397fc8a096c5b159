"""Rows of reranking belong to queries: those of one query stay together, in splits and limits.

A query is its text: rows with the same one are its candidates.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.data.candidates import QUERY_ROW, RELEVANT
from hfprune.data.splits import Piece

if TYPE_CHECKING:
    from datasets import Dataset

    from hfprune.recipe.sections.data import DataConfig


def hold_out_queries(pieces: dict[str, Piece], config: DataConfig) -> None:
    """Add the splits that the recipe does not name, out of train's queries.

    Shares are of queries, not of rows. In every split the rows of a query follow one another, the
    queries as they first occur.

    Raises:
        DataError: there are too few queries, or a split in which nothing can be ranked.
    """
    for piece in pieces.values():
        piece.chosen = together(piece)
    train = pieces["train"]
    queries = list(dict.fromkeys(train.texts))
    total = len(queries)
    fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
    for name, fraction in fractions.items():
        if name in pieces:
            continue
        count = max(1, round(fraction * total))
        if count >= len(queries):
            raise DataError(
                f"train ({train.rows.source}) has {total} queries: too few to hold out {count} for "
                f"{name} (data.{name}_fraction = {fraction}) and still train. A query is held out "
                f"with all its texts: give more queries, or a {name} file or split"
            )
        held = set(_shuffled(queries, f"{config.split_seed}/{name}")[:count])
        pieces[name] = Piece(
            train.rows, train.labels, [row for row in train.chosen if train.rows.texts[row] in held]
        )
        train.chosen = [row for row in train.chosen if train.rows.texts[row] not in held]
        queries = [query for query in queries if query not in held]


def take_queries(pieces: dict[str, Piece], config: DataConfig) -> None:
    """At most as many rows as ``max_*_samples`` say, whole queries, and at least one.

    Raises:
        DataError: no query of validation or test has a relevant text.
    """
    limits = {
        "train": config.max_train_samples,
        "validation": config.max_validation_samples,
        "test": config.max_test_samples,
    }
    for name, limit in limits.items():
        piece = pieces[name]
        if limit is not None and limit < len(piece.chosen):
            seed = f"{config.split_seed}/subset/{name}"
            kept = set(within(piece.texts, limit, seed))
            piece.chosen = [row for row in piece.chosen if piece.rows.texts[row] in kept]
    for name in ("validation", "test"):
        if not has_relevant(pieces[name]):
            raise nothing_to_find(name, pieces[name].rows.source)


def within(texts: Sequence[str], limit: int, seed: str) -> list[str]:
    """Queries drawn at random whose rows are at most ``limit``, at least one query."""
    counts: dict[str, int] = {}
    for query in texts:
        counts[query] = counts.get(query, 0) + 1
    kept: list[str] = []
    rows = 0
    for query in _shuffled(list(counts), seed):
        if kept and rows + counts[query] > limit:
            continue
        kept.append(query)
        rows += counts[query]
    return kept


def has_relevant(piece: Piece) -> bool:
    """Whether any text of a piece is relevant to its query."""
    return any(label[0] >= RELEVANT for label in piece.chosen_labels)


def nothing_to_find(name: str, source: str) -> DataError:
    """The error of a split without a relevant text."""
    return DataError(
        f"{name} ({source}) holds no relevant text (a label of at least half the highest), so "
        "there is nothing to find: give rows that hold some"
    )


def together(piece: Piece) -> list[int]:
    """A piece's rows, those of a query one after the other."""
    place: dict[str, int] = {}
    for query in piece.texts:
        place.setdefault(query, len(place))
    return sorted(piece.chosen, key=lambda row: place[piece.rows.texts[row]])


def with_queries(rows: Dataset, texts: Iterable[str]) -> Dataset:
    """Encoded rows with the column :data:`QUERY_ROW`, int64, numbered as queries first occur."""
    import datasets

    numbers: dict[str, int] = {}
    column = [numbers.setdefault(query, len(numbers)) for query in texts]
    return rows.add_column(QUERY_ROW, column, feature=datasets.Value("int64"))


def query_notices(pieces: Mapping[str, Piece]) -> list[tuple[str, bool]]:
    """What to tell of queries: sentences, and whether each is a warning."""
    train = _by_query(pieces["train"])
    sizes = sorted(len(labels) for labels in train.values())
    relevant = [label >= RELEVANT for labels in train.values() for label in labels]
    found = [
        (
            f"queries in train: {len(train)}, of {sizes[0]} to {sizes[-1]} texts each (median "
            f"{sizes[len(sizes) // 2]}); {sum(relevant) / len(relevant):.1%} of the texts are "
            "relevant",
            False,
        )
    ]
    for name, piece in pieces.items():
        queries = train if name == "train" else _by_query(piece)
        without = [q for q, labels in queries.items() if max(labels) < RELEVANT]
        if without:
            means = "training only tells what they are not" if name == "train" else (
                "metrics leave them out"
            )  # fmt: skip
            found.append(
                (
                    f"{len(without)} of {len(queries)} {name} queries have no relevant text (the "
                    f"first: {_short(without[0])}): {means}",
                    True,
                )
            )
        given = [q for q, labels in queries.items() if min(labels) == max(labels) >= RELEVANT]
        if given and name != "train":
            found.append(
                (
                    f"{len(given)} of {len(queries)} {name} queries have no text that is less "
                    f"relevant than others (the first: {_short(given[0])}): any order of theirs "
                    "is right, which flatters every model",
                    True,
                )
            )
    return found


def _by_query(piece: Piece) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for query, label in zip(piece.texts, piece.chosen_labels, strict=True):
        found.setdefault(query, []).append(label[0])
    return found


def _short(query: str) -> str:
    return repr(query if len(query) <= 60 else f"{query[:57]}...")


def _shuffled(queries: Sequence[str], seed: str) -> list[Any]:
    """In random order, the same on every machine (see ``splits``)."""
    rng = random.Random(seed)
    keys = [rng.random() for _ in queries]
    return [queries[place] for place in sorted(range(len(queries)), key=keys.__getitem__)]
