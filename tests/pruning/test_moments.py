"""Moments whose products are made in float32: how exact they are, and that they know it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_batch, tiny_model
from torch import Tensor

from hfprune.core.errors import DataError
from hfprune.families import block_views
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.obs.levels import obs_prune
from hfprune.pruning.obs.moments import SecondMoment
from hfprune.pruning.obs.refit import refit_output
from hfprune.pruning.reconstruction import statistics, targets
from hfprune.pruning.reconstruction.reconstruct import Reconstruction


def features(tokens: int = 3000, width: int = 300, seed: int = 0) -> Tensor:
    """Correlated, of unlike sizes, with a mean: as what a feed-forward block's neurons give."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width // 5, generator=generator)
    mixed = hidden @ torch.randn(width // 5, width, generator=generator)
    noise = torch.randn(tokens, width, generator=generator)
    return torch.nn.functional.gelu(mixed + noise) * torch.logspace(-2, 1, width)


def both(x: Tensor, y: Tensor | None = None, weight: Tensor | None = None) -> list[SecondMoment]:
    found = []
    for products in ("float32", "float64"):
        outputs = None if y is None else y.shape[1]
        found.append(SecondMoment(x.shape[1], outputs, products=products))  # type: ignore[arg-type]
        for part in range(0, len(x), 1100):
            some = slice(part, part + 1100)
            found[-1].update(
                x[some],
                None if y is None else y[some],
                None if weight is None else weight[some],
            )
    return found


def test_sums_are_right_to_seven_digits_and_say_how_far_they_are_off() -> None:
    x = features()
    generator = torch.Generator().manual_seed(3)
    # A few tokens count for nearly all, as they do by sensitivity.
    weight = torch.rand(len(x), generator=generator, dtype=torch.float64) ** 12
    y = x[:, :40] + 5
    rounded, exact = both(x, y, weight)
    assert exact.rounding() == 0.0
    assert torch.equal(rounded.second, rounded.second.T)
    error = (rounded.second - exact.second).norm()
    assert 0 < error < 2e-7 * exact.second.norm()
    assert rounded.cross is not None
    assert exact.cross is not None
    assert (rounded.cross - exact.cross).norm() < 2e-7 * exact.cross.norm()
    assert torch.equal(rounded.sum_x, exact.sum_x)
    assert rounded.count == exact.count
    true = float(error / exact.second.diagonal().mean())
    assert true / 3 < rounded.rounding() < true * 3


def test_levels_and_refit_are_those_of_float64() -> None:
    x = features()
    weight = torch.randn(30, x.shape[1], generator=torch.Generator().manual_seed(1))
    y = x @ weight.T + torch.randn(len(x), 30, generator=torch.Generator().manual_seed(2))
    rounded, exact = both(x, y)
    found, wanted = (
        obs_prune(weight, one.hessian(1e-3), 1, stop_at=[250, 100, 20], damping=one.damping(1e-3))
        for one in (rounded, exact)
    )
    assert torch.equal(found.order, wanted.order)
    for level, other in zip(found.levels, wanted.levels, strict=True):
        assert level.error == pytest.approx(other.error, rel=1e-5)
        torch.testing.assert_close(level.weight, other.weight, rtol=1e-4, atol=1e-5)
    kept = torch.arange(0, 300, 3)
    for mine, theirs in zip(
        refit_output(rounded, kept, ridge=1e-3), refit_output(exact, kept, ridge=1e-3), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_squares_beyond_float32_are_summed_all_the_same(scale: float) -> None:
    x = features(500, 60).double() * scale
    rounded, exact = both(x)
    assert bool(rounded.second.isfinite().all())
    assert (rounded.second - exact.second).norm() < 2e-7 * exact.second.norm()


def test_nothing_but_zeros_and_nothing_at_all() -> None:
    moment = SecondMoment(5, products="float32")
    moment.update(torch.zeros(3, 5))
    moment.update(torch.ones(2, 5), weight=torch.zeros(2))
    assert moment.rounding() == 0.0
    assert not bool(moment.second.any())
    with pytest.raises(DataError, match="not finite"):
        moment.update(torch.full((1, 5), float("nan")))


def test_what_surrounds_the_sums_does_not_make_them_rougher() -> None:
    x = features(400, 64)
    alone, inside = SecondMoment(64, products="float32"), SecondMoment(64, products="float32")
    alone.update(x)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside.update(x)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(alone.second, inside.second)


def test_the_spread_is_what_is_left_without_the_mean() -> None:
    moment = SecondMoment(1)
    moment.update(torch.tensor([[9.0], [11.0]]))  # mean 10, variance 1: 101 a token
    assert moment.spread() == pytest.approx(1 / 101)


@pytest.mark.parametrize(
    "selection",
    ["obs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fisher", "kprune"))],
)
def test_a_whole_reconstruction_decides_as_in_float64(
    selection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And sums that are too rough are made again: a limit of nothing gives float64's own bits."""
    batches = [tiny_batch(16, 20, seed=seed) for seed in range(2)]
    model = tiny_model("bert", labels=3)
    costs = parameter_costs(model)
    budget = 0.4 * sum(costs[key] * view.units for key, view in block_views(model).items())

    def pruned() -> tuple[Any, dict[str, Tensor]]:
        found = Reconstruction(model, tiny_model("bert", labels=3), batches, selection=selection)
        plan = found.search(budget, lambda key, count: costs[key] * count, rounds=3)
        small = tiny_model("bert", labels=3)
        found.prune_(small, plan)
        return plan, small.state_dict()

    plan, weights = pruned()
    for module in (statistics, targets):
        monkeypatch.setattr(module, "ROUNDING", -1.0)
    again, exact = pruned()
    assert plan == again
    for name, value in weights.items():
        torch.testing.assert_close(value, exact[name], rtol=1e-3, atol=1e-4)
    made: list[str] = []
    init = SecondMoment.__init__

    def only_float64(self: SecondMoment, *args: Any, products: Any = None, **kwargs: Any) -> None:
        made.append(products)
        init(self, *args, products="float64", **kwargs)

    monkeypatch.setattr(SecondMoment, "__init__", only_float64)
    third, own = pruned()
    assert third == plan
    assert "float32" in made
    assert all(torch.equal(exact[name], value) for name, value in own.items())


@pytest.mark.gpu
def test_a_gpu_finds_the_cpus_plan() -> None:
    batches = [tiny_batch(16, 20, seed=seed) for seed in range(2)]
    costs = parameter_costs(tiny_model("bert", labels=3))
    views = block_views(tiny_model("bert", labels=3))
    budget = 0.4 * sum(costs[key] * view.units for key, view in views.items())
    plans, weights = [], []
    for device in ("cpu", "cuda"):
        model = tiny_model("bert", labels=3).to(device)
        found = Reconstruction(model, tiny_model("bert", labels=3).to(device), batches)
        plans.append(found.search(budget, lambda key, count: costs[key] * count, rounds=10))
        small = tiny_model("bert", labels=3).to(device)
        found.prune_(small, plans[-1])
        weights.append({name: value.cpu() for name, value in small.state_dict().items()})
    assert plans[0] == plans[1]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)
