"""Rows of like length, or of one query, together, in an order that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from hfprune.core.errors import TrainingError
from hfprune.data.candidates import QUERY_ROW


def in_fixed_order(sampler: Any, args: Any) -> Any:
    """A Trainer's sampler; where it groups rows by length, in an order that can be resumed.

    Args:
        args: the ``TrainingArguments``.
    """
    if not isinstance(sampler, LengthGroupedSampler):
        return sampler
    # Groups of what all processes take in one step: the order is that of a single process with as
    # many times the batch.
    sampler.batch_size *= args.world_size
    return GroupedByLength(sampler, args.seed if args.data_seed is None else args.data_seed)


def evaluated_in_order(sampler: Any) -> Any:
    """A Trainer's sampler of rows to evaluate; where it groups them by length, one that is known.

    Predictions come in its order, and whoever compares them row by row must know which are whose.
    """
    if not isinstance(sampler, LengthGroupedSampler):
        return sampler
    return LongestFirst(np.asarray(sampler.lengths))


def order_of(sampler: Any, rows: int) -> NDArray[np.int64]:
    """In which order a sampler of :func:`evaluated_in_order` gives so many rows."""
    return sampler.order if isinstance(sampler, LongestFirst) else np.arange(rows)


def has_queries(dataset: Any) -> bool:
    """Whether rows say of which query they are: in a column, or as the first row has it."""
    columns = getattr(dataset, "column_names", None)
    if columns is None and isinstance(dataset, Sequence) and len(dataset):
        columns = list(dataset[0]) if isinstance(dataset[0], Mapping) else None
    return QUERY_ROW in (columns or ())


def by_query(dataset: Any, args: Any) -> GroupedByQuery:
    """A sampler that keeps a query's rows together.

    Args:
        dataset: of rows with the column ``query_row``.
        args: the ``TrainingArguments``.

    Raises:
        TrainingError: it has no such column.
    """
    columns = getattr(dataset, "column_names", None) or ()
    if QUERY_ROW not in columns:
        raise TrainingError(
            f"the training rows have the columns {', '.join(columns) or 'none'}: what compares the "
            f"texts of a query needs {QUERY_ROW!r}, the number of each row's query"
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    return GroupedByQuery(np.asarray(dataset[QUERY_ROW][:]), args.train_batch_size, seed)


class GroupedByQuery(Sampler[int]):
    """Queries in random order, each with all its rows, in batches that cut as few as can be.

    A query that does not fit into what is left of a batch is passed over for one that does, and cut
    where none does: nowhere, if the batch size is a multiple of the queries' rows. The order
    follows from seed and epoch alone.

    Args:
        queries: int64 ``(rows,)``, the number of each row's query.
        batch_size: rows of a batch.
        seed: of the order.
    """

    def __init__(self, queries: NDArray[Any], batch_size: int, seed: int) -> None:
        order = np.argsort(queries, kind="stable")
        _, sizes = np.unique(queries, return_counts=True)
        self._rows = np.split(order, np.cumsum(sizes)[:-1])
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def __iter__(self) -> Iterator[int]:
        for rows in self._queries():
            yield from rows.tolist()

    def cut(self) -> str | None:
        """What to tell of queries whose texts come in several batches; ``None`` if none do.

        They are counted in the order of the epoch that comes next.
        """
        size, begin, count = self._batch_size, 0, 0
        for rows in self._queries():
            count += begin % size + len(rows) > size
            begin += len(rows)
        if not count:
            return None
        sizes = sorted({len(rows) for rows in self._rows})
        other = (
            f"a multiple of {sizes[0]}" if len(sizes) == 1 else
            f"{sizes[-1]} or more" if sizes[-1] > size else "more, for fewer of them"
        )  # fmt: skip
        return (
            f"{count} of {len(self._rows)} queries do not fit whole into a batch of {size} rows (a "
            f"query has {' to '.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))} texts), and "
            "only texts of a query that are in one batch are compared: set "
            f"per_device_train_batch_size to {other}"
        )

    def _queries(self) -> Iterator[NDArray[Any]]:
        """The rows of each query, in the order of the epoch."""
        rng = np.random.default_rng((self._seed, self._epoch))
        # By size, the next one last.
        waiting: dict[int, list[NDArray[Any]]] = {}
        for place in rng.permutation(len(self._rows)):
            waiting.setdefault(len(self._rows[place]), []).append(self._rows[place])
        left = self._batch_size
        while waiting:
            fitting = [size for size in waiting if size <= left] or list(waiting)
            # As often as there are queries of the size.
            counts = np.array([len(waiting[size]) for size in fitting], dtype=np.float64)
            size = fitting[int(rng.choice(len(fitting), p=counts / counts.sum()))]
            rows = waiting[size].pop()
            if not waiting[size]:
                del waiting[size]
            yield rows
            left -= len(rows)
            while left <= 0:
                left += self._batch_size


class LongestFirst(Sampler[int]):
    """Rows by falling length; of equals in their own order.

    Attributes:
        order: int64 ``(rows,)``, the numbers of the rows as they come.

    Args:
        lengths: int ``(rows,)``.
    """

    def __init__(self, lengths: NDArray[Any]) -> None:
        self.order: NDArray[np.int64] = np.argsort(-lengths, kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())


class GroupedByLength(Sampler[int]):
    """Rows of like length together, in an order that follows from seed and epoch alone.

    The Trainer's own draws from the global generator. So a run resumed within an epoch would see
    other batches than the first one did, and several processes, whose generators have drifted apart
    by the second epoch, would cut their shares out of different orders.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        self._sampler.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(self._sampler)
