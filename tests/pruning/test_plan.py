"""Plans: what they say, what they refuse, and that JSON keeps them whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import within

from hfprune.core.errors import PlanError
from hfprune.families.blocks import BlockKey
from hfprune.pruning.plan import PruningPlan

masks = st.lists(st.booleans(), max_size=6).map(tuple)
plans = st.lists(st.tuples(masks, masks), min_size=1, max_size=4).map(
    lambda rows: PruningPlan(tuple(h for h, _ in rows), tuple(n for _, n in rows))
)


@given(plans)
def test_json_round_trip(plan: PruningPlan) -> None:
    again = PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.digest() == plan.digest()


@given(plans)
def test_sizes_count_the_kept(plan: PruningPlan) -> None:
    for layer, (heads, neurons) in enumerate(plan.sizes()):
        assert heads == len(plan.kept(BlockKey(layer, "attention")))
        assert neurons == len(plan.kept(BlockKey(layer, "ffn")))
        assert plan.is_removed(BlockKey(layer, "ffn")) == (neurons == 0)
    assert within(plan, PruningPlan.dense(plan.totals()))


def test_one_unit_changes_the_digest() -> None:
    dense = PruningPlan.dense([(2, 2)])
    other = dense.with_block(BlockKey(0, "ffn"), [True, False])
    assert other.digest() != dense.digest()
    assert within(other, dense)
    assert not within(dense, other)


def test_first_units_keeps_a_prefix() -> None:
    plan = PruningPlan.first_units([(4, 3)], [(2, 0)])
    assert plan.heads == ((True, True, False, False),)
    assert plan.neurons == ((False, False, False),)
    with pytest.raises(PlanError, match="layer 0 has 4 heads, so it cannot keep 5"):
        PruningPlan.first_units([(4, 3)], [(5, 3)])
    with pytest.raises(PlanError, match="expected the kept sizes of 1 layers, got 2"):
        PruningPlan.first_units([(4, 3)], [(4, 3), (4, 3)])


GOOD = PruningPlan.dense([(2, 3)]).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "expected a plan with format_version 1, got"),
        ({"layers": "all"}, "a plan needs a list of layers"),
        ({"layers": [{**GOOD["layers"][0], "heads": [0, 2]}]}, "layer 0 heads: indices must be"),
        (
            {"layers": [{**GOOD["layers"][0], "neurons": [True]}]},
            "layer 0 neurons: expected a list",
        ),
        ({"layers": [{**GOOD["layers"][0], "num_heads": "2"}]}, "layer 0 heads: expected a total"),
        ({"vocabulary": [3, 1]}, "must be ascending token ids"),
        ({"vocabulary": [-1]}, "vocabulary: indices must be from 0"),
    ],
)
def test_damaged_json_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PruningPlan.from_dict({**GOOD, **change})


def test_masks_must_fit() -> None:
    plan = PruningPlan.dense([(2, 3)])
    with pytest.raises(PlanError, match="layer 0 ffn has 3 units, the new mask has 2"):
        plan.with_block(BlockKey(0, "ffn"), [True, True])
    with pytest.raises(PlanError, match="there is no layer 1 ffn"):
        plan.mask(BlockKey(1, "ffn"))
    with pytest.raises(PlanError, match="as many layers of heads as of neurons"):
        PruningPlan(heads=((True,),), neurons=())


def test_one_plan_after_another_is_one_plan() -> None:
    first = PruningPlan.dense([(4, 6), (2, 3)])
    first = first.with_block(BlockKey(0, "attention"), [True, False, True, True])
    first = first.with_block(BlockKey(1, "ffn"), [False, False, True])
    later = PruningPlan.dense(first.sizes())
    later = later.with_block(BlockKey(0, "attention"), [False, True, True])
    later = later.with_block(BlockKey(1, "ffn"), [False])
    both = first.then(later)
    assert both.kept(BlockKey(0, "attention")) == (2, 3)
    assert both.is_removed(BlockKey(1, "ffn"))
    assert both.sizes() == later.sizes()
    assert both.totals() == first.totals()
    words = PruningPlan(first.heads, first.neurons, (1, 4, 9))
    fewer = PruningPlan(later.heads, later.neurons, (0, 2))
    assert words.then(fewer).vocabulary == (1, 9)
    assert words.then(later).vocabulary == (1, 4, 9)
    with pytest.raises(PlanError, match="make the plan from this model"):
        first.then(first)
