"""The schedule: its values at chosen points, its shape everywhere, its errors."""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfprune.core.errors import RecipeError
from hfprune.pruning.schedule import ScheduleKind, fraction
from hfprune.recipe.sections.pruning import PruningConfig

KINDS = get_args(ScheduleKind)
unit = st.floats(min_value=0.0, max_value=1.0)


@pytest.mark.parametrize(
    ("kind", "progress", "start", "end", "expected"),
    [
        ("one_shot", 0.29, 0.3, 0.6, 0.0),
        ("one_shot", 0.3, 0.3, 0.6, 1.0),
        ("one_shot", 1.0, 0.3, 0.6, 1.0),
        ("linear", 0.25, 0.25, 0.75, 0.0),
        ("linear", 0.375, 0.25, 0.75, 0.25),
        ("linear", 0.75, 0.25, 0.75, 1.0),
        ("cubic", 0.1, 0.25, 0.75, 0.0),
        ("cubic", 0.5, 0.25, 0.75, 0.875),
        ("cubic", 0.9, 0.25, 0.75, 1.0),
        ("linear", 0.0, 0.0, 0.0, 1.0),
        ("cubic", 0.49, 0.5, 0.5, 0.0),
        ("cubic", 0.5, 0.5, 0.5, 1.0),
        ("linear", 1.0, 1.0, 1.0, 1.0),
        ("one_shot", 0.5, 0.5, 0.1, 1.0),
    ],
)
def test_values(
    kind: ScheduleKind, progress: float, start: float, end: float, expected: float
) -> None:
    assert fraction(kind, progress, start, end) == expected


def test_a_start_after_the_end_is_refused_where_the_end_counts() -> None:
    with pytest.raises(RecipeError) as caught:
        fraction("linear", 0.3, start=0.5, end=0.1)
    assert str(caught.value) == "schedule: start (0.5) must not be after end (0.1)"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(KINDS), unit, unit, unit, unit)
def test_stays_in_the_unit_interval_and_never_falls(
    kind: ScheduleKind, a: float, b: float, one: float, other: float
) -> None:
    start, end = sorted((a, b))
    earlier, later = sorted((one, other))
    low, high = fraction(kind, earlier, start, end), fraction(kind, later, start, end)
    assert 0.0 <= low <= high <= 1.0
    assert fraction(kind, 1.0, start, end) == 1.0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 64), st.integers(0, 64), st.integers(0, 64))
def test_cubic_is_the_formula_of_the_paper(a: int, b: int, c: int) -> None:
    start, progress, end = sorted((a, b, c))
    if start == end or progress == end:
        return
    # Exact arithmetic with s_i = 0, s_f = 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3.
    exact = 1 - (1 - Fraction(progress - start, end - start)) ** 3
    assert fraction("cubic", progress / 64, start / 64, end / 64) == pytest.approx(float(exact))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["progress", "start", "end"])
def test_a_value_outside_the_unit_interval_is_named(name: str, value: float) -> None:
    values = {"progress": 0.5, "start": 0.1, "end": 0.9} | {name: value}
    with pytest.raises(RecipeError) as caught:
        fraction("linear", **values)
    assert str(caught.value) == f"schedule: {name} must be within [0, 1], got {value!r}"


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        fraction("cosine", 0.5, 0.1, 0.9)  # type: ignore[arg-type]
    assert str(caught.value) == ("unknown schedule 'cosine': choose one of one_shot, linear, cubic")


def test_recipes_offer_the_kinds_that_exist() -> None:
    assert get_args(PruningConfig.model_fields["schedule"].annotation) == KINDS
