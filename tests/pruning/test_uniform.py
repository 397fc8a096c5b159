"""Layers that are alike: the choice of their sizes, and models that transformers loads alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hfprune.core.errors import PlanError, UnsupportedModelError
from hfprune.families import adapter_of, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.models.checkpoint import from_pretrained
from hfprune.models.inspection import inspect
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.importance import random_scores
from hfprune.pruning.layout import check_family, finish_, loads_alone, uniform_shape
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.programme.uniform import (
    StockForm,
    UniformShape,
    choose_uniform,
    stock_form,
)
from hfprune.pruning.search import alike_plan, plan_cost, sparsity_budget
from hfprune.pruning.surgery import shrink_
from tests.tiny import FAMILIES, IMAGE_FAMILIES, tiny_batch, tiny_model, within

FREE = UniformShape(groups=((0,), (1,), (2,)))


def blocks(layers: int) -> list[BlockKey]:
    return [BlockKey(n, kind) for n in range(layers) for kind in ("attention", "ffn")]


@pytest.mark.parametrize(
    ("sizes", "shape", "expected"),
    [
        ([(4, 24), (0, 0), (4, 24)], FREE, StockForm((0, 2), 4, 24)),
        ([(4, 48)] * 3, FREE, StockForm((0, 1, 2), 4, 48)),
        ([(4, 24), (4, 23), (4, 24)], FREE, None),  # two sizes
        ([(4, 24), (0, 24), (4, 24)], FREE, None),  # a block alone
        ([(4, 0)] * 3, FREE, None),
        ([(0, 0)] * 3, FREE, None),  # nothing left
        ([(2, 24)] * 3, FREE, None),  # fewer heads
        ([(2, 24)] * 3, UniformShape(FREE.groups, heads=(1, 2)), StockForm((0, 1, 2), 2, 24)),
        ([(0, 0), (4, 24), (4, 24)], UniformShape(((1,), (2,))), None),  # the first stays
        ([(4, 24), (4, 24), (0, 0)], UniformShape(((1, 2),)), None),  # half a group
        ([(4, 24), (0, 0), (0, 0)], UniformShape(((1, 2),)), StockForm((0,), 4, 24)),
    ],
)
def test_what_a_stock_config_can_say(
    sizes: Any, shape: UniformShape, expected: StockForm | None
) -> None:
    assert stock_form(sizes, 4, shape) == expected


def by_hand(
    counts: Any, errors: Any, costs: Any, budget: float, shape: UniformShape
) -> tuple[float, float]:
    """All choices, one after the other: the least error, and its cost."""
    layers = len(counts) // 2
    best = (np.inf, np.inf)
    for a, f in itertools.product(range(len(counts[0])), range(len(counts[1]))):
        if not counts[0][a] or not counts[1][f] or (a and counts[0][a] not in shape.heads):
            continue
        for stays in itertools.product((True, False), repeat=layers):
            groups_ok = all(len({stays[n] for n in group}) == 1 for group in shape.groups)
            free = {n for group in shape.groups for n in group}
            if not any(stays) or not groups_ok:
                continue
            if any(not stay and n not in free for n, stay in enumerate(stays)):
                continue
            at = [place for n in range(layers) for place in ((a, f) if stays[n] else (-1, -1))]
            cost = sum(c[i] for c, i in zip(costs, at, strict=True))
            if cost <= budget:
                error = sum(e[i] for e, i in zip(errors, at, strict=True))
                best = min(best, (error, cost))
    return best


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "shape",
    [
        UniformShape(((0,), (1,), (2,), (3,)), heads=(1, 2)),
        UniformShape(((0,), (1,), (2,), (3,))),
        UniformShape(((1, 2), (3,)), heads=(1, 2)),
        UniformShape(()),
    ],
)
def test_the_choice_is_the_best_of_all(seed: int, shape: UniformShape) -> None:
    rng = np.random.default_rng(seed)
    counts = [(3, 2, 1, 0), (8, 5, 3, 0)] * 4
    errors = [np.sort(rng.random(4)) * (1 + rng.integers(3)) for _ in counts]
    costs = [np.array(c, dtype=float) * rng.uniform(0.5, 1.5) for c in counts]
    least = by_hand(counts, errors, costs, 1e9, shape)[1]
    budget = float(rng.uniform(0.3, 1.0)) * sum(float(c[0]) for c in costs)
    error, cost = by_hand(counts, errors, costs, budget, shape)
    assert least > 0
    if error == np.inf:
        with pytest.raises(PlanError, match="the smallest model whose layers are alike costs"):
            choose_uniform(blocks(4), counts, errors, costs, budget, shape)
        return
    found = choose_uniform(blocks(4), counts, errors, costs, budget, shape)
    assert found.error == pytest.approx(error)
    assert found.cost == pytest.approx(cost)
    assert found.cost <= budget


def test_one_layer_stays_even_if_none_would_lose_less() -> None:
    counts = [(2, 0), (4, 0)] * 2
    errors = [np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.array([2.0, 0.0]), np.zeros(2)]
    costs = [np.array([1.0, 0.0])] * 4
    found = choose_uniform(blocks(2), counts, errors, costs, 2.0, UniformShape(((0,), (1,))))
    assert found.levels in ((0, 0, 1, 1), (1, 1, 0, 0))
    assert found.error == 2.0


def test_only_the_layers_that_may_stay_do() -> None:
    counts = [(2, 0), (4, 2, 0)] * 3
    errors = [np.array([0.0, 9.0]), np.array([0.0, 0.1, 1.0])] * 3
    costs = [np.array([2.0, 0.0]), np.array([4.0, 2.0, 0.0])] * 3
    found = choose_uniform(blocks(3), counts, errors, costs, 99.0, FREE, layers=[0, 2])
    assert found.levels == (0, 0, 1, 2, 0, 0)
    with pytest.raises(PlanError, match="layer 0 cannot leave a model of this family"):
        choose_uniform(
            blocks(3), counts, errors, costs, 99.0, UniformShape(((1,), (2,))), layers=[1]
        )


@pytest.mark.parametrize(
    ("keys", "counts", "message"),
    [
        (blocks(2)[:3], [(2, 0), (4, 0), (2, 0)], "layer 1 has an attention block alone"),
        (blocks(2), [(2, 0), (4, 0), (2, 0), (3, 0)], "no number of neurons in common"),
        (blocks(2), [(2, 0), (4, 0), (3, 0), (4, 0)], "no number of heads in common"),
    ],
)
def test_layers_that_differ_are_refused(keys: Any, counts: Any, message: str) -> None:
    values = [np.zeros(len(c)) for c in counts]
    with pytest.raises(PlanError, match=message):
        choose_uniform(keys, counts, values, values, 9.0, FREE)


def uniform_plan_of(model: Any) -> PruningPlan:
    """One layer gone if one can go, and a third of the neurons of the others."""
    shape = uniform_shape(model)
    sizes = model_sizes(model)
    gone = shape.groups[-1] if shape.groups else ()
    heads, neurons = sizes[0]
    some = (max([*shape.heads, 0]) or heads, 2 * neurons // 3)
    kept = [(0, 0) if n in gone else some for n in range(len(sizes))]
    return PruningPlan.first_units(sizes, kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_alone_loads_a_uniform_model(family: str, tmp_path: Path) -> None:
    layers = 5 if family == "modernbert" else 3  # periods of three layers
    model = tiny_model(family, **({} if family == "albert" else {"layers": layers}))
    batch = tiny_batch(family=family)
    plan = uniform_plan_of(model)
    shrink_(model, plan)
    with torch.no_grad():
        before = model(**batch).logits
    assert not loads_alone(model)
    assert finish_(model, "uniform")
    assert loads_alone(model)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "hfprune" not in text
    maker: Any = transformers.AutoModelForSequenceClassification
    if family in IMAGE_FAMILIES:
        maker = transformers.AutoModelForImageClassification
    loaded, told = maker.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**batch).logits, before, rtol=0, atol=1e-6)
    assert len(model_sizes(loaded)) == sum(any(size) for size in plan.sizes())


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "vit"])
def test_whole_layers_that_leave_an_uneven_model_shorten_it(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    batch = tiny_batch(family=family)
    sizes = model_sizes(model)
    shrink_(model, PruningPlan.first_units(sizes, [sizes[0], (0, 0), sizes[2]]))
    with torch.no_grad():
        before = model(**batch).logits
    assert finish_(model, "uneven")
    assert model.config.hfprune["layers"] == [0, 2]
    assert model.config.hfprune["of_layers"] == 3
    model.save_pretrained(tmp_path)
    for loaded in (type(model).from_pretrained(tmp_path).eval(), from_pretrained(tmp_path)):
        with torch.no_grad():
            assert torch.equal(loaded(**batch).logits, before)
    # Layers that leave later are counted as they were at first.
    sizes = model_sizes(model)
    shrink_(model, PruningPlan.first_units(sizes, [(0, 0), sizes[1]]))
    assert finish_(model, "uneven")
    assert model.config.hfprune["layers"] == [2]
    assert model.config.hfprune["of_layers"] == 3


UNEVEN = [(3, 40), (0, 0), (0, 17), (0, 0)]


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "vit", "llama", "deberta-v2"])
def test_layers_that_leave_beside_uneven_ones_shorten_the_config(
    family: str, tmp_path: Path
) -> None:
    """In the middle and at the end; hfprune loads what is left, and transformers alone does not."""
    model = tiny_model(family, layers=4)
    batch = tiny_batch(family=family)
    sizes = model_sizes(model)
    kept = [(2 if family == "llama" and heads else heads, neurons) for heads, neurons in UNEVEN]
    shrink_(model, PruningPlan.first_units(sizes, kept))
    with torch.no_grad():
        before = model(**batch).logits
    assert not finish_(model, "uneven")
    assert model_sizes(model) == (kept[0], kept[2])
    name = {"distilbert": "n_layers", "gpt2": "n_layer"}.get(family, "num_hidden_layers")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config[name] == 2
    assert config["hfprune"]["layers"] == [0, 2]
    assert config["hfprune"]["of_layers"] == 4
    assert list(config["hfprune"]["per_layer_config"]) == ["0", "1"]
    loaded = from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, before)
    with pytest.raises(Exception, match="load it with hfprune.from_pretrained"):
        type(model).from_pretrained(tmp_path)
    found = inspect(tmp_path)
    dense = sum(p.numel() for p in tiny_model(family, layers=4).parameters())
    assert sum(p.numel() for p in loaded.parameters()) < dense
    assert 0.5 < found.sparsity < 1.0


def test_a_model_keeps_a_layer_though_all_are_empty() -> None:
    model = tiny_model("bert")
    sizes = model_sizes(model)
    shrink_(model, PruningPlan.first_units(sizes, [(0, 0)] * 3))
    assert not finish_(model, "uneven")
    assert model_sizes(model) == ((0, 0),)


def test_emptied_layers_stay_where_their_number_counts() -> None:
    counted = tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    shrink_(counted, PruningPlan.first_units(model_sizes(counted), [(4, 40), (0, 0), (4, 40)]))
    assert not finish_(counted, "uneven")
    assert len(model_sizes(counted)) == 3


def test_a_modernbert_loses_whole_periods() -> None:
    model = tiny_model("modernbert", layers=8)
    assert uniform_shape(model).groups == ((3, 4, 5), (6, 7))


def test_layers_stay_where_their_number_counts() -> None:
    assert uniform_shape(tiny_model("gpt2", scale_attn_by_inverse_layer_idx=True)).groups == ()
    convolved = tiny_model("deberta-v2", conv_kernel_size=3, conv_act="gelu")
    assert uniform_shape(convolved).groups == ((1,), (2,))
    assert uniform_shape(tiny_model("albert")).groups == ()


def test_models_whose_layers_differ_are_refused() -> None:
    model = tiny_model("bert")
    sizes = model_sizes(model)
    shrink_(model, PruningPlan.first_units(sizes, [(4, 40), (4, 48), (4, 48)]))
    for call in (uniform_shape, lambda model: finish_(model, "uniform")):
        with pytest.raises(PlanError, match=r"layers differ already \(heads.neurons: 4.40, 4.48"):
            call(model)


def test_a_family_that_does_not_name_its_sizes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert")
    monkeypatch.setattr(type(adapter_of(model)), "stock", None)
    with pytest.raises(
        UnsupportedModelError, match="set its attribute stock, or let layers differ"
    ):
        check_family("bert")
    with pytest.raises(UnsupportedModelError, match="set its attribute stock"):
        uniform_shape(model)
    assert not finish_(model, "uneven")


@pytest.mark.parametrize("family", ["bert", "llama", "albert"])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.7])
def test_a_plan_whose_layers_are_alike_spends_the_budget(family: str, sparsity: float) -> None:
    model = tiny_model(family)
    costs, shape = parameter_costs(model), uniform_shape(model)
    current = PruningPlan.dense(model_sizes(model))
    budget = sparsity_budget(current, costs, sparsity)

    def price(key: BlockKey, units: int) -> float:
        return costs[key] * units

    if family == "albert" and sparsity > 0.1:  # heads and layers stay
        with pytest.raises(PlanError, match="smallest model whose layers are alike"):
            alike_plan(random_scores(model, seed=1), price, current, budget, shape)
        return
    plan = alike_plan(
        random_scores(model, seed=1), lambda k, n: costs[k] * n, current, budget, shape
    )
    form = stock_form(plan.sizes(), 4, shape)
    assert form is not None
    spent = plan_cost(plan, costs)
    one_more = sum(costs[BlockKey(layer, "ffn")] for layer in form.layers)
    assert spent <= budget * (1 + 1e-9)
    assert form.neurons == 48 or spent + one_more > budget
    again = alike_plan(random_scores(model, seed=2), price, plan, 0.8 * spent, shape)
    assert within(again, plan)
    assert stock_form(again.sizes(), 4, shape) is not None
