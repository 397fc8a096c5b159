"""Structured OBS: units ranked and removed, the weight repaired (ZipLM, Kurtic et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hfprune.core.errors import DataError, PlanError
from hfprune.pruning.obs.checks import (
    check_indices,
    check_mask,
    check_stops,
    check_units,
    check_weight,
)

# A removed unit is folded into the inverse once per this many removals (one matrix product
# instead of as many rank-1 passes over the whole matrix).
_LAZY_REMOVALS = 64

# An entry of the inverse that has shrunk below this share of its last exact value has lost about
# half of float64's digits: it is computed afresh before it is relied on.
_COLLAPSED = 1e-8
_ILL_CONDITIONED = (
    "hessian is not positive definite to working precision; use a larger damping_ratio or more"
    " scoring batches"
)


@dataclass(frozen=True)
class ObsLevel:
    """One stop of :func:`obs_prune`.

    Attributes:
        kept: (k,) int64, the kept units, ascending.
        weight: (o, k * unit_size) float32, the repaired weight of their columns.
        error: ``||W' X - W X||_F / ||W X||_F``, in [0, 1]: 0 with everything kept, 1 with nothing.
    """

    kept: Tensor
    weight: Tensor
    error: float


@dataclass(frozen=True)
class ObsResult:
    """What :func:`obs_prune` found.

    Attributes:
        order: (removed,) int64, the units in the order of their removal.
        scores: (removed,) float64, what each removal added to ``tr(D H D^T)``, where ``D`` is the
            change of the weight; never negative.
        levels: one per entry of ``stop_at``, in that order.
    """

    order: Tensor
    scores: Tensor
    levels: tuple[ObsLevel, ...]


@torch.no_grad()
def obs_prune(
    weight: Tensor,
    hessian: Tensor,
    unit_size: int,
    *,
    stop_at: Sequence[int],
    protected: Tensor | None = None,
    damping: float = 0.0,
) -> ObsResult:
    """Remove units one at a time, each time the one whose loss costs least, and repair the rest.

    Structured Optimal Brain Surgeon as in ZipLM (Kurtic et al. 2023). With ``S`` the columns of a
    unit, its score is ``sum_i W[i,S] (H^-1[S,S])^-1 W[i,S]^T``; its removal changes the weight by
    ``-W[:,S] (H^-1[S,S])^-1 H^-1[S,:]`` and is eliminated from ``H^-1``. Worked value: with
    ``H = [[2, 1], [1, 2]]`` and ``W = [[1, 3]]`` the scores are 1.5 and 13.5; unit 0 goes, and the
    weight of unit 1 becomes 3 + 1 * 1/2 = 3.5.

    The order comes from that recursion; the weight of a level is then solved for directly from
    ``H`` (it is the same minimiser), so that rounding does not add up along the way.

    Args:
        weight: (o, d) of the output projection.
        hessian: (d, d), symmetric and positive definite, see :meth:`SecondMoment.hessian`.
        unit_size: columns a unit.
        stop_at: numbers of kept units, strictly descending; removal ends at the last one.
        protected: (d / unit_size,) bool, units that must stay.
        damping: the part of the diagonal of ``hessian`` that is damping
            (:meth:`SecondMoment.damping`); it is left out of the reported errors.

    Returns:
        The order of removal, the scores, and for each level the kept units, weight and error.

    Raises:
        PlanError: on shapes that do not fit, or levels that cannot be reached.
        DataError: if the Hessian is not symmetric and positive definite, or not finite.
    """
    problem = _problem(weight, hessian, unit_size, damping)
    units = hessian.shape[0] // unit_size
    mask = check_mask(protected, units, hessian.device)
    stops = check_stops(stop_at, units, int(mask.sum()))
    removals = units - stops[-1]
    remove = _remove_columns if unit_size == 1 else _remove_units
    order, scores = remove(problem, removals, mask)
    levels = tuple(_level(problem, order[: units - kept], damping) for kept in stops)
    device = hessian.device
    return ObsResult(
        order=torch.tensor(order, dtype=torch.int64, device=device),
        scores=torch.tensor(scores, dtype=torch.float64, device=device),
        levels=levels,
    )


@torch.no_grad()
def repair(
    weight: Tensor, hessian: Tensor, unit_size: int, kept: Tensor, *, damping: float = 0.0
) -> ObsLevel:
    """Make up for the loss of all units but those kept, however they were chosen.

    Args:
        weight, hessian, unit_size, damping: as for :func:`obs_prune`.
        kept: (k,) int64, ascending.

    Returns:
        The level that :func:`obs_prune` would have given had it kept these units. With the Hessian
        of the example there and unit 1 kept: weight 3.5.

    Raises:
        PlanError, DataError: as :func:`obs_prune`.
    """
    problem = _problem(weight, hessian, unit_size, damping)
    units = hessian.shape[0] // unit_size
    stay = set(check_indices(kept, units, "units").tolist())
    return _level(problem, [unit for unit in range(units) if unit not in stay], damping)


def _problem(weight: Tensor, hessian: Tensor, unit_size: int, damping: float) -> _Problem:
    """Check the arguments that :func:`obs_prune` and :func:`repair` share."""
    check_units(check_weight(weight, hessian, "hessian"), unit_size)
    if not damping >= 0:
        raise PlanError(f"damping is {damping}; expected a number >= 0")
    matrix = hessian.detach().to(torch.float64)
    scale = float(matrix.abs().max()) if bool(matrix.isfinite().all()) else float("nan")
    if not scale < float("inf") or not bool(weight.isfinite().all()):
        raise DataError("weight or hessian holds values that are not finite")
    if float((matrix - matrix.T).abs().max()) > 1e-5 * scale:
        raise DataError("hessian is not symmetric; expected 2 X X^T / n + lambda I")
    matrix = (matrix + matrix.T) / 2
    dense = weight.detach().to(matrix)
    return _Problem(matrix, dense, dense @ matrix, unit_size)


@dataclass(frozen=True)
class _Problem:
    """The fixed matrices of one :func:`obs_prune`: H (d, d), W (o, d), W H (o, d)."""

    hessian: Tensor
    weight: Tensor
    product: Tensor
    unit_size: int

    def columns(self, units: Tensor) -> Tensor:
        """(k,) units -> (k * unit_size,) columns."""
        offsets = torch.arange(self.unit_size, device=units.device)
        return (units[:, None] * self.unit_size + offsets).flatten()

    def factor(self, columns: Tensor) -> Tensor:
        """Lower Cholesky factor of H restricted to ``columns``."""
        lower: Tensor
        lower, info = torch.linalg.cholesky_ex(self.hessian[columns[:, None], columns])
        if int(info) != 0:
            raise DataError(_ILL_CONDITIONED)
        return lower

    def solve(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The best weight with only ``columns`` left, transposed (k, o), and the factor (k, k).

        ||W' X - W X||^2 in the metric of H is least where (W' - W) H is zero on the kept columns.
        """
        lower = self.factor(columns)
        return torch.cholesky_solve(self.product[:, columns].T, lower), lower


