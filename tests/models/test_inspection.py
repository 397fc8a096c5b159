"""What inspection tells, against sizes worked out by hand and the library's own counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny import FAMILIES, IMAGE_FAMILIES, random_plan, tiny_model

import hfprune
from hfprune.core.errors import CheckpointError, HFPruneError, UnsupportedModelError
from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.models.inspection import inspect, tables
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_

HEAD = 8 * (3 * (32 + 1) + 32)
NEURON = 32 + 1 + 32


def test_a_bert_by_hand() -> None:
    model = tiny_model("bert", labels=2)
    model.config.id2label = {0: "no", 1: "yes"}
    sizes = [(4, 48), (1, 0), (0, 5)]
    shrink_(model, PruningPlan.first_units(model_sizes(model), sizes))
    found = inspect(model, sequence_length=10)
    assert [(e.heads, e.neurons) for e in found.layers] == sizes
    assert [(e.of_heads, e.of_neurons) for e in found.layers] == [(4, 48)] * 3
    assert [e.head_size for e in found.layers] == [8, 8, 0]
    assert [e.attention_parameters for e in found.layers] == [4 * HEAD, HEAD, 0]
    assert [e.ffn_parameters for e in found.layers] == [48 * NEURON, 0, 5 * NEURON]
    # Output biases and norms stay while their block does.
    rest = 32 + 64
    assert [e.parameters for e in found.layers] == [
        4 * HEAD + 48 * NEURON + 2 * rest,
        HEAD + rest,
        5 * NEURON + rest,
    ]
    macs = [10 * (h * 8 * 32 * 4 + n * 64) + 2 * 100 * h * 8 for h, n in sizes]
    assert [e.macs for e in found.layers] == macs
    assert found.macs == sum(macs) + 32 * 32 + 2 * 32  # with the pooler and the head
    assert found.sparsity == pytest.approx(
        1 - (5 * HEAD + 53 * NEURON) / (12 * HEAD + 144 * NEURON), abs=1e-6
    )
    assert found.prunable_parameters == 5 * HEAD + 53 * NEURON
    assert (found.vocabulary, found.hidden_size, found.pruned) == (100, 32, True)
    assert found.labels == ("no", "yes")
    assert found.task == "text-classification"
    assert json.loads(json.dumps(found.to_dict()))["layers"][1]["heads"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    model = tiny_model(family)
    dense = inspect(model)
    assert dense.sparsity == 0.0
    assert not dense.pruned
    assert (dense.vocabulary is None) == (family in IMAGE_FAMILIES)
    inside = sum(entry.macs for entry in dense.layers)
    if not family.startswith("deberta"):  # their projections of positions run on another length
        assert 0 < dense.macs - inside < 0.1 * dense.macs + 32 * 32 * dense.sequence_length
    shrink_(model, random_plan(model, removed=(BlockKey(1, "attention"),)))
    small = inspect(model)
    assert small.pruned
    assert [(e.heads, e.neurons) for e in small.layers] == list(model_sizes(model))
    assert [(e.of_heads, e.of_neurons) for e in small.layers] == [(4, 48)] * 3
    gone = dense.prunable_parameters - small.prunable_parameters
    assert small.sparsity == pytest.approx(gone / dense.prunable_parameters, abs=1e-6)
    assert small.macs < dense.macs


def test_directories_dense_and_shrunk(tmp_path: Path) -> None:
    model = tiny_model("roberta", tokens=True)
    model.save_pretrained(tmp_path / "dense")
    found = hfprune.inspect(tmp_path / "dense")
    assert found.architecture == "RobertaForTokenClassification"
    assert found.task == "token-classification"
    size = (tmp_path / "dense/model.safetensors").stat().st_size
    assert found.files == {"model.safetensors": size}
    shrink_(model, random_plan(model)).save_pretrained(tmp_path / "small")
    (tmp_path / "small/onnx").mkdir()
    (tmp_path / "small/onnx/model.onnx").write_bytes(b"x" * 7)
    small = inspect(tmp_path / "small")
    assert small.files["onnx/model.onnx"] == 7
    assert small.parameters["total"] < found.parameters["total"]
    assert small.sparsity > 0
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables(small):
        console.print(table)
    text = console.export_text()
    assert f"{small.layers[0].heads} of 4" in text or small.layers[0].heads == 4
    assert "onnx/model.onnx" in text
    assert f"{small.sparsity:.1%} of the encoder's weights" in text


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        inspect(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "xlnet"}')
    with pytest.raises(UnsupportedModelError, match="'xlnet'; supported"):
        inspect(tmp_path)
    tiny_model("bert").config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        inspect(tmp_path)
    with pytest.raises(HFPruneError, match="cannot run on a sequence of 99 tokens"):
        inspect(tiny_model("bert"), sequence_length=99)
    with pytest.raises(UnsupportedModelError, match="expected a transformers model"):
        inspect(torch.nn.Linear(2, 2))
