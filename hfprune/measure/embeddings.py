"""How well embeddings keep what the dense model's say of the same texts.

Of each text there are two embeddings: one that is judged, and the dense model's. Only directions
count: similarities are cosines.

* ``similarity_spearman``: Spearman's correlation of the similarities of each two texts, as the one
  and as the other model has them.
* ``neighbours_at_10``: of each text the 10 nearest others; the fraction of them that are also the
  dense model's (in whose eyes they are at least as near as its tenth), the mean over texts.
* ``mean_cosine``: the mean cosine of a text's two embeddings.

Of more than :data:`MOST` texts the first metric takes so many, evenly spread, and the second asks
for the neighbours of so many among all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import DataError

Array = NDArray[Any]
DEPTH = 10
MOST = 1000
# Of a neighbour that is as near as another up to rounding.
_SAME = 1e-6
# Similarities of some texts to all that are held at once: 32 MB.
_AT_ONCE = 2**22


def asked(rows: int) -> NDArray[np.int64]:
    """The rows whose neighbours and similarities count: at most :data:`MOST`, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, MOST)).round().astype(np.int64))


def directions(embeddings: Array) -> NDArray[np.float64]:
    """Scaled to length 1, float64; what is zero stays zero."""
    values = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    found: NDArray[np.float64] = np.divide(
        values, lengths, out=np.zeros_like(values), where=lengths > 0
    )
    return found


def by_text(name: str, embeddings: Array, dense: Array) -> NDArray[np.float64]:
    """``neighbours_at_10`` or ``mean_cosine`` of each text that is asked about.

    Args:
        embeddings, dense: float ``(texts, width)`` each; widths may differ for the neighbours.

    Returns:
        float64: ``(texts,)`` of the cosine, of neighbours as many as :func:`asked`.

    Raises:
        DataError: other shapes, or fewer than two texts.
    """
    mine, theirs = _pair(embeddings, dense)
    if name == "mean_cosine":
        return np.asarray((mine * theirs).sum(axis=1))
    depth = min(DEPTH, len(mine) - 1)
    found = []
    for chosen in _parts(len(mine)):
        near, truth = _to_others(mine, chosen), _to_others(theirs, chosen)
        picks = np.argpartition(-near, depth - 1, axis=1)[:, :depth]
        least = np.partition(truth, -depth, axis=1)[:, -depth]
        kept = np.take_along_axis(truth, picks, axis=1) >= least[:, None] - _SAME
        found.append(kept.mean(axis=1))
    return np.concatenate(found)


