"""Least-squares reconstruction of a linear map after some of its inputs are removed.

Everything here is matrices in, matrices out: no model, no layer names. The map is the output
projection of a block, ``y = W x + b`` with ``W`` of shape (o, d), and its ``d`` input columns come
in units of ``unit_size`` neighbours: 1 for a feed-forward neuron, the head dimension for an
attention head. Unit ``u`` owns the columns ``u * unit_size .. (u + 1) * unit_size - 1``.

Reading order: :class:`SecondMoment` collects what is needed of the inputs, :func:`obs_prune` ranks
and removes units while it repairs ``W``, :func:`repair` does so for units chosen elsewhere,
:func:`refit_output` fits ``W`` and ``b`` afresh, :func:`scale_refit` fits one number a unit,
:func:`rearrange_mask` improves a given mask.

Sums and solves run in float64 on the device of their arguments, weights come back as float32:
float32 sums err by about 1e-7 of the largest eigenvalue, which for 1,536 neurons is as large as
the damping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hfprune.errors import DataError, PlanError

__all__ = [
    "ObsLevel",
    "ObsResult",
    "SecondMoment",
    "lstsq_refit",
    "obs_prune",
    "rearrange_mask",
    "refit_output",
    "repair",
    "scale_refit",
]

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
# Columns of X^T X computed at a time: only the upper triangle of these blocks is multiplied out.
_MOMENT_COLUMNS = 256


class SecondMoment:
    """Running sums over inputs ``x`` (and targets ``y``) that least squares needs.

    All attributes are plain float64 sums over tokens, so the sums of several processes add up:
    an in-place all-reduce (sum) of the tensors and the sum of ``count`` give the whole.

    Attributes:
        second: (d, d), sum of ``x x^T``.
        sum_x: (d,), sum of ``x``.
        cross: (d, o), sum of ``x y^T``; None without targets.
        sum_y: (o,), sum of ``y``; None without targets.
        count: sum of the weights: the number of tokens where no weight was given.

    Args:
        features: ``d``, the width of ``x``.
        outputs: ``o``, the width of ``y``; None where no targets will be given.
        device: where the sums live; batches are moved there.
    """

    def __init__(
        self,
        features: int,
        outputs: int | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        if features < 1 or (outputs is not None and outputs < 1):
            raise DataError(
                f"SecondMoment needs at least one feature and one output; got {features} features"
                f" and {outputs} outputs"
            )
        self.second = torch.zeros(features, features, dtype=torch.float64, device=device)
        self.sum_x = torch.zeros(features, dtype=torch.float64, device=device)
        self.cross: Tensor | None = None
        self.sum_y: Tensor | None = None
        if outputs is not None:
            self.cross = torch.zeros(features, outputs, dtype=torch.float64, device=device)
            self.sum_y = torch.zeros(outputs, dtype=torch.float64, device=device)
        self.count: float = 0.0

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            x: (tokens, d), any floating dtype.
            y: (tokens, o); needed exactly when the object was made with ``outputs``.
            weight: (tokens,), not negative: how often each token counts. An attention mask will
                do; tokens of weight 0 are not even read.

        Raises:
            DataError: on a wrong shape, a negative weight, or a value that is not finite.
        """
        features = self.second.shape[0]
        if x.ndim != 2 or x.shape[1] != features:
            raise DataError(f"x has shape {tuple(x.shape)}; expected (tokens, {features})")
        if (y is None) != (self.cross is None):
            raise DataError(
                "y was given to a SecondMoment made without outputs; make it with outputs=o"
                if self.cross is None
                else f"y is missing; this SecondMoment was made with outputs={self.cross.shape[1]}"
            )
        if y is not None and self.cross is not None:
            expected = (x.shape[0], self.cross.shape[1])
            if tuple(y.shape) != expected:
                raise DataError(f"y has shape {tuple(y.shape)}; expected {expected}")
        x = x.detach().to(self.second)
        y = None if y is None else y.detach().to(self.second)
        tokens = float(x.shape[0])
        if weight is not None:
            if tuple(weight.shape) != (x.shape[0],):
                raise DataError(
                    f"weight has shape {tuple(weight.shape)}; expected ({x.shape[0]},), one number"
                    " a token"
                )
            weight = weight.detach().to(self.second)
            if not bool((weight >= 0).all()) or not bool(weight.isfinite().all()):
                raise DataError("weight holds negative or non-finite numbers; they must be >= 0")
            used = weight > 0
            weight = weight[used]
            tokens = float(weight.sum())
            root = weight.sqrt()[:, None]
            x, y = x[used] * root, (None if y is None else y[used] * root)
        else:
            root = x.new_ones(x.shape[0], 1)
        for name, value in (("x", x), ("y", y)):
            if value is not None and not bool(value.isfinite().all()):
                raise DataError(
                    f"{name} holds values that are not finite; the model's activations overflow on"
                    " this batch (float16?): run the scoring batches in float32 or bfloat16"
                )
        for start in range(0, features, _MOMENT_COLUMNS):
            stop = start + _MOMENT_COLUMNS
            self.second[start:stop, start:] += x[:, start:stop].T @ x[:, start:]
            self.second[stop:, start:stop] = self.second[start:stop, stop:].T
        self.sum_x.add_((x * root).sum(0))
        if y is not None and self.cross is not None and self.sum_y is not None:
            self.cross.addmm_(x.T, y)
            self.sum_y.add_((y * root).sum(0))
        self.count += tokens

    def damping(self, damping_ratio: float) -> float:
        """The lambda of :meth:`hessian`: ``damping_ratio`` times the mean of its diagonal."""
        if not damping_ratio >= 0 or damping_ratio == float("inf"):
            raise PlanError(f"damping_ratio is {damping_ratio}; expected a finite number >= 0")
        self._require_tokens()
        mean_diagonal = 2.0 * float(self.second.diagonal().mean()) / self.count
        # Inputs that are zero throughout would leave no damping at all.
        return damping_ratio * (mean_diagonal if mean_diagonal > 0 else 1.0)

    def hessian(self, damping_ratio: float) -> Tensor:
        """``2 X X^T / n + lambda I``, (d, d) float64: the Hessian of the mean squared error.

        lambda is ``damping_ratio`` times the mean diagonal. It keeps the matrix invertible and
        the repaired weights small: about 1e-4 where there are many times ``d`` tokens, up to 1e-2
        where there are fewer tokens than ``d`` or neurons that never fire.
        """
        damping = self.damping(damping_ratio)
        hessian = 2.0 * self.second / self.count
        hessian.diagonal().add_(damping)
        return hessian

    def _require_tokens(self) -> None:
        if self.count <= 0:
            raise DataError("no tokens were added to this SecondMoment; call update first")


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
    mask = _check_mask(protected, units, hessian.device)
    stops = _check_stops(stop_at, units, int(mask.sum()))
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
    stay = set(_check_indices(kept, units, "units").tolist())
    return _level(problem, [unit for unit in range(units) if unit not in stay], damping)


