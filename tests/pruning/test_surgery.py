"""Gated output == shrunk output, over families and kinds of plan."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import FAMILIES, random_plan, tiny_batch, tiny_model

from hfprune.core.errors import PlanError, UnsupportedModelError
from hfprune.families import block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.gates import Gates
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_

REMOVALS = {
    "uneven": (),
    "no-attention-1": (BlockKey(1, "attention"),),
    "no-ffn-0": (BlockKey(0, "ffn"),),
    "whole-layer-2": (BlockKey(2, "attention"), BlockKey(2, "ffn")),
    "all-but-one": tuple(
        BlockKey(layer, kind)
        for layer in range(3)
        for kind in ("attention", "ffn")
        if layer + (kind == "ffn")
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("removal", REMOVALS)
@torch.no_grad()
def test_shrunk_equals_gated(family: str, removal: str) -> None:
    model = tiny_model(family)
    plan = random_plan(model, seed=len(removal), removed=REMOVALS[removal])
    batches = [
        tiny_batch(family=family),
        tiny_batch(1, 7, padded=False, family=family),
        tiny_batch(9, 30, seed=3, family=family),
    ]
    dense = [model(**batch).logits for batch in batches]
    with Gates(model, plan):
        gated = [model(**batch).logits for batch in batches]
    after = [model(**batch).logits for batch in batches]
    small = shrink_(copy.deepcopy(model), plan)
    for batch, want, plain, again in zip(batches, gated, dense, after, strict=True):
        torch.testing.assert_close(small(**batch).logits, want, atol=1e-5, rtol=0)
        assert torch.equal(plain, again), "detached gates leave no trace"
        assert not torch.allclose(plain, want, atol=1e-4), "the plan must change something"
    assert model_sizes(small) == plan.sizes()
    assert type(small) is type(model)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shrink_twice_equals_once(family: str) -> None:
    model = tiny_model(family)
    first = random_plan(model, seed=5, removed=(BlockKey(1, "ffn"),))
    small = shrink_(copy.deepcopy(model), first)
    second = random_plan(small, seed=6, removed=(BlockKey(0, "attention"),))
    twice = shrink_(small, second)
    combined = first
    for key in first.keys():
        kept = first.kept(key)
        chosen = {kept[index] for index in second.kept(key)}
        combined = combined.with_block(key, [i in chosen for i in range(len(first.mask(key)))])
    once = shrink_(copy.deepcopy(model), combined)
    batch = tiny_batch(family=family)
    assert torch.equal(twice(**batch).logits, once(**batch).logits)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_states_are_those_of_the_gated_model(family: str) -> None:
    """As many as before, at the same places: distillation compares them one by one."""
    model = tiny_model(family)
    plan = random_plan(model, seed=4, removed=REMOVALS["whole-layer-2"] + REMOVALS["no-ffn-0"])
    batch = tiny_batch(family=family)
    dense = model(**batch, output_hidden_states=True).hidden_states
    with Gates(model, plan):
        gated = model(**batch, output_hidden_states=True).hidden_states
    small = shrink_(model, plan)(**batch, output_hidden_states=True).hidden_states
    assert len(small) == len(dense)
    for mine, want in zip(small, gated, strict=True):
        torch.testing.assert_close(mine, want, atol=1e-5, rtol=0)


def test_removed_units_leave_with_their_parameters() -> None:
    model = tiny_model("bert")
    before = sum(p.numel() for p in model.parameters())
    plan = PruningPlan.dense(model_sizes(model))
    plan = plan.with_block(BlockKey(0, "attention"), [True, False, False, True])
    plan = plan.with_block(BlockKey(1, "ffn"), [i < 40 for i in range(48)])
    per_head = 3 * (8 * 32 + 8) + 8 * 32
    per_neuron = 32 + 1 + 32
    views = block_views(model)
    assert views[BlockKey(0, "attention")].unit_parameters() == per_head
    assert views[BlockKey(0, "ffn")].unit_parameters() == per_neuron
    shrink_(model, plan)
    after = sum(p.numel() for p in model.parameters())
    assert before - after == 2 * per_head + 8 * per_neuron


def test_removed_block_leaves_no_parameters() -> None:
    model = tiny_model("bert")
    layer = model.bert.encoder.layer[1]
    block = sum(p.numel() for m in (layer.intermediate, layer.output) for p in m.parameters())
    before = sum(p.numel() for p in model.parameters())
    plan = PruningPlan.dense(model_sizes(model)).with_block(BlockKey(1, "ffn"), [False] * 48)
    shrink_(model, plan)
    assert before - sum(p.numel() for p in model.parameters()) == block


def test_plan_for_another_model_is_refused_and_nothing_touched() -> None:
    model = tiny_model("bert")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plan = PruningPlan.dense([(4, 48), (4, 47), (4, 48)])
    with pytest.raises(PlanError, match="the plan has 47 neurons in layer 1, the model has 48"):
        shrink_(model, plan)
    with pytest.raises(PlanError, match="the plan is for 2 layers, the model has 3"):
        shrink_(model, PruningPlan.dense([(4, 48)] * 2))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_unknown_family_names_the_supported_ones() -> None:
    import transformers

    config = transformers.AutoConfig.for_model("xlnet", d_model=16, n_layer=1, n_head=2, d_inner=16)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(
        UnsupportedModelError, match=r"'xlnet'; supported: .*bert.*distilbert.*roberta"
    ):
        model_sizes(model)
    with pytest.raises(UnsupportedModelError, match="expected a transformers model with a config"):
        model_sizes(torch.nn.Linear(2, 2))


def test_decoder_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="configured as a decoder"):
        model_sizes(tiny_model("bert", is_decoder=True))


@torch.no_grad()
def test_gates_cannot_be_attached_twice() -> None:
    gates = Gates(tiny_model("bert"))
    with gates, pytest.raises(PlanError, match="attached already"):
        gates.attach()
