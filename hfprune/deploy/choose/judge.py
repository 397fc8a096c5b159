"""Whether a faster file still says the same: a decision on paired results of the same rows.

A metric of a few hundred rows is a coarse instrument: 0.002 of 845 rows are 1.7 rows, and harmless
rounding changes more than that either way. So a candidate is refused when it is *shown* to lose too
much; where the metric cannot tell, what the float32 model itself expects does. On a row whose
prediction changed it expects to lose the difference of the two classes' probabilities: next to
nothing where it was undecided anyway; of texts that changed places for a query, the difference of
their shares. That number is steady on few rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from hfprune.core.errors import DataError
from hfprune.deploy.choose.differences import divergence, expected_loss, log_softmax
from hfprune.measure.ranking import expected_ranking_loss

State: TypeAlias = Literal["kept", "undecided", "refused"]
Metric: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], float]
OfRows: TypeAlias = Callable[[NDArray[Any]], float]
Counted: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], OfRows]

# Of each bound: an interval holds the truth with twice this on the outside.
ONE_SIDED = 0.95
GROUPS = 20


@dataclass(frozen=True)
class Evidence:
    """A candidate against float32 on the same rows, served in one way.

    Attributes:
        served: how, in words: ``"one by one"``, ``"batches of 32"``.
        rows: how many.
        drop: what the metric lost; below 0 it gained.
        low, high: bounds of the drop, each one-sided at ``ONE_SIDED``.
        expected: the loss that float32's own probabilities expect, a fraction of rows, of queries
            of their gain; ``nan`` for regression and embeddings.
        expected_low: its lower bound.
        divergence: mean Kullback-Leibler divergence of the candidate from float32, nats; for
            regression the mean squared difference over the variance of float32's answers, for
            embeddings 1 less their cosine.
        changed: rows (of tokens: tokens; of queries: queries) whose prediction is another.
    """

    served: str
    rows: int
    drop: float
    low: float
    high: float
    expected: float
    expected_low: float
    divergence: float
    changed: int


@dataclass(frozen=True)
class Verdict:
    """What follows.

    Attributes:
        state: ``"kept"``: shown to lose no more than is allowed; ``"refused"``: shown to lose more;
            ``"undecided"``: the rows are too few.
        eligible: whether it may be deployed: kept, or undecided and nothing speaks against it.
        why: in words.
        rows_needed: of the undecided: about how many rows would do; ``None`` where none would.
        divergence: the greatest of the evidence, to order equals by.
        drop: of the same.
    """

    state: State
    eligible: bool
    why: str
    rows_needed: int | None
    divergence: float
    drop: float


def gather(
    before: NDArray[Any],
    after: NDArray[Any],
    labels: NDArray[Any],
    metric: Metric,
    *,
    several: bool = False,
    vectors: bool = False,
    greater_is_better: bool = True,
    temperature: float = 1.0,
    served: str = "batches",
    units: NDArray[Any] | None = None,
    counted: Counted | None = None,
) -> Evidence:
    """The evidence that two models' logits on the same rows give.

    The drop's standard error is that of a jackknife over groups of rows (Shao and Wu, A general
    theory for jackknife variance estimation, 1989), with one row more that differs, so that it is
    not nothing where none does (after Agresti and Min, 2005). Embeddings all move a little and
    none jumps: their error is the jackknife's alone.

    Args:
        before, after: logits of float32 and of the candidate, ``[rows, labels]``, of tokens
            ``[rows, longest, labels]``, zero where a row has no more.
        labels: one entry a row, or whatever else ``metric`` takes beside logits.
        metric: of logits and labels.
        several: whether a row may have several labels, each of them yes or no.
        vectors: whether the outputs are embeddings, of which directions count.
        greater_is_better: whether more of the metric is better.
        temperature: by which float32's logits are divided to make its probabilities right; see
            :func:`calibrated_temperature`.
        served: how the candidate was run.
        units: which rows belong together, a number a row; groups are then made of whole units (the
            texts of a query rank among each other). ``None``: each row stands alone.
        counted: makes of logits and labels the metric as a function of row numbers, where that is
            less work than the metric of many choices of rows; ``None``: ``metric`` is asked.

    Raises:
        DataError: there are fewer than two rows, or not as many of each.
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.ndim < 3:  # of tokens, which are many, a part at a time is made so
        before, after = before.astype(np.float64), after.astype(np.float64)
    rows = len(before)
    if before.shape != after.shape or len(labels) != rows or rows < 2:
        raise DataError(
            f"got logits of shapes {before.shape} and {after.shape} and {len(labels)} labels; "
            "expected at least two rows, the same of both models, with one label each"
        )
    sign = 1.0 if greater_is_better else -1.0

    def of_rows(logits: NDArray[Any]) -> OfRows:
        if counted is not None:
            return counted(logits, labels)
        return lambda chosen: metric(logits[chosen], labels[chosen])

    first, second = of_rows(before), of_rows(after)

    def lost(chosen: NDArray[Any]) -> float:
        return sign * (first(chosen) - second(chosen))

    drop = lost(np.arange(rows))
    unit = np.arange(rows) if units is None else np.unique(units, return_inverse=True)[1]
    witnesses = int(unit.max()) + 1
    reach = math.inf  # a single query tells nothing of others
    if witnesses > 1:
        error, groups = _jackknife(lost, unit), min(GROUPS, witnesses)
        row = 0.0 if vectors else 1.0 / witnesses
        reach = float(student.ppf(ONE_SIDED, groups - 1)) * math.hypot(error, row)
    expected, changed = None, 0
    if not vectors and units is not None and before.shape[-1] == 1:
        expected, changed = expected_ranking_loss(before[..., 0], after[..., 0], unit)
    elif not vectors:
        expected, changed = expected_loss(before, after, several=several, temperature=temperature)
    mean, below = math.nan, math.nan
    if expected is not None:
        mean = float(expected.mean())
        below = mean - _quantile() * float(expected.std()) / math.sqrt(len(expected))
    return Evidence(
        served=served,
        rows=rows,
        drop=drop,
        low=drop - reach,
        high=drop + reach,
        expected=mean,
        expected_low=below,
        divergence=float(divergence(before, after, several=several, vectors=vectors).mean()),
        changed=changed,
    )


