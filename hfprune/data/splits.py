"""Rows held out, and limits: functions of the seed alone."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final

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

    def contents(self) -> Sequence[Hashable]:
        """Return each row's text, pair of texts, or words; what is equal is a copy."""
        texts, pairs = self.texts, self.text_pairs
        if texts and isinstance(texts[0], list):
            return [tuple(words) for words in texts]
        return texts if pairs is None else list(zip(texts, pairs, strict=True))


# Rows without which a task cannot be measured: similarities of embeddings are put in order, and two
# texts have but one.
FEWEST: Final[Mapping[Task, int]] = {"sentence_embedding": 3}

# So many copies of a content are never too many for a held-out split.
_FEW_COPIES: Final = 4


def hold_out(pieces: dict[str, Piece], config: DataConfig, task: Task) -> None:
    """Add the splits that the recipe does not name, out of train; copies of a text stay together.

    The share is exact where every text stands once. With copies it is as near as whole groups of
    copies allow; only where every class is copies of one text are they parted.
    """
    fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
    train = pieces["train"]
    all_rows = len(train.chosen)
    for name, fraction in fractions.items():
        if name in pieces:
            continue
        total = len(train.chosen)
        count = max(FEWEST.get(task, 1), round(fraction * all_rows))
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
        seed = f"{config.split_seed}/{name}"
        copies = _copies(train.contents())
        # Where all rows of each class are copies, none can go without one left: a plain draw, and
        # `seen_in_train` tells of it.
        places = _draw_together(groups, count, seed, copies) if copies else []
        places = places or _draw(groups, count, seed, keep_one=True)
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
    for name, piece in pieces.items():
        if len(piece.chosen) < FEWEST.get(task, 1):
            raise DataError(
                f"{name} ({piece.rows.source}) has {len(piece.chosen)} rows, and it takes "
                f"{FEWEST.get(task, 1)} to measure {task.replace('_', ' ')}: give more rows, or "
                f"raise data.max_{name}_samples"
            )
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


def _copies(contents: Sequence[Hashable]) -> dict[int, list[int]]:
    """The places of each content that stands more than once, under each of these places."""
    first: dict[Hashable, int] = {}
    together: dict[int, list[int]] = {}
    for place, content in enumerate(contents):
        begin = first.setdefault(content, place)
        if begin != place:
            together.setdefault(begin, [begin]).append(place)
    return {place: places for places in together.values() for place in places}


def _draw(groups: Sequence[Sequence[int]], count: int, seed: str, keep_one: bool) -> list[int]:
    """Draw ``count`` places, each group in proportion to its size; returns them ascending.

    With ``keep_one`` every group keeps at least one place undrawn; without it, every group gives at
    least one where ``count`` allows.
    """
    counts = _quotas([len(group) for group in groups], count, keep_one)
    drawn: list[int] = []
    for order, number in zip(_shuffled(groups, seed), counts, strict=True):
        drawn += order[:number]
    return sorted(drawn)


def _draw_together(
    groups: Sequence[Sequence[int]], count: int, seed: str, copies: dict[int, list[int]]
) -> list[int]:
    """As :func:`_draw` with ``keep_one``, but places of one content are drawn all or not at all.

    A class's places are gone through in the order in which :func:`_draw` would take them. Copies
    come together, those of other classes too, if that brings the class nearer to its number and
    leaves each class a place undrawn. So a class may give a few places more or fewer. Contents of
    so many copies that a split would be made of little else are taken only where others do not do.
    """
    counts = _quotas([len(group) for group in groups], count, keep_one=True)
    group_of = {place: number for number, group in enumerate(groups) for place in group}
    limits = [len(group) - 1 for group in groups]
    taken = [0] * len(groups)
    drawn: set[int] = set()
    # Of each content, so that what is refused is not counted anew at each of its copies.
    counted: dict[int, Counter[int]] = {}

    def take(place: int, most: float) -> bool:
        """Take a place and its copies, if they are below ``most`` places of this class."""
        if place in drawn:
            return False
        unit = copies.get(place, [place])
        if unit[0] not in counted:
            counted[unit[0]] = Counter(group_of[one] for one in unit)
        adds = counted[unit[0]]
        if adds[group_of[place]] >= most or any(
            taken[group] + more > limits[group] for group, more in adds.items()
        ):
            return False
        drawn.update(unit)
        for group, more in adds.items():
            taken[group] += more
        return True

    for number, order in enumerate(_shuffled(groups, seed)):
        for most in (max(_FEW_COPIES, counts[number] // 10), len(group_of)):
            for place in order:
                missing = counts[number] - taken[number]
                if missing <= 0:
                    break
                if len(copies.get(place, ())) <= most:
                    take(place, 2 * missing)
        if counts[number] and not taken[number]:
            # All its texts have many copies: the fewest, if they are not most of the class.
            smallest = min(order, key=lambda place: len(copies.get(place, ())))
            take(smallest, len(order) / 2 + 1)
    return sorted(drawn)


def _quotas(sizes: Sequence[int], count: int, keep_one: bool) -> list[int]:
    """How many places of ``count`` each group gives; see :func:`_draw`."""
    total = sum(sizes)
    limits = [size - keep_one for size in sizes]
    quotas = [count * size / total for size in sizes]
    floor = 1 if not keep_one and count >= len(sizes) else 0
    counts = [min(max(int(q), floor), top) for q, top in zip(quotas, limits, strict=True)]
    # The largest remainder gets the next place; after a floor of one, the most overfull gives one.
    step = 1 if sum(counts) < count else -1

    def waits(place: int) -> bool:
        return counts[place] < limits[place] if step > 0 else counts[place] > floor

    queue = [
        (step * (counts[place] - quotas[place]), place)
        for place in range(len(sizes))
        if waits(place)
    ]
    heapify(queue)
    for _ in range(abs(count - sum(counts))):
        place = heappop(queue)[1]
        counts[place] += step
        if waits(place):
            heappush(queue, (step * (counts[place] - quotas[place]), place))
    return counts


def _shuffled(groups: Sequence[Sequence[int]], seed: str) -> Iterator[list[int]]:
    """Each group in random order, the same on every machine."""
    rng = random.Random(seed)
    for group in groups:
        # Sorting by random() and not shuffle(): only random() is the same on every Python.
        keys = [rng.random() for _ in group]
        yield [group[place] for place in sorted(range(len(group)), key=keys.__getitem__)]
