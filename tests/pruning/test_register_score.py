"""Scores from outside: by name in a recipe, computed, and refused where they cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_model

from hfprune.core import scores
from hfprune.core.errors import ExtensionError, PlanError, RecipeError
from hfprune.core.scores import GradientScore, WeightScore, register_score
from hfprune.families import block_views
from hfprune.families.blocks import BlockKey
from hfprune.pruning.importance import (
    GradientScores,
    is_gradient_score,
    magnitude_scores,
    random_scores,
    score_named,
    weight_scores,
)
from hfprune.recipe.reading import recipe_schema
from hfprune.recipe.sections.pruning import PruningConfig


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores.SCORES, "_values", dict(scores.SCORES._values))


def depth(model: Any, seed: int) -> dict[BlockKey, torch.Tensor]:
    return {
        key: torch.full((view.units,), float(-key.layer), dtype=torch.float64)
        for key, view in block_views(model).items()
    }


def test_a_recipe_takes_a_registered_score_and_no_other() -> None:
    with pytest.raises(RecipeError) as caught:
        PruningConfig(sparsity=0.5, score="fischer")
    assert "expected one of random, magnitude, taylor, fisher, got 'fischer' (text). " in str(
        caught.value
    )
    assert "Did you mean 'fisher'?" in str(caught.value)
    register_score("depth", WeightScore(depth))
    assert PruningConfig(sparsity=0.5, score="depth").score == "depth"
    with pytest.raises(RecipeError, match="one of random, magnitude, taylor, fisher, depth, got"):
        PruningConfig(sparsity=0.5, score="width")
    # What is generated is the same on every machine, whatever is installed there.
    assert "depth" not in str(recipe_schema()["$defs"]["PruningConfig"]["properties"]["score"])


def test_a_score_of_weights_is_computed_as_it_says() -> None:
    model = tiny_model("bert")
    register_score("depth", WeightScore(depth))
    found = weight_scores("depth", model, 0)
    assert set(found) == set(block_views(model))
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert found[BlockKey(1, "ffn")].unique().tolist() == [-1.0]
    assert not is_gradient_score("depth")


def test_our_own_are_what_they_were() -> None:
    model = tiny_model("bert")
    for key, value in weight_scores("random", model, 7).items():
        assert torch.equal(value, random_scores(model, 7)[key])
    for key, value in weight_scores("magnitude", model, 7).items():
        assert torch.equal(value, magnitude_scores(model)[key])
    assert is_gradient_score("fisher")
    with pytest.raises(PlanError, match="'fisher' is of gradients"):
        weight_scores("fisher", model, 0)
    with pytest.raises(PlanError, match="'fish'; there are: random, magnitude, taylor, fisher$"):
        score_named("fish")


def test_a_score_of_gradients_sums_its_terms() -> None:
    register_score("cubed", GradientScore(lambda gradient: gradient.abs() ** 3))
    running = GradientScores("cubed", decay=0.5)
    key = BlockKey(0, "ffn")
    running.update({key: torch.tensor([1.0, -2.0])})
    running.update({key: torch.tensor([2.0, 0.0])})
    assert running.values[key].tolist() == [8.5, 4.0]
    with pytest.raises(PlanError, match="gradient scores: taylor, fisher, cubed"):
        GradientScores("magnitude")


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda view: torch.zeros(view.units + 1), r"gives \(\d+,\) for layer 0 attention; expec"),
        (lambda view: [0.0] * view.units, "expected a tensor of the shape"),
        (lambda view: torch.full((view.units,), float("nan")), "not finite for layer 0 attention"),
    ],
)
def test_what_cannot_be_used_is_named(give: Any, message: str) -> None:
    def wrong(model: Any, seed: int) -> Any:
        return {key: give(view) for key, view in block_views(model).items()}

    register_score("wrong", WeightScore(wrong))
    with pytest.raises(ExtensionError, match=message):
        weight_scores("wrong", tiny_model("bert"), 0)


def test_a_block_that_is_left_out_and_a_term_of_another_shape() -> None:
    register_score("empty", WeightScore(lambda model, seed: {}))
    with pytest.raises(ExtensionError, match="'empty' gives None for layer 0 attention"):
        weight_scores("empty", tiny_model("bert"), 0)
    register_score("summed", GradientScore(lambda gradient: gradient.sum()))
    with pytest.raises(ExtensionError, match=r"'summed' gives \(\) for layer 0 ffn; .* \(3,\)"):
        GradientScores("summed").update({BlockKey(0, "ffn"): torch.ones(3)})


def test_what_is_no_score_is_refused() -> None:
    for value, message in (
        (depth, "expected a WeightScore or a GradientScore"),
        (WeightScore(3), "holds 3; expected a function"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ExtensionError, match=message):
            register_score("wrong", value)  # type: ignore[arg-type]
    with pytest.raises(ExtensionError, match="'fisher' is hfprune's own: choose another name"):
        register_score("fisher", WeightScore(depth), replace=True)
