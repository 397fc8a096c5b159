"""The checker of adapters passes sound ones and names what is wrong with broken ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from script import load_script
from tiny import TRANSFORMERS_5

from hfprune.families import BlockView, PassZero, Producer, Skip, registry
from hfprune.families.bert import BertAdapter
from hfprune.families.blocks import BlockKey

ROOT = Path(__file__).resolve().parents[2]


def script() -> Any:
    return load_script("check_family")


def failed(text: str) -> list[str]:
    return [line[8:] for line in text.splitlines() if line.startswith("FAILED")]


def test_a_sound_adapter_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert script().main(["distilbert", "--no-onnx"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("all checks passed\n")
    assert text.count("ok      ") == 13


def test_a_model_type_with_a_config_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["num_attention_heads=2", "hidden_size=16", "num_hidden_layers=3"]
    keys += ["intermediate_size=8", "vocab_size=100", "max_position_embeddings=40"]
    assert script().main(["electra", "--no-onnx", *keys]) == 0
    assert "all checks passed" in capsys.readouterr().out


def test_a_type_without_an_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["d_model=16", "n_layer=2", "n_head=2", "d_inner=16", "vocab_size=100"]
    assert script().main(["xlnet", "--no-onnx", *keys]) == 1
    text = capsys.readouterr().out
    assert failed(text)[0] == "the adapter is registered"
    assert "look at: BUILT_IN in families/registry.py" in text


# What is wrong with the feed-forward or attention view, and the first check that says so.
WRONG: dict[str, tuple[str, Callable[[BlockView, Any], BlockView], str]] = {
    "a producer is forgotten": (
        "attention",
        lambda view, layer: replace(view, producers=view.producers[:1]),
        "gated equals shrunk, uneven",
    ),
    "the wrong size of a unit": (
        "attention",
        lambda view, layer: replace(
            view, unit_size=4, producers=tuple(Producer(p.module, 4) for p in view.producers)
        ),
        "views have the sizes of the config",
    ),
    "the number of heads is not told": (
        "attention",
        lambda view, layer: replace(view, set_units=lambda kept: None),
        # There BERT works out the number from the size of a head.
        "a saved model loads again" if TRANSFORMERS_5 else "gated equals shrunk, uneven",
    ),
    "the stream does not flow on": (
        "ffn",
        lambda view, layer: replace(view, skips=(Skip(layer, "output", PassZero("dense.weight")),)),
        "hidden states",
    ),
    "half of a block is left behind": (
        "ffn",
        lambda view, layer: replace(view, discards=()),
        "nothing is left of a layer without blocks",
    ),
    "a marker of a name that nobody looks for": (
        "ffn",
        lambda view, layer: replace(
            view, skips=(Skip(layer, "output", type(view.skips[0].replacement)("nothing")),)
        ),
        "plain transformers refuses a shrunk model",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_adapter_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, spoil, check = WRONG[name]

    class Broken(BertAdapter):
        def attention(self, layer: Any, key: BlockKey) -> BlockView | None:
            view = super().attention(layer, key)
            return spoil(view, layer) if view is not None and kind == "attention" else view

        def ffn(self, layer: Any, key: BlockKey) -> BlockView | None:
            view = super().ffn(layer, key)
            return spoil(view, layer) if view is not None and kind == "ffn" else view

    monkeypatch.setitem(registry.FAMILIES._values, "bert", Broken)
    assert script().main(["bert", "--no-onnx"]) == 1
    found = failed(capsys.readouterr().out)
    assert any(line.startswith(check) for line in found), found
