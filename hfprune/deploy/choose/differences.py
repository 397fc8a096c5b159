"""How far the answers of a model are from those of another on the same rows.

Of tokens only those that are real are looked at, a part of the rows at a time: all of them at once,
in float64 and with their probabilities, take some ten times the memory of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.arrays import row_parts
from hfprune.measure.embeddings import directions

Floats = NDArray[np.float64]


def expected_loss(
    before: NDArray[Any],
    after: NDArray[Any],
    *,
    several: bool = False,
    temperature: float = 1.0,
) -> tuple[NDArray[np.float64] | None, int]:
    """The loss of accuracy that the first model's own probabilities expect, row by row.

    Where the prediction stays it is 0; where it changes, the probability of the class that was
    predicted minus that of the new one. Were the probabilities right, its mean would be the true
    loss.

    Args:
        before, after: logits, ``[rows, labels]``, of tokens ``[rows, longest, labels]``, zero where
            a row has no more.
        several: whether a row may have several labels, each of them yes or no.
        temperature: what logits are divided by first.

    Returns:
        float64 ``[rows]`` in [0, 1] (of tokens and of several labels the mean over a row), or
        ``None`` for regression; and how many predictions changed.
    """
    if before.shape[-1] == 1:
        return None, 0
    if before.ndim == 3:
        return _loss_of_tokens(before, after, temperature)
    before, after = before / temperature, after / temperature
    if several:
        share = _sigmoid(before)
        flips = (before > 0) != (after > 0)
        return (np.abs(2 * share - 1) * flips).mean(axis=-1), int(flips.sum())
    return _loss(before, after)


def divergence(
    before: NDArray[Any], after: NDArray[Any], *, several: bool = False, vectors: bool = False
) -> NDArray[np.float64]:
    """How far the second model's answers are from the first's, row by row (:class:`Evidence`)."""
    if vectors:
        return np.asarray(1.0 - _cosines(before, after))
    if before.shape[-1] == 1:
        spread = max(float(np.var(before)), 1e-12)
        found: NDArray[np.float64] = np.square(after - before)[..., 0] / spread
        return found
    if several:
        share = _sigmoid(before)
        gap = before - after
        # log sigmoid(x) - log sigmoid(y), without the overflow of either.
        yes = np.logaddexp(0, -after) - np.logaddexp(0, -before)
        return np.asarray((share * yes + (1 - share) * (yes - gap)).sum(axis=-1))
    if before.ndim == 3:
        return np.concatenate(
            [
                _mean_of_rows(real, _gap(mine, theirs))
                for real, mine, theirs in tokens(before, after)
            ]
        )
    return _gap(before, after)


def depends_on_batch(
    alone: NDArray[Any],
    together: NDArray[Any],
    *,
    several: bool = False,
    vectors: bool = False,
) -> int:
    """On how many rows the prediction is another when the row is alone than in a batch.

    Regression: rows that differ by more than a thousandth of the answers' spread. Embeddings: rows
    of which 1 less the cosine is more than a thousandth.

    Args:
        alone, together: logits of one file on the same rows, as :func:`gather` takes them.
    """
    if vectors:
        return int((1.0 - _cosines(alone, together) > 1e-3).sum())
    if alone.shape[-1] == 1:
        gap = np.abs(alone - together).reshape(len(alone), -1).max(axis=1)
        return int((gap > 1e-3 * max(float(np.std(alone)), 1e-12)).sum())
    if several:
        return int(((alone > 0) != (together > 0)).reshape(len(alone), -1).any(axis=1).sum())
    differs = alone.argmax(axis=-1) != together.argmax(axis=-1)
    return int(differs.reshape(len(alone), -1).any(axis=1).sum())


def tokens(
    before: NDArray[Any], after: NDArray[Any]
) -> Iterator[tuple[NDArray[np.bool_], Floats, Floats]]:
    """Some rows of ``[rows, longest, labels]`` after others: which tokens are real, and those.

    Yields:
        bool ``[some rows, longest]``, and twice float64 ``[real tokens, labels]``.
    """
    for part in row_parts(before):
        mine = before[part]
        real: NDArray[np.bool_] = np.asarray(mine.any(axis=-1))
        yield real, mine[real].astype(np.float64), after[part][real].astype(np.float64)


def _loss_of_tokens(
    before: NDArray[Any], after: NDArray[Any], temperature: float
) -> tuple[Floats, int]:
    losses, changed = [], 0
    for real, mine, theirs in tokens(before, after):
        loss, count = _loss(mine / temperature, theirs / temperature)
        losses.append(_mean_of_rows(real, loss))
        changed += count
    return np.concatenate(losses), changed


def _mean_of_rows(real: NDArray[np.bool_], values: Floats) -> Floats:
    """Values of the real tokens as their mean over each row, 0 where a row has none."""
    found = np.zeros(real.shape)
    found[real] = values
    return np.asarray(found.sum(axis=-1) / np.maximum(1, real.sum(axis=-1)))


def _loss(before: NDArray[Any], after: NDArray[Any]) -> tuple[Floats, int]:
    """Of ``[rows, labels]``: what is expected to be lost in each row, and how many changed."""
    share, place = _softmax(before), np.arange(len(before))
    old, new = before.argmax(axis=-1), after.argmax(axis=-1)
    return share[place, old] - share[place, new], int((old != new).sum())


def _gap(before: NDArray[Any], after: NDArray[Any]) -> Floats:
    """Of ``[rows, labels]``: Kullback-Leibler divergence of each row, nats."""
    gap = log_softmax(before) - log_softmax(after)
    return np.asarray((_softmax(before) * gap).sum(axis=-1))


def _cosines(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray((directions(first) * directions(second)).sum(axis=-1))


def _sigmoid(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), dtype=np.float64)


def log_softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms of the probabilities, over the last axis."""
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.exp(log_softmax(values))
