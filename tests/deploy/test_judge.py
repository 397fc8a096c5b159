"""The judge: tables of numbers, independent formulas, and rows made up with a known loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, rel_entr, softmax

from hfprune.core.arrays import row_parts
from hfprune.core.errors import DataError
from hfprune.deploy.choose import differences
from hfprune.deploy.choose.differences import depends_on_batch, divergence, expected_loss
from hfprune.deploy.choose.judge import (
    Evidence,
    calibrated_temperature,
    gather,
    judge,
    rows_that_would_do,
)
from hfprune.measure.ranking import expected_ranking_loss, scorer

ROWS = 845
MOST = 0.002


def accuracy(logits: Any, labels: Any) -> float:
    return float(((logits[:, 1] > logits[:, 0]) == labels).mean())


def two(margin: Any) -> Any:
    return np.stack([-margin / 2, margin / 2], axis=1)


def evidence(**changes: Any) -> Evidence:
    usual: dict[str, Any] = {
        "served": "one by one",
        "rows": ROWS,
        "drop": 0.0,
        "low": -0.005,
        "high": 0.005,
        "expected": 0.0005,
        "expected_low": 0.0002,
        "divergence": 0.01,
        "changed": 9,
    }
    return Evidence(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "state", "eligible", "why"),
    [
        ({"high": 0.0019}, "kept", True, "drops by at most 0.0019"),
        ({"low": 0.0021, "drop": 0.01}, "refused", False, "the metric drops by 0.0100, allowed is"),
        # 4 of 845 rows: no more than rounding does, and float32 expects nothing of it.
        ({"drop": 4 / ROWS}, "undecided", True, "rows would tell"),
        ({"expected": 0.004, "expected_low": 0.0021}, "refused", False, "float32 itself expects"),
        ({"expected": 0.004, "expected_low": 0.001}, "undecided", False, "undecided"),
        # Shown by the metric to be within: what float32 expects counts no more.
        ({"high": 0.001, "expected": 0.01, "expected_low": 0.009}, "kept", True, "at most"),
        # Without probabilities (regression) the estimate has to do.
        ({"expected": math.nan, "expected_low": math.nan}, "undecided", True, "undecided"),
        (
            {"expected": math.nan, "expected_low": math.nan, "drop": 0.003},
            "undecided",
            False,
            "undecided",
        ),
    ],
)
def test_verdicts(changes: dict[str, Any], state: str, eligible: bool, why: str) -> None:
    found = judge([evidence(**changes)], MOST)
    assert (found.state, found.eligible) == (state, eligible)
    assert why in found.why


def test_all_ways_of_serving_have_to_be_right() -> None:
    alone, together = evidence(high=0.001), evidence(served="batches of 32", low=0.01, drop=0.02)
    found = judge([alone, together], MOST)
    assert (found.state, found.eligible, found.drop) == ("refused", False, 0.02)
    found = judge([alone, evidence()], MOST)
    assert (found.state, found.eligible) == ("undecided", True)
    assert found.rows_needed == rows_that_would_do(evidence(), MOST)
    with pytest.raises(DataError, match="expected evidence of at least one way"):
        judge([], MOST)


def test_what_others_are_compared_with_has_the_benefit_of_the_doubt() -> None:
    """Refused is what is shown to lose; what float32 merely fears is not."""
    feared = evidence(expected=0.004, expected_low=-0.001)
    assert not judge([feared], MOST).eligible
    assert judge([feared], MOST, in_doubt=True).eligible
    shown = evidence(drop=0.03, low=0.01, high=0.05)
    assert not judge([shown], MOST, in_doubt=True).eligible


def test_how_many_rows_would_do() -> None:
    # The gap is 0.0015, the reach 0.005: (10 / 3) ** 2 times the rows.
    assert rows_that_would_do(evidence(), MOST) == math.ceil(ROWS * (0.005 / 0.0015) ** 2)
    assert rows_that_would_do(evidence(expected=0.002), MOST) is None
    assert "no number of rows would tell" in judge([evidence(expected=0.002)], MOST).why


def test_the_interval_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 2, 4000)
    truth = rng.random(4000) < expit(margin)
    after = margin + rng.normal(0, 1.0, 4000)
    found = gather(two(margin), two(after), truth, accuracy)
    lost = ((margin > 0) == truth).astype(float) - ((after > 0) == truth)
    assert found.drop == pytest.approx(lost.mean())
    error = math.sqrt(lost.var() / 4000 + 1 / 4000**2)
    assert (found.high - found.low) / 2 == pytest.approx(1.7 * error, rel=0.25)
    assert found.changed == ((margin > 0) != (after > 0)).sum()
    worse = gather(
        two(after), two(margin), truth, lambda *a: -accuracy(*a), greater_is_better=False
    )
    assert worse.drop == pytest.approx(-found.drop)


def test_rows_that_agree_still_leave_some_doubt() -> None:
    margin = np.linspace(-3, 3, 100)
    found = gather(two(margin), two(margin), margin > 0, accuracy)
    assert (found.drop, found.expected, found.divergence, found.changed) == (0, 0, 0, 0)
    assert 0.01 < found.high < 0.03
    assert judge([found], MOST).state == "undecided"
    assert judge([found], 0.05).state == "kept"


def test_expected_loss_and_divergence_by_hand() -> None:
    before = np.array([[2.0, 0.0, 1.0], [0.0, 0.5, 0.4]])
    after = np.array([[2.1, 0.0, 1.2], [0.0, 0.5, 0.6]])
    loss, changed = expected_loss(before, after)
    share, other = softmax(before, axis=1), softmax(after, axis=1)
    np.testing.assert_allclose(loss, [0, share[1, 1] - share[1, 2]])
    assert changed == 1
    np.testing.assert_allclose(divergence(before, after), rel_entr(share, other).sum(1))


def test_expected_ranking_loss_by_hand() -> None:
    before = np.log([0.7, 0.3, 0.5, 0.5, 0.2, 0.8]) + np.repeat([3.0, 0.0, -5.0], 2)
    after = np.asarray([1.0, 2.0, 0.0, 1.0, 1.0, 2.0])
    found, changed = expected_ranking_loss(before, after, np.asarray([0, 0, 1, 1, 2, 2]))
    place = 1 / math.log2(3)  # what the second place counts
    first = 1 - (0.3 + 0.7 * place) / (0.7 + 0.3 * place)
    np.testing.assert_allclose(found, [first, 0.0, 0.0], atol=1e-12)
    assert changed == 2, "two queries are in another order, one of them of equal scores"
    # Where a query's rows stand is of no account, nor what is added to its scores.
    mixed = np.asarray([5, 0, 3, 1, 2, 4])
    again, _ = expected_ranking_loss(
        (before + 7)[mixed], after[mixed], np.asarray([0, 0, 1, 1, 2, 2])[mixed]
    )
    np.testing.assert_allclose(again, found, atol=1e-12)


@pytest.mark.parametrize(("noise", "eligible"), [(2.0**-8, True), (3.0, False)])
def test_near_ties_of_a_few_queries_decide_nothing(noise: float, eligible: bool) -> None:
    """Two of 160 queries lose by what rounding turned round: their scores were nearly equal."""
    draw = np.random.default_rng(3)
    queries = np.repeat(np.arange(160), 5)
    right = np.tile([1.0, 0.0, 0.0, 0.0, 0.0], 160)
    before = 6.0 * right - 3.0 + draw.normal(0, 0.5, 800)
    before[[1, 6]] = before[[0, 5]] - 1e-4
    after = before + draw.normal(0, noise, 800)
    after[[0, 5]] = after[[1, 6]] - 1e-4
    labels = np.stack([right, queries], axis=1)

    found = gather(before[:, None], after[:, None], labels, scorer("ndcg_at_10"), units=queries)
    assert found.drop > MOST
    assert judge([found], MOST).eligible is eligible


def test_several_labels_tokens_and_numbers() -> None:
    before, after = np.array([[1.0, -0.1], [3.0, 2.0]]), np.array([[1.0, 0.1], [3.0, -1.0]])
    loss, changed = expected_loss(before, after, several=True)
    np.testing.assert_allclose(
        loss, [(1 - 2 * expit(-0.1)) / 2, (2 * expit(2.0) - 1) / 2], atol=1e-12
    )
    assert changed == 2
    a, b = expit(before), expit(after)
    want = (rel_entr(a, b) + rel_entr(1 - a, 1 - b)).sum(1)
    np.testing.assert_allclose(divergence(before, after, several=True), want)
    # Tokens: two rows of two and one, the rest is zero.
    words = np.array([[[2.0, 1.0], [0.0, 1.0]], [[1.0, 0.5], [0.0, 0.0]]])
    other = np.array([[[2.0, 1.0], [1.5, 1.0]], [[0.4, 0.5], [0.0, 0.0]]])
    loss, changed = expected_loss(words, other)
    share = softmax(words, axis=-1)
    np.testing.assert_allclose(
        loss, [(share[0, 1, 1] - share[0, 1, 0]) / 2, share[1, 0, 0] - share[1, 0, 1]]
    )
    assert changed == 2
    rows = rel_entr(share, softmax(other, axis=-1)).sum(-1)
    np.testing.assert_allclose(divergence(words, other), [rows[0].mean(), rows[1, 0]])
    assert expected_loss(np.ones((3, 1)), np.ones((3, 1)))[0] is None
    numbers = np.array([[1.0], [3.0]])
    np.testing.assert_allclose(divergence(numbers, numbers + 1), [1.0, 1.0])


def test_on_how_many_rows_a_prediction_depends_on_its_batch() -> None:
    alone = two(np.array([1.0, -1.0, 0.01]))
    assert depends_on_batch(alone, two(np.array([0.9, -1.2, -0.01]))) == 1
    assert depends_on_batch(alone, alone) == 0
    assert depends_on_batch(np.array([[1.0], [2.0]]), np.array([[1.0], [2.1]])) == 1
    assert depends_on_batch(np.array([[1.0, -1.0]]), np.array([[1.0, 1.0]]), several=True) == 1


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_undoes_overconfidence(factor: float) -> None:
    rng = np.random.default_rng(1)
    margin = rng.normal(0, 2, 20_000)
    truth = rng.random(20_000) < expit(margin)
    found = calibrated_temperature(two(margin) * factor, truth.astype(int))
    assert found == pytest.approx(factor, rel=0.05)


def test_rows_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="expected at least two rows, the same of both models"):
        gather(np.ones((3, 2)), np.ones((4, 2)), np.ones(3), accuracy)
    with pytest.raises(DataError, match="2 labels; expected"):
        gather(np.ones((3, 2)), np.ones((3, 2)), np.ones(2), accuracy)


def tagged(rows: int) -> tuple[Any, Any, Any]:
    """Logits of two models for tokens, zero beyond a row's end, and labels."""
    rng = np.random.default_rng(4)
    before = rng.normal(0, 2, (rows, 30, 4)).astype(np.float32)
    real = np.arange(30) < rng.integers(1, 31, rows)[:, None]
    before[~real] = 0.0
    after = before + np.where(real[..., None], rng.normal(0, 0.3, before.shape), 0.0)
    labels = np.where(real, rng.integers(0, 4, real.shape), -100)
    return before, after.astype(np.float32), labels


