"""Least-squares reconstruction against explicit inverses, brute force and numpy.linalg.lstsq."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfprune.core.errors import DataError, PlanError
from hfprune.pruning.obs.levels import obs_prune, repair
from hfprune.pruning.obs.moments import SecondMoment
from hfprune.pruning.obs.rearrange import rearrange_mask
from hfprune.pruning.obs.refit import refit_output


def inputs(tokens: int, features: int, seed: int = 0) -> np.ndarray:
    """Correlated inputs with uneven scales, (tokens, features) float64."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(tokens, features)) @ rng.normal(size=(features, features))
    return mixed * rng.uniform(0.2, 2.0, size=features)


def moment_of(x: np.ndarray, y: np.ndarray | None = None) -> SecondMoment:
    moment = SecondMoment(x.shape[1], None if y is None else y.shape[1])
    moment.update(torch.from_numpy(x), None if y is None else torch.from_numpy(y))
    return moment


def best_weight(weight: np.ndarray, hessian: np.ndarray, columns: list[int]) -> np.ndarray:
    """Minimiser of tr((W' - W) H (W' - W)^T) with only `columns` left, by an explicit inverse."""
    return weight @ hessian[:, columns] @ np.linalg.inv(hessian[np.ix_(columns, columns)])


def loss_of(weight: np.ndarray, hessian: np.ndarray, columns: list[int]) -> float:
    change = -weight.copy()
    change[:, columns] += best_weight(weight, hessian, columns)
    return float(np.trace(change @ hessian @ change.T))


def columns_of(units: list[int], size: int) -> list[int]:
    return [unit * size + i for unit in units for i in range(size)]


# ---------------------------------------------------------------------------- SecondMoment


def test_moments_of_batches_equal_the_moments_of_everything() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 300)), rng.normal(size=(50, 3))  # wider than one block of columns
    moment = SecondMoment(300, 3)
    for rows in (slice(0, 7), slice(7, 8), slice(8, 50)):
        moment.update(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    assert moment.count == 50
    np.testing.assert_allclose(moment.second.numpy(), x.T @ x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moment.sum_x.numpy(), x.sum(0), atol=1e-12)
    assert moment.cross is not None
    assert moment.sum_y is not None
    np.testing.assert_allclose(moment.cross.numpy(), x.T @ y, atol=1e-12)
    np.testing.assert_allclose(moment.sum_y.numpy(), y.sum(0), atol=1e-12)


def test_a_weight_counts_a_token_that_often_and_zero_skips_it() -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    padded = x.clone()
    padded[3] = float("nan")  # what sits under padding does not matter
    weighted, repeated = SecondMoment(5, 2), SecondMoment(5, 2)
    weighted.update(padded, y, weight=torch.tensor([1, 3, 1, 0]))
    repeated.update(x[[0, 1, 1, 1, 2]], y[[0, 1, 1, 1, 2]])
    assert weighted.count == repeated.count == 5
    for name in ("second", "cross", "sum_x", "sum_y"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name))


def test_hessian_is_twice_the_mean_plus_damping() -> None:
    x = inputs(20, 4)
    moment = moment_of(x)
    plain = 2 * x.T @ x / 20
    damping = 0.01 * plain.diagonal().mean()
    np.testing.assert_allclose(moment.hessian(0.0).numpy(), plain, rtol=1e-12)
    np.testing.assert_allclose(moment.hessian(0.01).numpy(), plain + damping * np.eye(4))
    assert moment.damping(0.01) == pytest.approx(damping)


def test_hessian_of_silent_inputs_can_still_be_pruned() -> None:
    moment = SecondMoment(3)
    moment.update(torch.zeros(5, 3))
    result = obs_prune(torch.ones(2, 3), moment.hessian(1e-3), 1, stop_at=[1])
    assert len(result.order) == 2


def test_low_precision_inputs_are_summed_in_float64() -> None:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    moment = SecondMoment(4)
    moment.update(x)
    torch.testing.assert_close(moment.second, x.double().T @ x.double())


