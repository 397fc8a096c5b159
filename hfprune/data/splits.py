"""Rows held out, and limits: functions of the seed alone."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.labels import ONE_LABEL
from hfprune.data.readers.table import Rows

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


@dataclass
class Piece:
    """Rows of a source, chosen by number, with their labels in final form."""

    rows: Rows
    labels: list[Any]
    chosen: list[int]

    @property
    def texts(self) -> list[Any]:
        return [self.rows.texts[row] for row in self.chosen]

    @property
    def text_pairs(self) -> list[str] | None:
        pairs = self.rows.text_pairs
        return None if pairs is None else [pairs[row] for row in self.chosen]

    @property
    def chosen_labels(self) -> list[Any]:
        return [self.labels[row] for row in self.chosen]

    def contents(self) -> list[tuple[str, ...]]:
        """Return each row's text, pair of texts, or words."""
        pairs = self.text_pairs
        if self.texts and isinstance(self.texts[0], list):
            return [tuple(words) for words in self.texts]
        if pairs is None:
            return [(text,) for text in self.texts]
        return list(zip(self.texts, pairs, strict=True))


def hold_out(pieces: dict[str, Piece], config: DataConfig, task: Task) -> None:
    """Add the splits that the recipe does not name, out of train."""
    fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
    train = pieces["train"]
    all_rows = len(train.chosen)
    for name, fraction in fractions.items():
        if name in pieces:
            continue
        total = len(train.chosen)
        count = max(1, round(fraction * all_rows))
        if count >= total:
            raise DataError(
                f"train ({train.rows.source}) has {all_rows} rows: too few to hold out {count} for "
                f"{name} (data.{name}_fraction = {fraction}) and still train. Give more rows, or a "
                f"{name} file or split"
            )
        groups = _groups(train.chosen_labels, task)
        sizes = [len(group) for group in groups]
        # Every class keeps a row in train; where there are not rows enough, the draw is plain.
        if sum(sizes) - len(sizes) < count:
            groups = [list(range(total))]
        places = _draw(groups, count, f"{config.split_seed}/{name}", keep_one=True)
        held = set(places)
        pieces[name] = Piece(train.rows, train.labels, [train.chosen[place] for place in places])
        train.chosen = [row for place, row in enumerate(train.chosen) if place not in held]


def take_subsets(pieces: dict[str, Piece], config: DataConfig, task: Task) -> None:
    limits = {
        "train": config.max_train_samples,
        "validation": config.max_validation_samples,
        "test": config.max_test_samples,
    }
    for name, limit in limits.items():
        piece = pieces[name]
        if limit is None or limit >= len(piece.chosen):
            continue
        groups = _groups(piece.chosen_labels, task)
        places = _draw(groups, limit, f"{config.split_seed}/subset/{name}", keep_one=False)
        piece.chosen = [piece.chosen[place] for place in places]
    train = pieces["train"]
    if task in ONE_LABEL and len(set(train.chosen_labels)) == 1:
        limit = config.max_train_samples
        cut = "" if limit is None else f" and the limit data.max_train_samples = {limit}"
        raise DataError(
            f"train ({train.rows.source}): after held-out rows{cut}, only one class is left to "
            f"train on (rows: {len(train.chosen)}); a classifier needs at least two: give more "
            "rows, or raise the limit"
        )


def _groups(labels: Sequence[Any], task: Task) -> list[list[int]]:
    """Group row places by class; one group where classes do not part the rows."""
    if task not in ONE_LABEL:
        return [list(range(len(labels)))]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        groups[label].append(place)
    return [groups[label] for label in sorted(groups)]  # type: ignore[type-var]  # all int


def _draw(groups: Sequence[Sequence[int]], count: int, seed: str, keep_one: bool) -> list[int]:
    """Draw ``count`` places, each group in proportion to its size; returns them ascending.

    With ``keep_one`` every group keeps at least one place undrawn; without it, every group gives at
    least one where ``count`` allows.
    """
    total = sum(map(len, groups))
    limits = [len(group) - keep_one for group in groups]
    quotas = [count * len(group) / total for group in groups]
    floor = 1 if not keep_one and count >= len(groups) else 0
    counts = [min(max(int(q), floor), top) for q, top in zip(quotas, limits, strict=True)]
    # The largest remainder gets the next place; after a floor of one, the most overfull gives one.
    while sum(counts) < count:
        best = max(
            (place for place in range(len(groups)) if counts[place] < limits[place]),
            key=lambda place: (quotas[place] - counts[place], -place),
        )
        counts[best] += 1
    while sum(counts) > count:
        worst = max(
            (place for place in range(len(groups)) if counts[place] > floor),
            key=lambda place: (counts[place] - quotas[place], -place),
        )
        counts[worst] -= 1
    rng = random.Random(seed)
    drawn: list[int] = []
    for group, number in zip(groups, counts, strict=True):
        # Sorting by random() and not shuffle(): only random() is the same on every Python.
        keys = [rng.random() for _ in group]
        order = sorted(range(len(group)), key=keys.__getitem__)
        drawn += [group[place] for place in order[:number]]
    return sorted(drawn)