def of_tokens(logits: Any, labels: Any) -> float:
    counts = labels != -100
    return float((logits.argmax(-1) == labels)[counts].mean())


def test_tokens_are_judged_by_their_real_ones_whatever_the_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after, labels = tagged(90)
    found = gather(before, after, labels, of_tokens, temperature=1.4)
    real = before.any(-1)
    share, other = softmax(before.astype(float), -1), softmax(after.astype(float), -1)
    apart = np.where(real, rel_entr(share, other).sum(-1), 0.0).sum(-1) / real.sum(-1)
    assert found.divergence == pytest.approx(apart.mean())
    scaled = softmax(before / 1.4, -1)
    old, new = before.argmax(-1)[..., None], after.argmax(-1)[..., None]
    loss = (np.take_along_axis(scaled, old, -1) - np.take_along_axis(scaled, new, -1))[..., 0]
    assert found.expected == pytest.approx(
        (np.where(real, loss, 0.0).sum(-1) / real.sum(-1)).mean()
    )
    assert found.changed == int(((old != new)[..., 0] & real).sum())
    # In parts, and wider than the longest row, it is the same number.
    wider = [np.pad(one, ((0, 0), (0, 9), (0, 0))) for one in (before, after)]
    ends = np.pad(labels, ((0, 0), (0, 9)), constant_values=-100)
    assert gather(*wider, ends, of_tokens, temperature=1.4) == found
    monkeypatch.setattr(differences, "row_parts", lambda values: row_parts(values, 5_000))
    assert gather(before, after, labels, of_tokens, temperature=1.4) == found