def _parts(rows: int) -> Iterator[NDArray[np.int64]]:
    """The rows that are asked about, so many at a time that memory does not grow with the rows."""
    chosen = asked(rows)
    step = max(1, _AT_ONCE // rows)
    for start in range(0, len(chosen), step):
        yield chosen[start : start + step]


def _to_others(values: Array, chosen: Array) -> NDArray[np.float64]:
    """Similarities of some texts to all, ``(chosen, texts)``; no text is its own neighbour."""
    found: NDArray[np.float64] = values[chosen] @ values.T
    found[np.arange(len(chosen)), chosen] = -np.inf
    return found


def similarities(embeddings: Array, dense: Array) -> tuple[Array, Array]:
    """The similarities of each two texts that are asked about, of the two models.

    Returns:
        Two float64 ``(asked, asked)``; the diagonals mean nothing.
    """
    mine, theirs = _pair(embeddings, dense)
    chosen = asked(len(mine))
    mine, theirs = mine[chosen], theirs[chosen]
    return mine @ mine.T, theirs @ theirs.T


def ranks(similarity: Array) -> NDArray[np.float64]:
    """The rank of each pair's similarity among all pairs, ``(asked, asked)``, 0 in the diagonal."""
    from scipy.stats import rankdata

    places = np.triu_indices(len(similarity), 1)
    found = np.zeros_like(similarity)
    found[places] = rankdata(similarity[places])
    return np.asarray(found + found.T)


def scorer(name: str) -> Callable[[Array, Array], float]:
    """A metric of embeddings and the dense model's of the same texts; see above."""

    def mean(embeddings: Array, dense: Array) -> float:
        return float(by_text(name, embeddings, dense).mean())

    return correlation if name == "similarity_spearman" else mean


def correlation(embeddings: Array, dense: Array) -> float:
    """Spearman's, of similarities; 0.0 where one of them has no spread."""
    mine, theirs = similarities(embeddings, dense)
    weights = np.ones((1, len(mine)))
    return float(weighted(ranks(mine), ranks(theirs), weights)[0])


def weighted(mine: Array, theirs: Array, weights: Array) -> NDArray[np.float64]:
    """Pearson's correlation of two matrices off the diagonal, pairs weighed by their texts.

    Args:
        mine, theirs: symmetric, ``(texts, texts)``, 0 in the diagonal.
        weights: how often each text counts, ``(resamples, texts)``. A text that counts twice makes
            no pair with itself.

    Returns:
        float64 ``(resamples,)``; 0 without spread.
    """

    def total(values: Array) -> Array:
        return np.asarray(((weights @ values) * weights).sum(axis=1))

    pairs = weights.sum(axis=1) ** 2 - np.square(weights).sum(axis=1)
    pairs = np.maximum(pairs, 1.0)
    # Centred first: differences of large sums would lose digits.
    middle = [values.sum() / max(1, values.size - len(values)) for values in (mine, theirs)]
    off = ~np.eye(len(mine), dtype=bool)
    one, two = (mine - middle[0]) * off, (theirs - middle[1]) * off
    means = total(one) / pairs, total(two) / pairs
    both = total(one * two) / pairs - means[0] * means[1]
    spread = (total(one * one) / pairs - means[0] ** 2) * (total(two * two) / pairs - means[1] ** 2)
    found = np.divide(
        both, np.sqrt(np.maximum(spread, 0.0)), out=np.zeros_like(both), where=spread > 1e-12
    )
    return np.asarray(np.clip(found, -1.0, 1.0), dtype=np.float64)


def resampled(name: str, embeddings: Array, dense: Array) -> Callable[[Array], Array]:
    """From numbers of texts ``(resamples, size)`` to the metric of each resample.

    Neighbours are looked for among all texts, and of ``similarity_spearman`` the ranks stay those
    among all pairs: only which texts count is drawn.
    """
    if name != "similarity_spearman":
        values = by_text(name, embeddings, dense)
        return lambda drawn: values[drawn].mean(axis=1)
    mine, theirs = (ranks(values) for values in similarities(embeddings, dense))

    def correlations(drawn: Array) -> Array:
        weights = np.stack([np.bincount(rows, minlength=len(mine)) for rows in drawn])
        return weighted(mine, theirs, weights.astype(np.float64))

    return correlations


def units(name: str, rows: int) -> int:
    """How many texts a resample draws."""
    return rows if name == "mean_cosine" else len(asked(rows))


def embedding_changes(
    before: Array, after: Array, most: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Texts whose neighbours changed; see :func:`hfprune.measure.comparison.changes`.

    Args:
        before, after: embeddings of the same texts, ``(texts, width)``.
        most: how many texts are returned.

    Returns:
        ``rows``: texts that were asked about; ``changed``: those whose nearest text is another;
        ``kept``: the mean fraction of the 10 nearest that stayed. And by text, the most changed
        first: ``row`` (from 1), ``label``, how many neighbours stayed, in words, and ``before`` and
        ``after``, the rows of its nearest text.
    """
    old, new = directions(before), directions(after)
    chosen = asked(len(old))
    kept = by_text("neighbours_at_10", after, before)
    nearest = [
        np.concatenate([_to_others(values, some).argmax(axis=1) for some in _parts(len(old))])
        for values in (old, new)
    ]
    differs = nearest[0] != nearest[1]
    depth = min(DEPTH, len(old) - 1)
    summary = {
        "rows": len(chosen),
        "changed": int(differs.sum()),
        "kept": round(float(kept.mean()), 6),
    }
    found = [
        {
            "row": int(chosen[place]) + 1,
            "label": f"{round(depth * float(kept[place]))} of {depth} neighbours kept",
            "before": int(nearest[0][place]) + 1,
            "after": int(nearest[1][place]) + 1,
        }
        for place in np.argsort(kept, kind="stable")[:most].tolist()
        if kept[place] < 1
    ]
    return summary, found


def _pair(embeddings: Array, dense: Array) -> tuple[Array, Array]:
    mine, theirs = np.asarray(embeddings), np.asarray(dense)
    if mine.ndim != 2 or theirs.ndim != 2 or len(mine) != len(theirs) or len(mine) < 2:
        raise DataError(
            f"embeddings have the shapes {mine.shape} and {theirs.shape}; expected (texts, width) "
            "of the same texts, at least two"
        )
    return directions(mine), directions(theirs)
