"""An output projection fitted afresh by least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from hfprune.core.errors import DataError, PlanError
from hfprune.pruning.obs.checks import check_indices
from hfprune.pruning.obs.moments import SecondMoment


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
    columns = check_indices(columns, features, "columns").to(moment.second.device)
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
