"""Second moments of a block's inputs, summed in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from hfprune.core.errors import DataError, PlanError

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