def test_a_metric_counted_once_gives_the_same_evidence() -> None:
    before, after, labels = tagged(90)
    asked = []

    def counted(logits: Any, truth: Any) -> Any:
        asked.append(len(logits))
        right = (logits.argmax(-1) == truth).sum(-1)
        many = (truth != -100).sum(-1)
        return lambda chosen: float(right[chosen].sum() / many[chosen].sum())

    def never(logits: Any, truth: Any) -> float:
        raise AssertionError("it was counted")

    wanted = gather(before, after, labels, of_tokens)
    found = gather(before, after, labels, never, counted=counted)
    assert asked == [90, 90]
    assert found.drop == pytest.approx(wanted.drop)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.divergence == wanted.divergence


# --- simulation: candidates whose true loss is known ----------------------------------------------


def candidate(kind: str, margin: Any, rng: Any) -> Any:
    """Margins of a candidate; true losses in points: 0.08, then 1.0, 0.9 and 1.0."""
    if kind == "rounded":
        return margin + rng.normal(0, 0.15, len(margin))
    if kind == "rounded coarsely":
        return margin + rng.normal(0, 0.58, len(margin))
    if kind == "blind":  # to some rows, however sure float32 is of them
        return np.where(rng.random(len(margin)) < 0.013, -1, 1) * margin
    return margin + 0.56