def _remove_columns(
    problem: _Problem, removals: int, protected: Tensor
) -> tuple[list[int], list[float]]:
    """Order and scores for units of one column, with the updates of a run of removals delayed.

    Within a run, the inverse is ``inverse - U^T U`` and the transposed weight ``weight - U^T A``,
    where removal ``t`` wrote row ``t`` of U (the pivot's row of the current inverse over the root
    of its pivot) and of A (the removed row of the weight over the same root). Scores need only
    the diagonal and the row norms, which are kept up to date.
    """
    order: list[int] = []
    scores: list[float] = []
    alive = torch.arange(problem.hessian.shape[0], device=problem.hessian.device)
    refresh = True
    refreshed_at = 0
    while len(order) < removals:
        if refresh or 2 * len(alive) <= refreshed_at:
            weight, lower = problem.solve(alive)  # (k, o), (k, k)
            inverse = torch.cholesky_inverse(lower)
            exact = inverse.diagonal().clone()
            refreshed_at, refresh = len(alive), False
        diagonal = inverse.diagonal().clone()
        norms = weight.square().sum(1)
        # An infinite norm is an infinite score: never chosen.
        norms[protected[alive]] = float("inf")
        steps = min(_LAZY_REMOVALS, removals - len(order))
        rows = weight.new_empty(steps, len(alive))  # U
        taken = weight.new_empty(steps, weight.shape[1])  # A
        gone: list[int] = []
        for step in range(steps):
            # A collapsed entry counts as the floor: its score is then a lower bound, so that it
            # is looked at exactly (after a refresh) before anything is chosen over it.
            floor = exact * _COLLAPSED
            candidates = norms.clamp_min(0.0) / torch.maximum(diagonal, floor)
            pivot = int(candidates.argmin())
            if bool(diagonal[pivot] < floor[pivot]):
                refresh = True
                break
            past, past_taken = rows[:step], taken[:step]
            row = torch.addmv(inverse[pivot], past.T, past[:, pivot], alpha=-1.0)
            root = row[pivot].sqrt()
            torch.div(row, root, out=rows[step])
            removed = torch.addmv(weight[pivot], past_taken.T, past[:, pivot], alpha=-1.0) / root
            taken[step] = removed
            # |w - u a|^2 = |w|^2 - 2 u (w.a) + u^2 |a|^2 for every row w of the current weight
            current = torch.addmv(weight @ removed, past.T, past_taken @ removed, alpha=-1.0)
            size = removed @ removed
            norms -= rows[step] * (2.0 * current - rows[step] * size)
            diagonal -= rows[step].square()
            norms[pivot] = float("inf")
            diagonal[pivot] = 1.0
            gone.append(pivot)
            order.append(int(alive[pivot]))
            scores.append(float(size))
        left = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        left[gone] = False
        alive, exact = alive[left], exact[left]
        if not refresh and 2 * len(alive) > refreshed_at:
            kept_rows = rows[:, left]
            inverse = inverse[left][:, left].addmm_(kept_rows.T, kept_rows, alpha=-1.0)
            weight = weight[left].addmm_(kept_rows.T, taken, alpha=-1.0)
    return order, scores


