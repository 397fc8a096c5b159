"""Shrinking and saving, over shapes, plans and families that nobody chose by hand."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TEXT_FAMILIES, tiny_batch, tiny_model

import hfprune
from hfprune.families import model_sizes
from hfprune.pruning.gates import Gates
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_

# What a family calls its width of feed-forward blocks.
WIDTHS = {"distilbert": "hidden_dim", "gpt2": "n_inner"}


@st.composite
def models(draw: st.DrawFn) -> Any:
    family = draw(st.sampled_from(TEXT_FAMILIES))
    layers = draw(st.integers(1, 3))
    extra: dict[str, Any] = {WIDTHS.get(family, "intermediate_size"): draw(st.integers(1, 20))}
    if family == "albert":
        extra |= {"num_hidden_groups": layers, "num_hidden_layers": layers}
    return tiny_model(
        family,
        labels=draw(st.integers(1, 4)),
        layers=layers,
        seed=draw(st.integers(0, 9)),
        **extra,
    )


def plans(draw: st.DrawFn, model: Any) -> PruningPlan:
    plan = PruningPlan.dense(model_sizes(model))
    for key in plan.keys():
        size = len(plan.mask(key))
        # Few ones, all of them, or anything between; a block without units goes as a whole.
        plan = plan.with_block(key, draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    return plan


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@settings(max_examples=25)
@given(st.data())
@torch.no_grad()
def test_shrunk_equals_gated_and_comes_back_bit_for_bit(data: st.DataObject) -> None:
    model = data.draw(models())
    plan = plans(data.draw, model)
    rows, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 20))
    batches = [tiny_batch(rows, tokens), tiny_batch(1, 1, padded=False)]
    with Gates(model, plan):
        gated = [model(**batch).logits for batch in batches]
    small = shrink_(copy.deepcopy(model), plan)
    assert model_sizes(small) == plan.sizes()
    logits = [small(**batch).logits for batch in batches]
    for want, found in zip(gated, logits, strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    with tempfile.TemporaryDirectory() as folder:
        small.save_pretrained(folder)
        again = hfprune.from_pretrained(folder)
        again.save_pretrained(Path(folder) / "twice")
        twice = hfprune.from_pretrained(Path(folder) / "twice")
    assert equal(again.state_dict(), small.state_dict())
    assert equal(twice.state_dict(), small.state_dict())
    for batch, want in zip(batches, logits, strict=True):
        assert torch.equal(again(**batch).logits, want)


@settings(max_examples=15)
@given(st.data())
@torch.no_grad()
def test_shrinking_in_two_steps_equals_one(data: st.DataObject) -> None:
    model = data.draw(models())
    first = plans(data.draw, model)
    small = shrink_(copy.deepcopy(model), first)
    second = plans(data.draw, small)
    both = first
    for key in first.keys():
        kept = first.kept(key)
        chosen = {kept[index] for index in second.kept(key)}
        both = both.with_block(key, [i in chosen for i in range(len(first.mask(key)))])
    batch = tiny_batch()
    once = shrink_(copy.deepcopy(model), both)(**batch).logits
    assert torch.equal(shrink_(small, second)(**batch).logits, once)
