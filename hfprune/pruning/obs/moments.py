"""Second moments of a block's inputs, summed in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from hfprune.core.errors import DataError, PlanError

# Columns of X^T X computed at a time: only the upper triangle of these blocks is multiplied out.
_MOMENT_COLUMNS = 256

# Tokens that are multiplied in float32 before their products are added up in float64: rounding
# grows with the root of this number, and the additions' share of the work falls with it.
_MOMENT_TOKENS = 1024

Products = Literal["float64", "float32"]


class SecondMoment:
    """Running sums over inputs ``x`` (and targets ``y``) that least squares needs.

    All attributes are plain float64 sums over tokens, so the sums of several processes add up:
    an in-place all-reduce (sum) of the tensors and the sum of ``count`` give the whole.

    With ``products="float32"`` the products of a thousand tokens at a time are made in float32 and
    added up in float64: 1.3 to 1.6 times as fast on a CPU with AVX2 (384 to 3,072 features), and
    far more on GPUs whose float64 is slow. What that costs in exactness is measured along the way
    (:meth:`rounding`).

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
        products: what ``x x^T`` and ``x y^T`` are multiplied in.
    """

    def __init__(
        self,
        features: int,
        outputs: int | None = None,
        *,
        device: torch.device | str | None = None,
        products: Products = "float64",
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
        self.products: Products = products
        # One vector of signs, and its product with `second` summed in float64 throughout: what
        # float32 lost shows in their difference.
        self._probe: Tensor | None = None
        self._probed: Tensor | None = None
        if products == "float32":
            signs = torch.randint(0, 2, (features,), generator=torch.Generator().manual_seed(0))
            self._probe = (2.0 * signs - 1.0).to(self.second)
            self._probed = torch.zeros_like(self._probe)

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
        if self._probe is None or self._probed is None:
            self._add_products(x, y)
        else:
            self._probed.addmv_(x.T, x @ self._probe)
            self._add_rounded(x, y)
        self.sum_x.add_((x * root).sum(0))
        if y is not None and self.sum_y is not None:
            self.sum_y.add_((y * root).sum(0))
        self.count += tokens

    def _add_products(self, x: Tensor, y: Tensor | None) -> None:
        features = self.second.shape[0]
        for start in range(0, features, _MOMENT_COLUMNS):
            stop = start + _MOMENT_COLUMNS
            self.second[start:stop, start:] += x[:, start:stop].T @ x[:, start:]
            self.second[stop:, start:stop] = self.second[start:stop, stop:].T
        if y is not None and self.cross is not None:
            self.cross.addmm_(x.T, y)

    def _add_rounded(self, x: Tensor, y: Tensor | None) -> None:
        features = self.second.shape[0]
        # Powers of two, so nothing is rounded: squares of very small or large numbers would leave
        # the range of float32.
        unit = _power_of_two(x)
        small = (x / unit).to(torch.float32)
        other, scale = None, 1.0
        if y is not None:
            scale = _power_of_two(y)
            other = (y / scale).to(torch.float32)
        with _plain_float32(x.device.type):
            for token in range(0, len(small), _MOMENT_TOKENS):
                part = small[token : token + _MOMENT_TOKENS]
                for start in range(0, features, _MOMENT_COLUMNS):
                    stop = start + _MOMENT_COLUMNS
                    found = part[:, start:stop].T @ part[:, start:]
                    self.second[start:stop, start:].add_(found, alpha=unit * unit)
                if other is not None and self.cross is not None:
                    found = part.T @ other[token : token + _MOMENT_TOKENS]
                    self.cross.add_(found, alpha=unit * scale)
        for start in range(0, features, _MOMENT_COLUMNS):
            stop = start + _MOMENT_COLUMNS
            self.second[stop:, start:stop] = self.second[start:stop, stop:].T

    def join_(self, add: Callable[[Tensor], None]) -> None:
        """The whole of several processes' sums. In place.

        Args:
            add: makes a tensor the sum over processes, in place.
        """
        count = torch.tensor([self.count], dtype=torch.float64)
        for sums in (self.second, self.sum_x, self.cross, self.sum_y, self._probed, count):
            if sums is not None:
                add(sums)
        self.count = float(count)

    def rounding(self) -> float:
        """What float32 products are off by, as a share of the mean diagonal; 0 for float64.

        An estimate of the Frobenius norm of the error of ``second`` over the mean of its diagonal
        (Hutchinson's, with one vector: right within a factor of two or so). The error of every
        eigenvalue is at most that norm, so beside damping of a far larger share it is not seen.
        """
        if self._probe is None or self._probed is None:
            return 0.0
        mean = float(self.second.diagonal().mean())
        lost = float((self.second @ self._probe - self._probed).norm())
        return lost / mean if mean > 0 else 0.0

    def spread(self) -> float:
        """How much of the mean diagonal of ``second`` is left without the inputs' means; 0 to 1."""
        self._require_tokens()
        whole = self.second.diagonal()
        centred = (whole - self.sum_x.square() / self.count).clamp_min(0.0)
        mean = float(whole.mean())
        return float(centred.mean()) / mean if mean > 0 else 1.0

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


def _power_of_two(values: Tensor) -> float:
    """A power of two that the largest magnitude is about; 1 where all are zero."""
    most = float(values.abs().max()) if values.numel() else 0.0
    return 2.0 ** math.frexp(most)[1] if most > 0 else 1.0


@contextmanager
def _plain_float32(device: str) -> Iterator[None]:
    """Products in float32 and nothing less, whatever the training around allows itself."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