def _remove_units(
    problem: _Problem, removals: int, protected: Tensor
) -> tuple[list[int], list[float]]:
    """Order and scores for units of several columns (heads): few, so each step is direct."""
    size = problem.unit_size
    order: list[int] = []
    scores: list[float] = []
    alive = torch.arange(problem.hessian.shape[0] // size, device=problem.hessian.device)
    refresh = True
    while len(order) < removals:
        if refresh:
            weight, lower = problem.solve(problem.columns(alive))
            inverse = torch.cholesky_inverse(lower)
        count = len(alive)
        # (count, size, size): H^-1[S, S] of every unit
        blocks = inverse.view(count, size, count, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        factors, info = torch.linalg.cholesky_ex(blocks)
        pivots = factors.diagonal(dim1=1, dim2=2).square()
        if refresh:
            exact = pivots
        if bool((info != 0).any()) or bool((pivots < exact * _COLLAPSED).any()):
            if refresh:
                raise DataError(_ILL_CONDITIONED)
            refresh = True
            continue
        # W[:, S] in the metric of (H^-1[S, S])^-1, transposed: (count, size, o)
        whitened = torch.linalg.solve_triangular(factors, weight.view(count, size, -1), upper=False)
        candidates = whitened.square().sum((1, 2))
        candidates[protected[alive]] = float("inf")
        pivot = int(candidates.argmin())
        order.append(int(alive[pivot]))
        scores.append(float(candidates[pivot]))

        columns = slice(pivot * size, (pivot + 1) * size)
        rows = torch.linalg.solve_triangular(factors[pivot], inverse[columns], upper=False)
        left = torch.ones(count, dtype=torch.bool, device=alive.device)
        left[pivot] = False
        kept = left.repeat_interleave(size)
        kept_rows = rows[:, kept]
        inverse = inverse[kept][:, kept].addmm_(kept_rows.T, kept_rows, alpha=-1.0)
        weight = weight[kept].addmm_(kept_rows.T, whitened[pivot], alpha=-1.0)
        alive, exact, refresh = alive[left], exact[left], False
    return order, scores


def _level(problem: _Problem, removed: list[int], damping: float) -> ObsLevel:
    """Weight and error with the units ``removed`` gone."""
    hessian, dense, product = problem.hessian, problem.weight, problem.product
    features = hessian.shape[0]
    left = torch.ones(features // problem.unit_size, dtype=torch.bool, device=hessian.device)
    left[removed] = False
    kept = left.nonzero().flatten()
    if not removed:
        return ObsLevel(kept, dense.to(torch.float32), 0.0)
    columns = problem.columns(kept)
    lost = problem.columns((~left).nonzero().flatten())
    if len(kept):
        weight = problem.solve(columns)[0].T  # (o, k)
    else:
        weight = dense[:, :0]
    # D = W' - W has (D H) zero on the kept columns and D = -W on the lost ones, so that
    # tr(D H D^T) = sum over the lost columns of W * (W H - W' H).
    remainder = product[:, lost] - weight @ hessian[columns[:, None], lost]
    change = float((dense[:, lost] * remainder).sum())
    total = float((dense * product).sum())
    if damping > 0:
        moved = (weight - dense[:, columns]).square().sum() + dense[:, lost].square().sum()
        change -= damping * float(moved)
        total -= damping * float(dense.square().sum())
    ratio = change / total if total > 0 else 0.0
    error = min(1.0, max(0.0, ratio)) ** 0.5
    return ObsLevel(kept, weight.to(torch.float32).contiguous(), error)