def judge(evidence: Sequence[Evidence], max_drop: float, *, in_doubt: bool = False) -> Verdict:
    """Whether a candidate may be deployed.

    Args:
        evidence: one for each way in which it will be served; all have to be right.
        max_drop: what the metric may lose, in the metric's unit.
        in_doubt: whether all that is undecided may be: for what others are compared with, which is
            to be no slower than it has to be.

    Raises:
        DataError: without evidence.
    """
    if not evidence:
        raise DataError("nothing to judge: expected evidence of at least one way of serving")
    found = [_judge_one(one, max_drop, in_doubt) for one in evidence]
    order: dict[State, int] = {"refused": 0, "undecided": 1, "kept": 2}
    worst = min(found, key=lambda v: (order[v.state], v.eligible, -v.divergence))
    needed = [v.rows_needed for v in found if v.state == "undecided"]
    rows_needed = None
    if worst.state == "undecided" and None not in needed:
        rows_needed = max(n for n in needed if n is not None)
    return Verdict(
        state=worst.state,
        eligible=all(v.eligible for v in found),
        why=worst.why,
        rows_needed=rows_needed,
        divergence=max(v.divergence for v in found),
        drop=max(v.drop for v in found),
    )


def _judge_one(found: Evidence, max_drop: float, in_doubt: bool) -> Verdict:
    state: State = "undecided"
    eligible = False
    needed = None
    at = f"{found.served}, {found.rows} rows"
    if found.high <= max_drop:
        state, eligible = "kept", True
        why = f"the metric drops by at most {found.high:.4f} ({at}), allowed is {max_drop:g}"
    elif found.low > max_drop:
        state = "refused"
        why = f"the metric drops by {found.drop:.4f}, allowed is {max_drop:g}"
    elif found.expected_low > max_drop:
        state = "refused"
        why = (
            f"float32 itself expects a loss of {found.expected:.4f} by the {found.changed} "
            f"predictions that changed ({at}), allowed is {max_drop:g}"
        )
    else:
        steady = found.expected if math.isfinite(found.expected) else found.drop
        eligible = in_doubt or steady <= max_drop
        needed = rows_that_would_do(found, max_drop)
        why = (
            f"undecided: the metric drops by {found.drop:.4f} ({found.low:.4f} to {found.high:.4f};"
            f" {at}), allowed is {max_drop:g}; "
            + (f"about {needed} rows would tell" if needed else "no number of rows would tell")
        )
    return Verdict(state, eligible, why, needed, found.divergence, found.drop)


def rows_that_would_do(found: Evidence, max_drop: float) -> int | None:
    """About how many rows would decide an undecided candidate; ``None`` where none would.

    Taken as if its true loss were what float32 expects, else what was measured.
    """
    loss = found.expected if math.isfinite(found.expected) else found.drop
    gap = abs(max_drop - loss)
    reach = (found.high - found.low) / 2
    if gap < reach / 100:
        return None
    return math.ceil(found.rows * (reach / gap) ** 2)


def calibrated_temperature(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """The number to divide logits by so that probabilities say how often they are right.

    Guo et al., On calibration of modern neural networks, 2017. For one label a row.

    Args:
        logits: float32's, ``[rows, labels]``.
        labels: ints ``[rows]``.

    Returns:
        At least 0.25 and at most 8.
    """
    from scipy.optimize import minimize_scalar

    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    places = np.arange(len(truth))

    def surprise(logarithm: float) -> float:
        return -float(log_softmax(values / math.exp(logarithm))[places, truth].mean())

    found = minimize_scalar(surprise, bounds=(math.log(0.25), math.log(8.0)), method="bounded")
    return math.exp(float(found.x))


def _jackknife(statistic: Callable[[NDArray[Any]], float], unit: NDArray[Any]) -> float:
    groups = min(GROUPS, int(unit.max()) + 1)
    # Rows are often sorted by label: each group takes one in so many.
    member = unit % groups
    found = np.array([statistic(np.flatnonzero(member != group)) for group in range(groups)])
    return math.sqrt((groups - 1) / groups * float(np.square(found - found.mean()).sum()))


def _quantile() -> float:
    return NormalDist().inv_cdf(ONE_SIDED)