def _problem(weight: Tensor, hessian: Tensor, unit_size: int, damping: float) -> _Problem:
    """Check the arguments that :func:`obs_prune` and :func:`repair` share."""
    _check_units(_check_weight(weight, hessian, "hessian"), unit_size)
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


@torch.no_grad()
def lstsq_refit(kept_moment: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """The weight that maps kept inputs to targets best, from their moments.

    ``argmin_W sum ||W x - y||^2 + ridge * m * ||W||^2`` with ``m`` the mean diagonal of
    ``kept_moment``. Where the moment is rank deficient (and ridge 0), the minimiser of least norm.

    Args:
        kept_moment: (k, k), sum of ``x x^T``.
        cross: (k, o), sum of ``x y^T`` over the same tokens.
        ridge: >= 0, relative.

    Returns:
        (o, k) float32.

    Raises:
        PlanError: on shapes that do not fit or a negative ridge.
        DataError: on values that are not finite.
    """
    return _solve_moments(kept_moment, cross, ridge).T.to(torch.float32).contiguous()


@torch.no_grad()
def refit_output(
    moment: SecondMoment,
    kept: Tensor | None = None,
    *,
    ridge: float = 1e-6,
    fit_bias: bool = True,
) -> tuple[Tensor, Tensor]:
    """Fit the output projection afresh, weight and bias together.

    ``argmin_{W, b} sum ||W x_kept + b - y||^2``, the refit of K-prune (Park et al. 2024). The bias
    is exact and not shrunk: the weight is fitted on centred moments, then
    ``b = mean(y) - W mean(x_kept)``.

    Args:
        moment: sums over ``x`` (d,) and the targets ``y`` (o,).
        kept: (k,) int64, the columns of ``x`` to use; None: all. For units of several columns
            give every column.
        ridge: >= 0, relative to the mean diagonal of the centred moment.
        fit_bias: false for a projection without a bias: ``b`` is then held at 0, and nothing is
            centred.

    Returns:
        weight (o, k) and bias (o,), float32. With no column kept the weight is (o, 0) and the
        bias the mean target.

    Raises:
        PlanError: on columns that do not exist.
        DataError: if the moment has no targets or no tokens.
    """
    if moment.cross is None or moment.sum_y is None:
        raise DataError("refit_output needs targets; make the SecondMoment with outputs=o")
    moment._require_tokens()
    features = moment.second.shape[0]
    columns = torch.arange(features) if kept is None else kept
    columns = _check_indices(columns, features, "columns").to(moment.second.device)
    mean_x = moment.sum_x[columns] / moment.count
    mean_y = moment.sum_y / moment.count
    if not fit_bias:
        mean_x, mean_y = torch.zeros_like(mean_x), torch.zeros_like(mean_y)
    second = moment.second[columns[:, None], columns]
    second = second - moment.count * torch.outer(mean_x, mean_x)
    cross = moment.cross[columns] - moment.count * torch.outer(mean_x, mean_y)
    weight = _solve_moments(second, cross, ridge).T
    bias = mean_y - weight @ mean_x
    return weight.to(torch.float32).contiguous(), bias.to(torch.float32)


@torch.no_grad()
def scale_refit(
    weight: Tensor,
    moment: Tensor,
    kept: Tensor,
    unit_size: int,
    *,
    cross: Tensor | None = None,
    ridge: float = 0.0,
) -> Tensor:
    """One multiplier a kept unit so that the output comes closest to the dense one.

    Mask tuning (Kwon et al. 2022): ``argmin_s sum ||sum_u s_u W[:,u] x[u] - y||^2`` over the kept
    units ``u``. The ridge pulls towards 1 (unchanged), and where the minimiser is not unique the
    one nearest to 1 is taken.

    Args:
        weight: (o, d), dense.
        moment: (d, d), sum of ``x x^T`` (not damped).
        kept: (k,) int64, kept units.
        unit_size: columns a unit.
        cross: (d, o), sum of ``x y^T`` in the same scale as ``moment``; None: ``y = W x`` of the
            same inputs, the dense output.
        ridge: >= 0, relative to the mean diagonal of the normal equations.

    Returns:
        (k,) float32 multipliers, in the order of ``kept``.

    Raises:
        PlanError: on shapes that do not fit, or units that do not exist or repeat.
        DataError: on values that are not finite.
    """
    features = _check_weight(weight, moment, "moment")
    units = _check_units(features, unit_size)
    kept = _check_indices(kept, units, "units").to(moment.device)
    if cross is not None and tuple(cross.shape) != (features, weight.shape[0]):
        raise PlanError(
            f"cross has shape {tuple(cross.shape)}; expected ({features}, {weight.shape[0]})"
        )
    matrix = moment.detach().to(torch.float64)
    dense = weight.detach().to(matrix)
    # normal[u, v] = tr(W_u X_u X_v^T W_v^T): sums over the blocks of (W^T W) * moment
    products = (dense.T @ dense) * matrix
    normal = products.view(units, unit_size, units, unit_size).sum((1, 3))
    if cross is None:
        target = normal.sum(1)
    else:
        target = (dense.T * cross.detach().to(matrix)).sum(1).view(units, unit_size).sum(1)
    restricted = normal[kept[:, None], kept]
    # Solved for s - 1, so that both the ridge and the least norm pull towards 1.
    residual = target[kept] - restricted.sum(1)
    change = _solve_moments(restricted, residual[:, None], ridge)[:, 0]
    return (1.0 + change).to(torch.float32)


@torch.no_grad()
def rearrange_mask(gradients: Tensor, kept: Tensor, *, max_swaps: int | None = None) -> Tensor:
    """Swap pruned and kept units while that lowers the loss the whole Fisher matrix predicts.

    Mask rearrangement (Kwon et al. 2022). To second order, closing the gates of the pruned units
    costs ``1_P^T (G^T G) 1_P = ||sum of the pruned columns of G||^2``: units whose gradients
    cancel are cheap together. Each step takes the best of all swaps of one pruned and one kept
    unit; the number of kept units stays the same.

    Args:
        gradients: (batches, units), gradient of the loss by each gate at gate = 1.
        kept: (units,) bool.
        max_swaps: at most this many; None: the size of the smaller of the two sets. With many
            more units than batches the sum can be driven to nothing by chance, which the bound
            keeps in check.

    Returns:
        (units,) bool, a new mask.

    Raises:
        PlanError: on shapes that do not fit or a negative bound.
        DataError: on gradients that are not finite.
    """
    if gradients.ndim != 2:
        raise PlanError(f"gradients has shape {tuple(gradients.shape)}; expected (batches, units)")
    if tuple(kept.shape) != (gradients.shape[1],) or kept.dtype != torch.bool:
        raise PlanError(
            f"kept is {kept.dtype} of shape {tuple(kept.shape)}; expected torch.bool of shape"
            f" ({gradients.shape[1]},), one entry a unit"
        )
    if max_swaps is not None and max_swaps < 0:
        raise PlanError(f"max_swaps is {max_swaps}; expected None or a number >= 0")
    if not bool(gradients.isfinite().all()):
        raise DataError("gradients holds values that are not finite")
    values = gradients.detach().to(torch.float64)
    fisher = values.T @ values
    pruned_units = (~kept).nonzero().flatten().to(fisher.device)
    kept_units = kept.nonzero().flatten().to(fisher.device)
    swaps = min(len(pruned_units), len(kept_units))
    if max_swaps is not None:
        swaps = min(swaps, max_swaps)
    mask = kept.clone()
    if swaps == 0:
        return mask
    diagonal = fisher.diagonal()
    # Gains below rounding could swap back and forth for ever.
    least = 1e-12 * float(diagonal.sum())
    pairs = fisher[pruned_units[:, None], kept_units]  # (pruned, kept), follows the swaps
    total = fisher[:, pruned_units].sum(1)  # F 1_P
    for _ in range(swaps):
        back = diagonal[pruned_units] - 2.0 * total[pruned_units]
        out = diagonal[kept_units] + 2.0 * total[kept_units]
        change = back[:, None] + out - 2.0 * pairs
        best = int(change.argmin())
        i, j = divmod(best, len(kept_units))
        if float(change[i, j]) >= -least:
            break
        returned, closed = pruned_units[i].clone(), kept_units[j].clone()
        total += fisher[closed] - fisher[returned]
        pruned_units[i], kept_units[j] = closed, returned
        pairs[i] = fisher[closed, kept_units]
        pairs[:, j] = fisher[pruned_units, returned]
    mask[pruned_units.to(mask.device)] = False
    mask[kept_units.to(mask.device)] = True
    return mask


def _solve_moments(moment: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(k, k), (k, o) -> (k, o) float64: ``(moment + ridge * mean diagonal * I)^-1 cross``."""
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1]:
        raise PlanError(f"the moment has shape {tuple(moment.shape)}; expected a square matrix")
    if cross.ndim != 2 or cross.shape[0] != moment.shape[0]:
        raise PlanError(
            f"cross has shape {tuple(cross.shape)}; expected ({moment.shape[0]}, outputs)"
        )
    if not ridge >= 0 or ridge == float("inf"):
        raise PlanError(f"ridge is {ridge}; expected a finite number >= 0")
    matrix = moment.detach().to(torch.float64)
    right = cross.detach().to(matrix)
    if not bool(matrix.isfinite().all()) or not bool(right.isfinite().all()):
        raise DataError("the moments hold values that are not finite")
    size = matrix.shape[0]
    if size == 0:
        return right
    matrix = (matrix + matrix.T) / 2
    matrix.diagonal().add_(ridge * float(matrix.diagonal().mean()))
    cutoff = 10.0 * size * torch.finfo(torch.float64).eps
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(matrix)
    # pivot / diagonal = the share of a column that the columns before it do not explain
    pivots = lower.diagonal().square()
    if int(info) == 0 and bool((pivots > cutoff * matrix.diagonal()).all()):
        return torch.cholesky_solve(right, lower)
    values: Tensor
    vectors: Tensor
    values, vectors = torch.linalg.eigh(matrix)
    usable = values > cutoff * values[-1].clamp_min(0.0)
    inverse = torch.where(usable, values, torch.ones_like(values)).reciprocal() * usable
    return vectors @ (inverse[:, None] * (vectors.T @ right))


def _check_weight(weight: Tensor, matrix: Tensor, name: str) -> int:
    """The width d shared by the weight (o, d) and the matrix (d, d)."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise PlanError(f"{name} has shape {tuple(matrix.shape)}; expected (d, d)")
    if weight.ndim != 2 or weight.shape[1] != matrix.shape[0]:
        raise PlanError(
            f"weight has shape {tuple(weight.shape)}; expected (o, {matrix.shape[0]}), as many"
            f" columns as {name}"
        )
    return int(weight.shape[1])


def _check_units(features: int, unit_size: int) -> int:
    if unit_size < 1 or features % unit_size:
        raise PlanError(f"unit_size is {unit_size}; expected a divisor of the {features} columns")
    return features // unit_size


def _check_mask(protected: Tensor | None, units: int, device: torch.device) -> Tensor:
    if protected is None:
        return torch.zeros(units, dtype=torch.bool, device=device)
    if tuple(protected.shape) != (units,) or protected.dtype != torch.bool:
        raise PlanError(
            f"protected is {protected.dtype} of shape {tuple(protected.shape)}; expected torch.bool"
            f" of shape ({units},), one entry a unit"
        )
    return protected.to(device)


def _check_stops(stop_at: Sequence[int], units: int, protected: int) -> list[int]:
    stops = [int(stop) for stop in stop_at]
    if not stops:
        raise PlanError("stop_at is empty; give at least one number of kept units")
    if any(later >= earlier for earlier, later in pairwise(stops)):
        raise PlanError(f"stop_at is {stops}; expected strictly descending numbers of kept units")
    if stops[0] > units or stops[-1] < 0:
        raise PlanError(f"stop_at is {stops}; expected numbers from {units} down to 0")
    if stops[-1] < protected:
        raise PlanError(
            f"stop_at goes down to {stops[-1]} kept units, but {protected} are protected; stop at"
            f" {protected} or protect fewer"
        )
    return stops


def _check_indices(indices: Tensor, limit: int, what: str) -> Tensor:
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise PlanError(
            f"kept is {indices.dtype} of shape {tuple(indices.shape)}; expected a list of {what}:"
            " torch.int64, one dimension"
        )
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= limit):
        raise PlanError(
            f"kept names {what} {int(indices.min())} to {int(indices.max())}; there are only"
            f" {limit}, counted from 0"
        )
    if len(indices.unique()) != len(indices):
        raise PlanError(f"kept names some {what} twice; expected each once")
    return indices