def verdicts(kind: str, over: float, count: int, seed: int = 0) -> list[bool]:
    """Whether candidates on rows drawn anew are eligible; ``over``: of the float model's logits."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        margin = rng.normal(0.3, 3.0, ROWS)
        truth = rng.random(ROWS) < expit(margin)
        before, after = two(margin * over), two(candidate(kind, margin, rng) * over)
        temperature = calibrated_temperature(before, truth.astype(int))
        one = gather(before, after, truth, accuracy, temperature=temperature)
        found.append(judge([one], MOST).eligible)
    return found


@pytest.mark.parametrize("kind", ["rounded coarsely", "blind", "shifted"])
@pytest.mark.parametrize("over", [1.0, 2.0])
def test_a_true_loss_of_a_point_is_seen_on_845_rows(kind: str, over: float) -> None:
    rng = np.random.default_rng(9)
    margin = rng.normal(0.3, 3.0, 500_000)
    changed = (candidate(kind, margin, rng) > 0) != (margin > 0)
    assert (np.abs(2 * expit(margin) - 1) * changed).mean() == pytest.approx(0.01, abs=0.0015)
    assert np.mean(verdicts(kind, over, 100)) < 0.05


@pytest.mark.parametrize("over", [1.0, 2.0])
def test_harmless_rounding_is_let_through(over: float) -> None:
    """The point estimate refused about a third of these for two rows of noise."""
    assert np.mean(verdicts("rounded", over, 100)) > 0.9