def test_second_moment_says_what_is_wrong_with_a_batch() -> None:
    moment = SecondMoment(3)
    with pytest.raises(DataError, match=r"x has shape \(2, 4\); expected \(tokens, 3\)"):
        moment.update(torch.zeros(2, 4))
    with pytest.raises(DataError, match="made without outputs; make it with outputs=o"):
        moment.update(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(DataError, match="x holds values that are not finite.*float16"):
        moment.update(torch.full((2, 3), float("inf")))
    with pytest.raises(DataError, match=r"weight has shape \(3,\); expected \(2,\)"):
        moment.update(torch.zeros(2, 3), weight=torch.ones(3))
    with pytest.raises(DataError, match="weight holds negative"):
        moment.update(torch.zeros(2, 3), weight=torch.tensor([1.0, -1.0]))
    with pytest.raises(DataError, match="no tokens were added"):
        moment.hessian(0.1)
    with pytest.raises(PlanError, match="damping_ratio is -1"):
        moment.hessian(-1)
    with pytest.raises(DataError, match="at least one feature"):
        SecondMoment(0)
    targets = SecondMoment(3, 2)
    with pytest.raises(DataError, match="y is missing.*outputs=2"):
        targets.update(torch.zeros(2, 3))
    with pytest.raises(DataError, match=r"y has shape \(2, 5\); expected \(2, 2\)"):
        targets.update(torch.zeros(2, 3), torch.zeros(2, 5))


# ------------------------------------------------------------------------------- obs_prune


def test_obs_on_a_two_by_two_problem_worked_by_hand() -> None:
    # H^-1 = [[2, -1], [-1, 2]] / 3: scores 1 / (2/3) = 1.5 and 9 / (2/3) = 13.5. Removing unit 0
    # moves the other weight by -1 / (2/3) * (-1/3) = 1/2. W H W^T = 2 + 6 + 18 = 26.
    hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    result = obs_prune(torch.tensor([[1.0, 3.0]]), hessian, 1, stop_at=[2, 1, 0])
    assert result.order.tolist() == [0, 1]
    assert result.scores.tolist() == pytest.approx([1.5, 3.5 * 3.5 * 2])
    everything, half, nothing = result.levels
    assert everything.kept.tolist() == [0, 1]
    assert everything.error == 0
    assert everything.weight.tolist() == [[1.0, 3.0]]
    assert half.kept.tolist() == [1]
    assert half.weight.tolist() == [[3.5]]
    assert half.error == pytest.approx((1.5 / 26) ** 0.5)
    assert nothing.kept.tolist() == []
    assert nothing.weight.shape == (1, 0)
    assert nothing.error == pytest.approx(1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    units=st.integers(2, 7),
    size=st.integers(1, 4),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_obs_takes_the_unit_whose_best_repair_loses_least(
    units: int, size: int, outputs: int, seed: int
) -> None:
    features = units * size
    x = inputs(3 * features + 5, features, seed)
    hessian = 2 * x.T @ x / len(x) + 0.01 * np.eye(features)
    weight = np.random.default_rng(seed + 1).normal(size=(outputs, features)).astype(np.float32)
    stops = list(range(units, -1, -1))
    result = obs_prune(torch.from_numpy(weight), torch.from_numpy(hessian), size, stop_at=stops)

    dense = weight.astype(np.float64)
    total = float(np.trace(dense @ hessian @ dense.T))
    kept, loss = list(range(units)), 0.0
    for step, level in enumerate(result.levels[1:]):
        after = {
            unit: loss_of(dense, hessian, columns_of([u for u in kept if u != unit], size))
            for unit in kept
        }
        chosen = int(result.order[step])
        assert after[chosen] <= min(after.values()) + 1e-9 * total
        assert float(result.scores[step]) == pytest.approx(after[chosen] - loss, abs=1e-9 * total)
        loss = after[chosen]
        kept.remove(chosen)
        columns = columns_of(kept, size)
        assert level.kept.tolist() == kept
        assert level.error == pytest.approx((loss / total) ** 0.5, abs=1e-6)
        np.testing.assert_allclose(
            level.weight.numpy(), best_weight(dense, hessian, columns), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("size", [1, 3])
def test_repair_is_the_level_of_the_same_units(size: int) -> None:
    units = 6
    x = inputs(80, units * size)
    weight = torch.from_numpy(np.random.default_rng(3).normal(size=(4, units * size)))
    moment = moment_of(x)
    hessian, damping = moment.hessian(1e-3), moment.damping(1e-3)
    levels = obs_prune(weight, hessian, size, stop_at=[6, 4, 1, 0], damping=damping).levels
    for level in levels:
        again = repair(weight, hessian, size, level.kept, damping=damping)
        assert again.kept.tolist() == level.kept.tolist()
        torch.testing.assert_close(again.weight, level.weight)
        assert again.error == pytest.approx(level.error)
    # and for units that OBS would not have kept
    chosen = sorted(set(range(units)) - set(levels[1].kept.tolist()))
    other = repair(weight, hessian, size, torch.tensor(chosen))
    np.testing.assert_allclose(
        other.weight.numpy(),
        best_weight(weight.numpy(), hessian.numpy(), columns_of(chosen, size)),
        rtol=1e-4,
        atol=1e-6,
    )
    assert other.error > levels[1].error
    with pytest.raises(PlanError, match=f"there are only {units}, counted from 0"):
        repair(weight, hessian, size, torch.tensor([units]))


def test_obs_on_many_columns_equals_a_fresh_inverse_at_each_step() -> None:
    # More columns than two delayed runs, so that folding and refreshing both happen.
    features = 200
    x = inputs(900, features, seed=3)
    hessian = 2 * x.T @ x / len(x) + 1e-3 * np.eye(features)
    weight = np.random.default_rng(4).normal(size=(6, features))
    result = obs_prune(torch.from_numpy(weight), torch.from_numpy(hessian), 1, stop_at=[0])
    kept, order, scores = list(range(features)), [], []
    while kept:
        inverse = np.linalg.inv(hessian[np.ix_(kept, kept)])
        repaired = weight @ hessian[:, kept] @ inverse
        score = np.square(repaired).sum(0) / inverse.diagonal()
        scores.append(score.min())
        order.append(kept.pop(int(score.argmin())))
    assert result.order.tolist() == order
    np.testing.assert_allclose(result.scores.numpy(), scores, rtol=1e-8)


def test_obs_levels_are_least_squares_fits_of_the_dense_output() -> None:
    x = inputs(120, 12, seed=5)
    weight = np.random.default_rng(6).normal(size=(4, 12)).astype(np.float32)
    moment = moment_of(x)
    dense_output = x @ weight.T.astype(np.float64)
    for size in (1, 3):
        for level in obs_prune(
            torch.from_numpy(weight), moment.hessian(0.0), size, stop_at=[3, 2, 1]
        ).levels:
            columns = columns_of(level.kept.tolist(), size)
            fitted = np.linalg.lstsq(x[:, columns], dense_output, rcond=None)[0]
            np.testing.assert_allclose(level.weight.numpy(), fitted.T, rtol=1e-4, atol=1e-5)
            lost = np.linalg.norm(x[:, columns] @ fitted - dense_output)
            assert level.error == pytest.approx(lost / np.linalg.norm(dense_output), rel=1e-6)


def test_obs_errors_leave_the_damping_out_when_told_of_it() -> None:
    x = inputs(60, 8, seed=7)
    weight = torch.from_numpy(np.random.default_rng(8).normal(size=(3, 8)))
    moment = moment_of(x)
    result = obs_prune(weight, moment.hessian(0.3), 1, stop_at=[5, 0], damping=moment.damping(0.3))
    level = result.levels[0]
    dense = x @ weight.numpy().T
    pruned = x[:, level.kept.tolist()] @ level.weight.numpy().T
    expected = np.linalg.norm(pruned - dense) / np.linalg.norm(dense)
    assert level.error == pytest.approx(expected, rel=1e-5)
    assert result.levels[1].error == pytest.approx(1.0)


@pytest.mark.parametrize("size", [1, 2])
def test_obs_removes_one_of_each_pair_of_duplicates_first(size: int) -> None:
    # With almost no damping the inverse falls by many orders of magnitude when a twin goes.
    single = inputs(400, 40, seed=9)
    x = np.concatenate([single, single[:, :12]], axis=1)
    weight = torch.from_numpy(np.random.default_rng(10).normal(size=(5, 52)))
    units, pairs = 40 // size, 12 // size
    result = obs_prune(weight, moment_of(x).hessian(1e-13), size, stop_at=[units, 3, 0])
    assert sorted(u % units for u in result.levels[0].kept.tolist()) == list(range(units))
    assert result.levels[0].error < 1e-5
    # From there on, all goes as in the problem without twins.
    merged = weight[:, :40].clone()
    merged[:, :12] += weight[:, 40:]
    plain = obs_prune(merged, moment_of(single).hessian(1e-13), size, stop_at=[3, 0])
    assert [u % units for u in result.order[pairs:].tolist()] == plain.order.tolist()
    np.testing.assert_allclose(result.scores[pairs:].numpy(), plain.scores.numpy(), rtol=1e-5)
    assert result.levels[1].error == pytest.approx(plain.levels[0].error, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_obs_never_removes_protected_units(size: int) -> None:
    x = inputs(80, 12, seed=11)
    protected = torch.zeros(12 // size, dtype=torch.bool)
    protected[[1, 4]] = True
    weight = torch.from_numpy(np.random.default_rng(12).normal(size=(3, 12)))
    weight[:, columns_of([1, 4], size)] *= 1e-4  # the first to go otherwise
    result = obs_prune(weight, moment_of(x).hessian(1e-4), size, stop_at=[2], protected=protected)
    assert result.levels[0].kept.tolist() == [1, 4]


def test_obs_keeps_its_arguments_and_repeats_itself() -> None:
    hessian = moment_of(inputs(80, 10, seed=13)).hessian(1e-3)
    weight = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    before = hessian.clone(), weight.clone()
    first = obs_prune(weight, hessian, 1, stop_at=[4])
    again = obs_prune(weight, hessian, 1, stop_at=[8, 4])
    assert torch.equal(hessian, before[0])
    assert torch.equal(weight, before[1])
    assert torch.equal(first.order, again.order)
    assert torch.equal(first.levels[0].weight, again.levels[1].weight)
    assert first.levels[0].weight.dtype == torch.float32


def test_obs_of_a_zero_weight_loses_nothing() -> None:
    result = obs_prune(torch.zeros(2, 4), torch.eye(4), 1, stop_at=[2, 0])
    assert [level.error for level in result.levels] == [0.0, 0.0]
    assert result.order.tolist() == [0, 1, 2, 3]


def test_obs_says_what_does_not_fit() -> None:
    weight, eye = torch.ones(2, 4), torch.eye(4)
    with pytest.raises(PlanError, match=r"weight has shape \(2, 4\); expected \(o, 3\)"):
        obs_prune(weight, torch.eye(3), 1, stop_at=[1])
    with pytest.raises(PlanError, match=r"hessian has shape \(4, 3\); expected \(d, d\)"):
        obs_prune(weight, torch.ones(4, 3), 1, stop_at=[1])
    with pytest.raises(PlanError, match="unit_size is 3; expected a divisor of the 4 columns"):
        obs_prune(weight, eye, 3, stop_at=[1])
    with pytest.raises(PlanError, match="stop_at is empty"):
        obs_prune(weight, eye, 1, stop_at=[])
    with pytest.raises(PlanError, match=r"stop_at is \[2, 2\]; expected strictly descending"):
        obs_prune(weight, eye, 1, stop_at=[2, 2])
    with pytest.raises(PlanError, match="expected numbers from 4 down to 0"):
        obs_prune(weight, eye, 1, stop_at=[5])
    with pytest.raises(PlanError, match="down to 1 kept units, but 2 are protected"):
        obs_prune(weight, eye, 1, stop_at=[1], protected=torch.tensor([1, 1, 0, 0]).bool())
    with pytest.raises(PlanError, match="protected is torch.int64.*expected torch.bool"):
        obs_prune(weight, eye, 1, stop_at=[1], protected=torch.tensor([1, 1, 0, 0]))
    with pytest.raises(PlanError, match="damping is -1"):
        obs_prune(weight, eye, 1, stop_at=[1], damping=-1)
    with pytest.raises(DataError, match="not symmetric"):
        obs_prune(weight, torch.ones(4, 4).triu() + eye, 1, stop_at=[1])
    with pytest.raises(DataError, match="not positive definite.*larger damping_ratio"):
        obs_prune(weight, torch.ones(4, 4), 1, stop_at=[1])
    with pytest.raises(DataError, match="not positive definite.*larger damping_ratio"):
        obs_prune(weight, torch.ones(4, 4), 2, stop_at=[1])
    with pytest.raises(DataError, match="not finite"):
        obs_prune(weight, eye * float("nan"), 1, stop_at=[1])
    with pytest.raises(DataError, match="not finite"):
        obs_prune(weight * float("inf"), eye, 1, stop_at=[1])


# ------------------------------------------------------------------------------- refitting


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_refit_output_equals_numpy_on_stacked_data_with_a_column_of_ones(offset: float) -> None:
    x, y = inputs(100, 8, seed=20) + offset, inputs(100, 3, seed=21) - 2 * offset
    kept = torch.tensor([6, 1, 3])
    moment = SecondMoment(8, 3)
    for rows in (slice(0, 33), slice(33, 100)):
        moment.update(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    weight, bias = refit_output(moment, kept, ridge=0.0)
    stacked = np.concatenate([x[:, kept.numpy()], np.ones((100, 1))], axis=1)
    expected = np.linalg.lstsq(stacked, y, rcond=None)[0]
    np.testing.assert_allclose(weight.numpy(), expected[:3].T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), expected[3], rtol=1e-4, atol=1e-4)


def test_refit_output_without_a_bias_equals_numpy() -> None:
    x, y = inputs(60, 5, seed=26) + 2.0, inputs(60, 3, seed=27) - 1.0
    weight, bias = refit_output(moment_of(x, y), ridge=0.0, fit_bias=False)
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(weight.numpy(), expected.T, rtol=1e-4, atol=1e-5)
    assert bias.tolist() == [0.0, 0.0, 0.0]


def test_refit_output_survives_fewer_tokens_than_features() -> None:
    x, y = inputs(5, 9, seed=22), inputs(5, 2, seed=23)
    weight, bias = refit_output(moment_of(x, y), ridge=0.0)
    fitted = x @ weight.numpy().T.astype(np.float64) + bias.numpy()
    np.testing.assert_allclose(fitted, y, rtol=1e-3, atol=1e-3)
    ridged, _ = refit_output(moment_of(x, y))
    assert bool(ridged.isfinite().all())


def test_refit_output_with_nothing_kept_predicts_the_mean() -> None:
    x, y = inputs(10, 3, seed=24), inputs(10, 2, seed=25)
    weight, bias = refit_output(moment_of(x, y), torch.tensor([], dtype=torch.int64))
    assert weight.shape == (2, 0)
    np.testing.assert_allclose(bias.numpy(), y.mean(0), rtol=1e-5)


def test_refits_say_what_is_wrong() -> None:
    with pytest.raises(DataError, match="needs targets; make the SecondMoment with outputs"):
        refit_output(SecondMoment(2))
    with pytest.raises(DataError, match="no tokens"):
        refit_output(SecondMoment(2, 1))
    moment = moment_of(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(PlanError, match="kept names columns 1 to 2; there are only 2"):
        refit_output(moment, torch.tensor([1, 2]))
    with pytest.raises(PlanError, match="twice"):
        refit_output(moment, torch.tensor([1, 1]))
    with pytest.raises(PlanError, match="kept is torch.bool.*torch.int64"):
        refit_output(moment, torch.tensor([True, False]))


# ---------------------------------------------------------------------- mask rearrangement


def predicted_loss(gradients: np.ndarray, kept: np.ndarray) -> float:
    return float(np.square(gradients[:, ~kept].sum(1)).sum())


def test_rearrangement_prunes_units_that_cancel() -> None:
    # Units 0 and 1 each cost 4 alone and nothing together; 2 and 3 cost 1 alone, 4 together.
    gradients = torch.tensor([[2.0, -2.0, 1.0, 1.0]])
    kept = torch.tensor([False, True, False, True])
    mask = rearrange_mask(gradients, kept)
    assert mask.tolist() == [False, False, True, True]
    assert kept.tolist() == [False, True, False, True]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batches=st.integers(1, 6),
    units=st.integers(2, 9),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_rearrangement_takes_the_best_swap_each_time(
    batches: int, units: int, seed: int, data: st.DataObject
) -> None:
    gradients = np.random.default_rng(seed).normal(size=(batches, units))
    count = data.draw(st.integers(0, units))
    kept = np.random.default_rng(seed + 1).permutation(units) < count
    swaps = data.draw(st.none() | st.integers(0, 5))
    mask = rearrange_mask(torch.from_numpy(gradients), torch.from_numpy(kept), max_swaps=swaps)

    expected = kept.copy()
    limit = min(count, units - count)
    for _ in range(limit if swaps is None else min(limit, swaps)):
        options = []
        for back, out in itertools.product(np.flatnonzero(~expected), np.flatnonzero(expected)):
            option = expected.copy()
            option[back], option[out] = True, False
            options.append((predicted_loss(gradients, option), tuple(option.tolist())))
        loss, best = min(options)
        if loss >= predicted_loss(gradients, expected) - 1e-10:
            break
        expected = np.array(best)
    assert mask.sum() == count
    assert predicted_loss(gradients, mask.numpy()) == pytest.approx(
        predicted_loss(gradients, expected), abs=1e-9
    )


def test_rearrangement_says_what_does_not_fit() -> None:
    kept = torch.ones(3, dtype=torch.bool)
    with pytest.raises(PlanError, match=r"gradients has shape \(3,\); expected \(batches, units"):
        rearrange_mask(torch.ones(3), kept)
    with pytest.raises(PlanError, match=r"shape \(3,\); expected torch.bool of shape \(4,\)"):
        rearrange_mask(torch.ones(2, 4), kept)
    with pytest.raises(PlanError, match="max_swaps is -1"):
        rearrange_mask(torch.ones(2, 3), kept, max_swaps=-1)
    with pytest.raises(DataError, match="gradients holds values that are not finite"):
        rearrange_mask(torch.full((2, 3), float("nan")), kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_runs_where_its_arguments_live() -> None:
    x, y = inputs(300, 96, seed=33), inputs(300, 4, seed=34)
    weight = torch.from_numpy(np.random.default_rng(35).normal(size=(4, 96)))
    results = []
    for device in ("cpu", "cuda"):
        moment = SecondMoment(96, 4, device=device)
        moment.update(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
        hessian = moment.hessian(1e-3)
        single = obs_prune(weight.to(device), hessian, 1, stop_at=[10])
        heads = obs_prune(weight.to(device), hessian, 8, stop_at=[3])
        kept = single.levels[0].kept
        mask = torch.zeros(96, dtype=torch.bool, device=device)
        mask[kept] = True
        results.append(
            (
                single.order.cpu(),
                heads.levels[0].weight.cpu(),
                refit_output(moment, kept)[0].cpu(),
                rearrange_mask(torch.from_numpy(x).to(device), mask).cpu(),
            )
        )
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_cpu, on_gpu, rtol=1e-4, atol=1e-5)
