"""Passes that begin at a layer give what passes from the inputs give, in every family."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest
import torch
from tiny import FAMILIES, random_plan, tiny_batch, tiny_model

from hfprune.core.errors import PlanError
from hfprune.families import adapter_of, block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.gates import Gates
from hfprune.pruning.reconstruction.layer_passes import LayerPasses
from hfprune.pruning.reconstruction.passes import captured, stopping
from hfprune.pruning.reconstruction.reconstruct import Reconstruction, _pruned_copy
from hfprune.pruning.reconstruction.targets import RefitTargets, refit_outputs_
from hfprune.pruning.surgery import shrink_

LIMIT = 1e9


def batches_of(family: str, count: int = 3) -> list[dict[str, Any]]:
    return [tiny_batch(4, 12, seed=seed, family=family) for seed in range(count)]


def refitted(family: str, *, keep: float, targets: float = LIMIT) -> dict[str, torch.Tensor]:
    model = tiny_model(family).eval()
    teacher = copy.deepcopy(model)
    plan = random_plan(model, removed=(BlockKey(1, "attention"),))
    batches = batches_of(family)
    with torch.no_grad():
        shrink_(model, plan)
        found = RefitTargets(teacher, batches, limit=targets)
        refit_outputs_(model, teacher, batches, targets=found, limit=keep)
    return dict(model.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refit_is_the_same_with_and_without_what_is_kept(family: str) -> None:
    expected = refitted(family, keep=0.0)
    for keep, targets in ((LIMIT, LIMIT), (3000.0, LIMIT), (LIMIT, 0.0), (LIMIT, 3000.0)):
        got = refitted(family, keep=keep, targets=targets)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(got[name], value), (name, keep, targets)


def layers_run(model: Any, passes: LayerPasses, index: int, layer: int) -> tuple[list[int], Any]:
    """Numbers of the layers that really ran, and what entered the consumer of the layer's ffn."""
    ran: list[int] = []
    handles = []
    for number in range(len(adapter_of(model).layers(model))):
        producer = block_views(model)[BlockKey(number, "attention")].producers[0].module
        handles.append(producer.register_forward_pre_hook(lambda _, args, n=number: ran.append(n)))
    view = block_views(model)[BlockKey(layer, "ffn")]
    with captured({"x": view.consumer}) as found, stopping(view.consumer, 1):
        passes.run(index, layer)
    for handle in handles:
        handle.remove()
    return ran, found["x"]


def test_only_layers_that_have_not_been_passed_run() -> None:
    model = tiny_model("bert").eval()
    batches = batches_of("bert", 2)
    passes = LayerPasses(model, batches, LIMIT)
    fresh = LayerPasses(model, batches, 0.0)
    last = len(list(adapter_of(model).layers(model))) - 1
    with torch.no_grad():
        ran, _ = layers_run(model, passes, 0, 0)
        assert ran == [0]
        ran, _ = layers_run(model, passes, 0, last)
        assert ran == list(range(last + 1))
        ran, kept = layers_run(model, passes, 0, last)
        assert ran == [last]
        ran, anew = layers_run(model, fresh, 0, last)
        assert ran == list(range(last + 1))
        assert torch.equal(kept, anew)
        ran, _ = layers_run(model, passes, 0, 1)  # back: from the bottom
        assert ran == [0, 1]
        ran, _ = layers_run(model, passes, 1, last)  # each batch for itself
        assert ran == list(range(last + 1))
    assert "forward" not in vars(adapter_of(model).layers(model)[0])


def test_a_forward_of_the_layers_own_comes_back() -> None:
    model = tiny_model("bert").eval()
    first: Any = adapter_of(model).layers(model)[0]
    stock = first.forward
    first.forward = own = lambda *args, **kwargs: stock(*args, **kwargs)
    passes = LayerPasses(model, batches_of("bert", 1), LIMIT)
    with torch.no_grad():
        for _ in range(2):
            passes.run(0, 1)
    assert first.forward is own


def test_an_error_of_the_model_is_not_swallowed() -> None:
    model = tiny_model("bert").eval()
    batch = {"input_ids": torch.full((2, 5), 10_000)}
    passes = LayerPasses(model, [batch], LIMIT)
    with torch.no_grad(), pytest.raises(IndexError):
        passes.run(0, 1)
    passes._batches = batches_of("bert", 1)
    with torch.no_grad():
        ran, _ = layers_run(model, passes, 0, 1)
    assert ran == [0, 1]  # nothing was kept of the pass that failed


@pytest.mark.parametrize("family", FAMILIES)
def test_the_search_judges_what_gates_would_give(family: str) -> None:
    """A copy that is shrunk, and the model itself untouched."""
    model = tiny_model(family).eval()
    teacher = copy.deepcopy(model)
    batches = batches_of(family)
    found = Reconstruction(model, teacher, batches)
    unit = parameter_costs(model)

    def cost(key: BlockKey, count: int) -> float:
        return count * unit[key]

    total = sum(view.units * unit[key] for key, view in block_views(model).items())
    plan = found.search(0.5 * total, cost, rounds=3)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.parameters(), teacher.parameters(), strict=True)
    )
    with torch.no_grad():
        pruned = _pruned_copy(model, plan, found.levels)
        views = block_views(model)
        for key, view in views.items():
            kept = plan.kept(key)
            if kept and len(kept) < view.units:
                level = found.levels[key]
                view.weight[:, view.columns(kept)] = level.weights[level.counts.index(len(kept))]
        with Gates(model, plan):
            for batch in batches:
                torch.testing.assert_close(
                    pruned(**batch).logits, model(**batch).logits, rtol=1e-4, atol=1e-5
                )
    assert list(model_sizes(pruned)) == list(plan.sizes())


def test_a_model_whose_copies_would_run_it_is_refused() -> None:
    """Its plans all looked as good as the dense model."""
    model: Any = tiny_model("bert").eval()
    teacher = copy.deepcopy(model)
    unit = parameter_costs(model)
    total = sum(view.units * unit[key] for key, view in block_views(model).items())

    def searched() -> Any:
        found = Reconstruction(model, teacher, batches_of("bert"))
        return found.search(0.5 * total, lambda key, count: count * unit[key], rounds=3)

    expected = searched()
    stock = model.forward
    model.forward = lambda *args, **kwargs: stock(*args, **kwargs)
    with pytest.raises(PlanError, match=r"the model \(BertFor.*<lambda>; .*`del model.forward"):
        searched()
    # As accelerate wraps it for mixed precision.
    model.forward = MethodType(
        lambda self, *args, **kwargs: type(self).forward(self, *args, **kwargs), model
    )
    assert searched() == expected
