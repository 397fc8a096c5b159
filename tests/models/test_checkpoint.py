"""Saved, loaded again: bit-equal, or a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, random_plan, tiny_batch, tiny_model

import hfprune
from hfprune.core.errors import CheckpointError
from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_

WHOLE = (BlockKey(1, "attention"), BlockKey(0, "ffn"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = tiny_model("bert")
    shrink_(model, random_plan(model, removed=WHOLE)).save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_reload_is_bit_equal(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    shrink_(model, random_plan(model, removed=WHOLE))
    batch = tiny_batch(family=family)
    want = model(**batch).logits
    model.save_pretrained(tmp_path)
    again = hfprune.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    assert torch.equal(again(**batch).logits, want)
    assert model_sizes(again) == model_sizes(model)
    again.save_pretrained(tmp_path / "second")
    twice = hfprune.from_pretrained(str(tmp_path / "second"))
    assert torch.equal(twice(**batch).logits, want)


@torch.no_grad()
def test_half_precision_stays(tmp_path: Path) -> None:
    model = tiny_model("bert")
    shrink_(model, random_plan(model)).to(torch.bfloat16).save_pretrained(tmp_path)
    again = hfprune.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert torch.equal(again(**tiny_batch()).logits, model(**tiny_batch()).logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("only_blocks", [False, True])
def test_plain_transformers_fails_loudly(family: str, only_blocks: bool, tmp_path: Path) -> None:
    model = tiny_model(family)
    if only_blocks:
        plan = PruningPlan.dense(model_sizes(model))
        for key in WHOLE:
            plan = plan.with_block(key, [False] * len(plan.mask(key)))
    else:
        plan = random_plan(model)
    shrink_(model, plan).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"load it with hfprune.from_pretrained\(folder\)"):
        type(model).from_pretrained(tmp_path)
    # Past the hint, tensors that do not fit stop it still.
    with pytest.raises(RuntimeError, match="size mismatch|mismatch"):
        type(model).from_pretrained(tmp_path, attn_implementation="eager")


def test_dense_directory_is_not_ours(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no 'hfprune' record.*load it with transformers"):
        hfprune.from_pretrained(tmp_path)


def test_missing_places(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no directory"):
        hfprune.from_pretrained(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds no config.json"):
        hfprune.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'nobody/nothing' is neither a directory here nor"):
        hfprune.from_pretrained("nobody/nothing", local_files_only=True)


def test_missing_weights(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds neither model.safetensors nor"):
        hfprune.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", "missing: classifier.bias"),
        ("add", "unexpected: classifier.more"),
        ("reshape", r"of another shape: classifier.bias \(file \(2,\), model \(3,\)\)"),
    ],
)
def test_strict_about_tensors(saved: Path, change: str, message: str) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    if change == "drop":
        del tensors["classifier.bias"]
    elif change == "add":
        tensors["classifier.more"] = torch.zeros(1)
    else:
        tensors["classifier.bias"] = torch.zeros(2)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        hfprune.from_pretrained(saved)


def test_truncated_file(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="model.safetensors is damaged or cannot be read"):
        hfprune.from_pretrained(saved)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("yes", "must be a mapping with format_version 1, got 'yes'"),
        ({"format_version": 2}, "must be a mapping with format_version 1"),
        ({"format_version": 1, "heads": [1, -1, 2]}, "hfprune.heads must be a list of counts"),
        ({"format_version": 1, "heads": [1], "neurons": ["2"]}, "hfprune.neurons must be a list"),
        (
            {"format_version": 1, "heads": [1], "neurons": [1, 2]},
            "heads of 1 layers and neurons of 2",
        ),
        (
            {"format_version": 1, "heads": [1], "neurons": [1]},
            "expected the kept sizes of 3 layers",
        ),
        (
            {"format_version": 1, "heads": [9, 1, 1], "neurons": [1, 1, 1]},
            "layer 0 has 4 heads, so it cannot keep 9",
        ),
        ({"format_version": 1, "heads": [1, 1, 1], "neurons": [1, 1, 1]}, "of another shape"),
    ],
)
def test_tampered_record(saved: Path, record: Any, message: str) -> None:
    edit_config(saved, hfprune=record)
    with pytest.raises(CheckpointError, match=message):
        hfprune.from_pretrained(saved)


@pytest.mark.parametrize("names", [["NoSuchModel"], [], ["AutoModel"], None])
def test_unknown_architecture(saved: Path, names: Any) -> None:
    edit_config(saved, architectures=names)
    with pytest.raises(CheckpointError, match="architectures must name one model class"):
        hfprune.from_pretrained(saved)


def test_shards_cannot_leave_the_directory(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="shards must be plain file names"):
        hfprune.from_pretrained(saved)


@torch.no_grad()
def test_sharded_save(tmp_path: Path) -> None:
    model = tiny_model("bert")
    shrink_(model, random_plan(model, removed=WHOLE)).save_pretrained(
        tmp_path, max_shard_size="20KB"
    )
    assert not (tmp_path / "model.safetensors").exists()
    again = hfprune.from_pretrained(tmp_path)
    assert torch.equal(again(**tiny_batch()).logits, model(**tiny_batch()).logits)
