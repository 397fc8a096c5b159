"""Scores against values worked by hand or by finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model
from torch.nn.functional import cross_entropy

from hfprune.core.errors import PlanError
from hfprune.families import block_views
from hfprune.families.blocks import BlockKey
from hfprune.pruning.gates import Gates
from hfprune.pruning.importance import (
    GradientScores,
    knowledge_scores,
    magnitude_scores,
    random_scores,
)

KEY = BlockKey(0, "ffn")


def labelled(batch: Any) -> Any:
    return {**batch, "labels": torch.arange(len(batch["input_ids"])) % 3}


def test_fisher_and_taylor_by_hand() -> None:
    fisher, taylor = GradientScores("fisher"), GradientScores("taylor")
    for gradient in ([3.0, 0.5], [-1.0, 0.5]):
        fisher.update({KEY: torch.tensor(gradient)})
        taylor.update({KEY: torch.tensor(gradient)})
    assert fisher.values[KEY].tolist() == [10.0, 0.5]
    assert taylor.values[KEY].tolist() == [4.0, 1.0]


def test_decay_halves_the_past() -> None:
    scores = GradientScores("fisher", decay=0.5)
    for gradient in (4.0, 2.0, 1.0):
        scores.update({KEY: torch.tensor([gradient])})
    assert scores.values[KEY].tolist() == [16 / 4 + 4 / 2 + 1]


def test_nonfinite_gradients_are_not_added() -> None:
    scores = GradientScores("fisher")
    assert scores.update({KEY: torch.tensor([1.0])})
    assert not scores.update({KEY: torch.tensor([float("nan")])})
    assert scores.values[KEY].tolist() == [1.0]
    assert scores.updates == 1


def test_state_round_trip() -> None:
    scores = GradientScores("fisher")
    scores.update({KEY: torch.tensor([1.0, 2.0]), BlockKey(3, "attention"): torch.tensor([5.0])})
    again = GradientScores("fisher")
    again.load_state_dict(scores.state_dict())
    assert again.updates == 1
    assert {key: value.tolist() for key, value in again.values.items()} == {
        KEY: [1.0, 4.0],
        BlockKey(3, "attention"): [25.0],
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_gate_gradient_is_the_finite_difference_of_the_loss(family: str) -> None:
    model = tiny_model(family).double()
    batch = tiny_batch(family=family)
    # Not the model's own loss, which some families compute in float32. The root mean square norm
    # is always in float32: a wider step, for its rounding.
    step, tolerance = (3e-2, 1e-2) if family in ("llama", "qwen2", "qwen3") else (1e-3, 1e-3)
    target = torch.arange(4) % 3

    def loss() -> torch.Tensor:
        return cross_entropy(model(**batch).logits, target)

    gates = Gates(model)
    gates.set_trainable(True)
    with gates:
        loss().backward()
        found = gates.gradients()
        gates.set_trainable(False)
        for key, unit in ((BlockKey(1, "attention"), 2), (BlockKey(2, "ffn"), 7)):
            losses = []
            for value in (1 + step, 1 - step):
                gates._partial.add(key)  # a gate other than 0 or 1 is none of a plan's
                gates.values[key] = torch.ones_like(gates.values[key], dtype=torch.float64)
                gates.values[key][unit] = value
                with torch.no_grad():
                    losses.append(float(loss()))
            gates.values[key] = torch.ones_like(gates.values[key])
            slope = (losses[0] - losses[1]) / (2 * step)
            assert float(found[key][unit]) == pytest.approx(slope, rel=tolerance, abs=1e-8)


def test_magnitude_by_hand() -> None:
    model = tiny_model("bert")
    model.requires_grad_(False)
    layer: Any = model.bert.encoder.layer[0]
    scores = magnitude_scores(model)
    rows = slice(2 * 8, 3 * 8)  # head 2 of size 8
    inner = layer.attention.self
    by_hand = sum(
        float(m.weight[rows].square().sum()) for m in (inner.query, inner.key, inner.value)
    )
    by_hand += float(layer.attention.output.dense.weight[:, rows].square().sum())
    assert float(scores[BlockKey(0, "attention")][2]) == pytest.approx(by_hand, rel=1e-5)
    neuron = float(layer.intermediate.dense.weight[7].square().sum())
    neuron += float(layer.output.dense.weight[:, 7].square().sum())
    assert float(scores[KEY][7]) == pytest.approx(neuron, rel=1e-5)


def test_knowledge_by_hand() -> None:
    other = BlockKey(0, "attention")
    energies = {KEY: torch.tensor([1.0, 3.0]), other: torch.tensor([4.0])}
    gradients = {KEY: torch.tensor([[2.0, 0.0], [0.0, -4.0]]), other: torch.tensor([[2.0], [2.0]])}
    # representation: 1, 3 and 4 of 8; prediction: half of 2, 8 and 4, so 1, 4 and 2 of 7
    scores = knowledge_scores(energies, gradients)
    for key, wanted in ((KEY, [1 / 8 + 1 / 7, 3 / 8 + 4 / 7]), (other, [4 / 8 + 2 / 7])):
        assert scores[key].tolist() == pytest.approx([value / 2 for value in wanted])
    only = knowledge_scores(energies, gradients, balance=1.0)
    assert only[KEY].tolist() == pytest.approx([1 / 8, 3 / 8])
    with pytest.raises(PlanError, match=r"balance must be in \[0, 1\], got 2"):
        knowledge_scores(energies, gradients, balance=2)
    with pytest.raises(PlanError, match="must be of the same blocks and units"):
        knowledge_scores(energies, {KEY: gradients[KEY]})


def test_random_is_seeded() -> None:
    model = tiny_model("bert")
    first, again, other = (random_scores(model, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert set(first) == set(block_views(model))


def test_bad_settings() -> None:
    with pytest.raises(PlanError, match="unknown score 'grad'; gradient scores: taylor, fisher"):
        GradientScores("grad")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"score decay must be in \[0, 1\], got 2"):
        GradientScores("fisher", decay=2)
