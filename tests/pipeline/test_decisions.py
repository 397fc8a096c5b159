"""What a run decides, by tables of numbers."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from hfprune.pipeline.decisions import (
    RATES,
    USUAL_RATE,
    Judged,
    SpeedStep,
    best_rate,
    fastest_within,
    finalists,
    judged_metric,
    left_to_try,
    metric_drop,
    most_promising,
    next_speedup,
    shown_nearer,
    worth_trying,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("best", "greater", "metrics", "wanted"),
    [
        (None, True, ["accuracy", "mse"], Judged("accuracy", True)),
        (None, False, ["mse"], Judged("mse", False)),
        # The loss chooses checkpoints; what is limited is the first metric, with its own polarity.
        ("loss", False, ["accuracy"], Judged("accuracy", True)),
        ("loss", False, ["mse"], Judged("mse", False)),
        ("f1_macro", True, ["accuracy"], Judged("f1_macro", True)),
        ("mse", None, ["pearson"], Judged("mse", False)),
        ("pearson", None, ["mse"], Judged("pearson", True)),
        ("user/brier", False, ["accuracy"], Judged("user/brier", False)),
    ],
)
def test_the_metric_that_limits_are_about(
    best: str | None, greater: bool | None, metrics: list[str], wanted: Judged
) -> None:
    assert judged_metric(best, greater, metrics) == wanted


def test_a_worse_accuracy_is_a_drop_where_checkpoints_go_by_the_loss() -> None:
    """0.55 against 0.90 was once "within 0.01", for the sign was that of the loss."""
    metric = judged_metric("loss", False, ["accuracy"])
    assert metric_drop(0.90, 0.55, metric.greater_is_better) == pytest.approx(0.35)
    assert metric_drop(0.2, 0.5, judged_metric("mse", None, ["mse"]).greater_is_better) > 0


def search(drops: list[float | None], limit: float) -> tuple[list[float], float | None]:
    """The speed-ups that are tried and the one that is chosen, with these drops one by one."""
    steps: list[SpeedStep] = []
    while (speed := next_speedup(steps, limit)) is not None:
        drop = drops[len(steps)]
        steps.append(
            SpeedStep(speed, stopped="no block left") if drop is None else SpeedStep(speed, 0, drop)
        )
    best = fastest_within(steps, limit)
    return [step.speedup for step in steps], None if best is None else best.speedup


@pytest.mark.parametrize(
    ("drops", "limit", "tried", "chosen"),
    [
        ([0.05, 0.2, 0.5], 0.3, [3.0, 3.9, 5.07], 3.9),
        ([0.02], 0.01, [3.0], None),
        ([0.01, 0.011], 0.01, [3.0, 3.9], 3.0),
        ([-0.01, None], 0.0, [3.0, 3.9], 3.0),
        ([None], 0.5, [3.0], None),
        ([NAN], 0.5, [3.0], None),
        ([0.0, NAN], 0.5, [3.0, 3.9], 3.0),
    ],
)
def test_speeds_are_stepped_up_until_too_much_is_lost(
    drops: list[float | None], limit: float, tried: list[float], chosen: float | None
) -> None:
    assert search(drops, limit) == (tried, chosen)


def test_the_search_with_noise_never_chooses_what_it_saw_lose_too_much() -> None:
    draw = random.Random(0)
    for _ in range(1000):
        true = draw.uniform(0.001, 0.02)  # what each step of speed costs
        drops: list[float | None] = [true * n + draw.gauss(0, 0.01) for n in range(1, 200)]
        tried, chosen = search(drops, 0.03)
        seen = dict(zip(tried, drops, strict=False))
        assert all(drop is not None and drop <= 0.03 for drop in list(seen.values())[:-1])
        if chosen is not None:
            drop = seen[chosen]
            assert drop is not None
            assert drop <= 0.03


def test_the_step_as_it_is_recorded() -> None:
    assert SpeedStep(3.0, 0.9, 0.01).to_dict() == {"speedup": 3.0, "metric": 0.9, "drop": 0.01}
    assert SpeedStep(3.0, stopped="why").to_dict() == {"speedup": 3.0, "stopped": "why"}


def made_up(*means: float) -> dict[str, np.ndarray]:
    """Rows of candidates a, b, c with these means; differences of a hundredth show."""
    spread = np.linspace(-0.05, 0.05, 401)
    return {
        name: mean + (1 if place % 2 else -1) * spread / 2
        for place, (name, mean) in enumerate(zip("abc", means, strict=False))
    }


@pytest.mark.parametrize(
    ("means", "left", "chosen"),
    [
        ((0.3, 0.2), ["b"], ("b", True)),
        ((0.2, 0.3), ["a"], ("a", True)),
        ((0.201, 0.2), ["a", "b"], ("a", False)),
        ((0.2, 0.2), ["a", "b"], ("a", False)),
        ((0.3, 0.201, 0.2), ["b", "c"], ("b", False)),
        ((0.202, 0.2, 0.201), ["b", "c"], ("a", False)),
        ((NAN, 0.2), ["b"], ("b", True)),
        ((0.2, NAN), ["a"], ("a", True)),
        ((NAN, NAN), ["a", "b"], ("a", False)),
        ((0.3,), ["a"], ("a", True)),
    ],
)
def test_the_candidate_that_goes_on(
    means: tuple[float, ...], left: list[str], chosen: tuple[str, bool]
) -> None:
    rows = made_up(*means)
    assert left_to_try(rows) == left
    assert most_promising(rows) == chosen


def test_a_candidate_that_ran_away_has_one_row_that_is_no_number() -> None:
    rows = {"b": np.array([NAN]), "a": made_up(0.3)["a"]}
    assert left_to_try(rows) == ["a"]
    assert most_promising(rows) == ("a", True)
    assert most_promising({"a": np.array([NAN]), "b": np.array([NAN])}) == ("a", False)


def test_noise_does_not_choose_between_candidates() -> None:
    """Of pairs that are alike the second one goes on in a few, for chance shows it."""
    rng = np.random.default_rng(0)
    others, right = 0, 0
    for _ in range(200):
        alike = {name: rng.exponential(0.1, 845) for name in ("searched", "layers")}
        others += most_promising(alike)[0] != "searched"
        texts = rng.exponential(0.1, 845)  # which are hard for both
        better = {"searched": texts + rng.normal(0.01, 0.05, 845), "layers": texts}
        right += most_promising(better)[0] == "layers"
    assert others <= 12
    assert right >= 195


@pytest.mark.parametrize(
    ("whole", "speed", "tried"),
    [(None, 0.0, True), (2.4, 2.0, True), (2.41, 2.0, False), (1.5, 2.0, True)],
)
def test_layers_that_leave_time_unused_are_not_tried(
    whole: float | None, speed: float, tried: bool
) -> None:
    assert worth_trying(whole, speed) is tried


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ({1e-4: 0.3, 2e-4: 0.2, 5e-4: 0.1, 1e-3: 0.15}, [5e-4, 1e-3]),
        ({1e-4: math.nan, 2e-4: 0.2, 5e-4: math.nan, 1e-3: 9.0}, [2e-4, 1e-3]),
        ({1e-4: 0.1, 2e-4: math.nan, 5e-4: 0.3, 1e-3: 0.2}, [1e-4, 1e-3]),
        ({2e-4: math.nan}, [2e-4]),
    ],
)
def test_rates_that_are_tried_longer(found: dict[float, float], chosen: list[float]) -> None:
    spread = np.array([-0.01, 0.0, 0.01])
    rows = {rate: mean + place * spread for place, (rate, mean) in enumerate(found.items())}
    assert finalists(rows) == chosen


def test_a_rate_that_is_not_shown_to_be_worse_is_tried_longer_if_it_is_the_usual_one() -> None:
    """1,000 searches of both rounds over four rates that differ in nothing but noise."""
    draw, taken = np.random.default_rng(2), 0
    for _ in range(1000):
        row = draw.exponential(0.1, 300)
        first, second = (
            {rate: row + draw.normal(0, 0.05, 300) for rate in RATES} for _ in range(2)
        )
        taken += best_rate({rate: second[rate] for rate in finalists(first)}) != USUAL_RATE
    assert taken < 50


def test_the_usual_rate_stays_unless_another_is_shown_to_be_better() -> None:
    """1,000 searches in which rates differ in nothing but noise, and 1,000 in which one is better.

    300 validation rows; a row's divergence is about as far spread as its mean, and half of that is
    the row itself, the same for both rates.
    """
    draw = np.random.default_rng(0)
    other, taken = 5e-4, {0.0: 0, 0.02: 0}
    for gain in taken:
        for _ in range(1000):
            row = draw.exponential(0.1, 300)
            usual, better = (row + draw.normal(0, 0.05, 300) for _ in range(2))
            taken[gain] += best_rate({USUAL_RATE: usual + gain, other: better}) == other
    assert taken[0.0] < 50
    assert taken[0.02] > 990


def test_noise_does_not_make_another_round() -> None:
    """Of 1,000 rounds that bring nothing few go on; of those that bring a fifth, all."""
    draw, went_on = np.random.default_rng(1), {0.0: 0, 0.02: 0}
    for gain in went_on:
        for _ in range(1000):
            row = draw.exponential(0.1, 300)
            before, after = (row + draw.normal(0, 0.05, 300) for _ in range(2))
            went_on[gain] += shown_nearer(before + gain, after)
    assert went_on[0.0] < 50
    assert went_on[0.02] > 990
    none = np.full(9, math.nan)
    assert not shown_nearer(none, np.full(9, 0.1))
    assert not shown_nearer(np.full(9, 0.1), none)
    assert not shown_nearer(np.array([0.2]), np.array([0.1])), "one row shows nothing"


def test_of_other_rates_the_nearest_and_never_one_that_is_no_number() -> None:
    low, high, none = np.full(9, 0.1), np.full(9, 0.2), np.full(9, math.nan)
    assert best_rate({1e-4: high, 5e-4: low}) == 5e-4
    assert best_rate({1e-4: high, 5e-4: none}) == 1e-4
    assert best_rate({USUAL_RATE: none, 5e-4: high}) == 5e-4
    assert best_rate({USUAL_RATE: high[:1], 5e-4: low[:1]}) == USUAL_RATE, "one row shows nothing"
