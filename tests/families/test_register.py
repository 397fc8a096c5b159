"""Families from outside: what may be registered, and what is told of what may not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_model

from hfprune.core.errors import ExtensionError, UnsupportedModelError
from hfprune.families import (
    Adapter,
    Parts,
    Place,
    PostNormAdapter,
    PreNormAdapter,
    Producer,
    adapter_for,
    block_views,
    register_family,
    registry,
    supported_model_types,
)
from hfprune.families.base import PassZero
from hfprune.families.bert import BertAdapter


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.FAMILIES, "_values", dict(registry.FAMILIES._values))


def test_a_registered_family_is_pruned_like_ours() -> None:
    with pytest.raises(UnsupportedModelError, match="'my-bert'; supported: albert, bert"):
        adapter_for("my-bert")

    @register_family
    class MyAdapter(BertAdapter):
        model_types = ("my-bert", "my-other-bert")

    assert isinstance(adapter_for("my-bert"), MyAdapter)
    assert {"my-bert", "my-other-bert"} < set(supported_model_types())
    model = tiny_model("bert")
    model.config.model_type = "my-bert"
    assert [str(key) for key in block_views(model)][:2] == ["layer 0 attention", "layer 0 ffn"]


def test_another_adapter_takes_the_place_of_ours_only_if_told() -> None:
    class MyAdapter(BertAdapter):
        model_types = ("bert",)

    with pytest.raises(ExtensionError, match="there is a family 'bert' already"):
        register_family(MyAdapter)
    register_family(MyAdapter, replace=True)
    assert isinstance(adapter_for("bert"), MyAdapter)
    assert not isinstance(adapter_for("roberta"), MyAdapter)


def test_what_is_no_adapter_is_refused() -> None:
    class Unnamed(BertAdapter):
        model_types = ()

    class Half(PreNormAdapter):
        model_types = ("half",)

        def heads(self, layer: Any) -> Parts:
            raise AssertionError

    class NoAdapter:
        model_types = ("none",)

    with pytest.raises(ExtensionError, match=r'no model_types: expected .* \("bert",\)'):
        register_family(Unnamed)
    with pytest.raises(ExtensionError, match="the adapter Half lacks neurons: define them"):
        register_family(Half)
    with pytest.raises(ExtensionError, match="expected a class that derives from"):
        register_family(NoAdapter)  # type: ignore[type-var]
    with pytest.raises(ExtensionError, match="the adapter BertAdapter is registered for .*'gpt3'"):
        registry.FAMILIES.register("gpt3", BertAdapter)


def test_a_place_that_does_not_hold_the_consumer_is_named() -> None:
    class Misplaced(BertAdapter):
        ffn_at = Place("intermediate", PassZero)

    layer = tiny_model("bert").base_model.encoder.layer[0]
    with pytest.raises(UnsupportedModelError, match="layer 2 ffn: the consumer is not inside the"):
        Misplaced().ffn(layer, registry.BlockKey(2, "ffn"))


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = torch.nn.Linear(4, 6)
        self.out = torch.nn.Linear(6, 4)


class Layer(torch.nn.Module):
    """With everything that a place may name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.block, self.extra = torch.nn.LayerNorm(4), Block(), torch.nn.Linear(4, 4)


def view_of(kind: type[Adapter], norm: str | None) -> tuple[Layer, Any]:
    class Mine(kind):  # type: ignore[misc, valid-type]
        ffn_at = Place("block", PassZero, norm=norm, discards=("extra",))

        def heads(self, layer: Any) -> Parts:
            raise AssertionError

        def neurons(self, layer: Any) -> Parts:
            return Parts((Producer(layer.block.into, 1),), layer.block.out)

    layer = Layer()
    return layer, Mine().ffn(layer, registry.BlockKey(0, "ffn"))


def test_pre_norm_the_norm_leads_in_and_leaves_with_the_block() -> None:
    layer, view = view_of(PreNormAdapter, "norm")
    assert view.stream is layer.norm
    assert view.discards == ((layer, "extra"), (layer, "norm"))
    assert [(skip.attribute, type(skip.replacement).__name__) for skip in view.skips] == [
        ("block", "PassZero")
    ]
    assert list(view.skips[0].replacement.state_dict()) == ["out.weight"]
    layer, view = view_of(PreNormAdapter, None)
    assert view.stream is layer.block
    assert view.discards == ((layer, "extra"),)


def test_post_norm_the_norm_is_passed_over_with_the_block() -> None:
    layer, view = view_of(PostNormAdapter, "norm")
    assert view.stream is layer.block.into
    assert view.discards == ((layer, "extra"),)
    assert [(skip.attribute, type(skip.replacement).__name__) for skip in view.skips] == [
        ("block", "PassZero"),
        ("norm", "PassInput"),
    ]
    layer, view = view_of(PostNormAdapter, None)
    assert [skip.attribute for skip in view.skips] == ["block"]
