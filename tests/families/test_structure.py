"""What each family's units are, by hand, and what is left of a model when they are gone."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, TRANSFORMERS_5, random_plan, tiny_batch, tiny_model

import hfprune
from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.families import (
    adapter_for,
    adapter_of,
    block_views,
    model_sizes,
    supported_model_types,
)
from hfprune.families.blocks import BlockKey
from hfprune.pruning.gates import Gates
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_

ATTENTION, FFN = BlockKey(1, "attention"), BlockKey(1, "ffn")
DOCS = Path(__file__).resolve().parents[2] / "docs"


def keeping(model: Any, key: BlockKey, kept: Sequence[int]) -> PruningPlan:
    """The plan that changes one block only."""
    plan = PruningPlan.dense(model_sizes(model))
    return plan.with_block(key, [index in kept for index in range(len(plan.mask(key)))])


def span(start: int, length: int) -> list[int]:
    return list(range(start, start + length))


QKV = [i + part for part in (0, 32, 64) for i in span(8, 8) + span(24, 8)]

# Family, block, units that stay, and what must be left of the projections of layer 1: outputs
# (rows, and their biases) or inputs (columns). All others stay whole.
BY_HAND: list[tuple[str, BlockKey, list[int], dict[str, tuple[str, list[int]]]]] = [
    (
        # 8 query heads of 8 share 4 key-value heads: unit 2 is query heads 4 and 5.
        "qwen3",
        ATTENTION,
        [2],
        {
            "self_attn.q_proj": ("outputs", span(32, 16)),
            "self_attn.k_proj": ("outputs", span(16, 8)),
            "self_attn.v_proj": ("outputs", span(16, 8)),
            "self_attn.o_proj": ("inputs", span(32, 16)),
        },
    ),
    (
        "qwen2",  # heads of 4; queries, keys and values have biases
        ATTENTION,
        [0, 3],
        {
            "self_attn.q_proj": ("outputs", span(0, 8) + span(24, 8)),
            "self_attn.k_proj": ("outputs", span(0, 4) + span(12, 4)),
            "self_attn.v_proj": ("outputs", span(0, 4) + span(12, 4)),
            "self_attn.o_proj": ("inputs", span(0, 8) + span(24, 8)),
        },
    ),
    (
        "llama",
        FFN,
        [5, 40],
        {
            "mlp.gate_proj": ("outputs", [5, 40]),
            "mlp.up_proj": ("outputs", [5, 40]),
            "mlp.down_proj": ("inputs", [5, 40]),
        },
    ),
    (
        # Queries of all heads, then keys, then values, each 4 heads of 8.
        "modernbert",
        ATTENTION,
        [1, 3],
        {"attn.Wqkv": ("outputs", QKV), "attn.Wo": ("inputs", span(8, 8) + span(24, 8))},
    ),
    (
        # 48 inputs of the activation, then their 48 gates.
        "modernbert",
        FFN,
        [0, 7],
        {"mlp.Wi": ("outputs", [0, 7, 48, 55]), "mlp.Wo": ("inputs", [0, 7])},
    ),
    (
        "gpt2",
        ATTENTION,
        [1, 3],
        {"attn.c_attn": ("outputs", QKV), "attn.c_proj": ("inputs", span(8, 8) + span(24, 8))},
    ),
    (
        "gpt2",
        FFN,
        [3, 47],
        {"mlp.c_fc": ("outputs", [3, 47]), "mlp.c_proj": ("inputs", [3, 47])},
    ),
    (
        "deberta-v2",
        ATTENTION,
        [3],
        {
            **{
                f"attention.self.{name}": ("outputs", span(24, 8))
                for name in (
                    "query_proj",
                    "key_proj",
                    "value_proj",
                    "pos_key_proj",
                    "pos_query_proj",
                )
            },
            "attention.output.dense": ("inputs", span(24, 8)),
        },
    ),
    (
        "albert",
        FFN,
        [9],
        {"ffn": ("outputs", [9]), "ffn_output": ("inputs", [9])},
    ),
    (
        "vit",
        ATTENTION,
        [1],
        {
            "attention.q_proj": ("outputs", span(8, 8)),
            "attention.k_proj": ("outputs", span(8, 8)),
            "attention.v_proj": ("outputs", span(8, 8)),
            "attention.o_proj": ("inputs", span(8, 8)),
        }
        if TRANSFORMERS_5
        else {
            "attention.attention.query": ("outputs", span(8, 8)),
            "attention.attention.key": ("outputs", span(8, 8)),
            "attention.attention.value": ("outputs", span(8, 8)),
            "attention.output.dense": ("inputs", span(8, 8)),
        },
    ),
]


@pytest.mark.parametrize(
    ("family", "key", "kept", "left"), BY_HAND, ids=[f"{f}-{k.kind}" for f, k, *_ in BY_HAND]
)
def test_units_by_hand(
    family: str, key: BlockKey, kept: list[int], left: dict[str, tuple[str, list[int]]]
) -> None:
    model = tiny_model(family)
    layer = adapter_of(model).layers(model)[1]
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    shrink_(model, keeping(model, key, kept))
    after = layer.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        module, _, leaf = name.rpartition(".")
        side, indices = left.get(module, ("", []))
        want = value
        if leaf == "weight" and side:
            # GPT-2 alone holds its weights as (inputs, outputs).
            dimension = int((side == "inputs") != (family == "gpt2"))
            want = value.index_select(dimension, torch.tensor(indices))
        elif side == "outputs":
            want = value[indices]
        assert torch.equal(after[name], want), name


@pytest.mark.parametrize("family", FAMILIES)
def test_unit_parameters_are_those_that_leave(family: str) -> None:
    model = tiny_model(family)
    views = block_views(model)
    expected = views[ATTENTION].unit_parameters() + 3 * views[FFN].unit_parameters()
    before = sum(p.numel() for p in model.parameters())
    plan = keeping(model, ATTENTION, [0, 1, 3]).with_block(FFN, [i > 2 for i in range(48)])
    shrink_(model, plan)
    assert before - sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_of_a_layer_without_blocks(family: str) -> None:
    """Its norms go too, though in pre-norm families they stand before the blocks."""
    model = tiny_model(family)
    shrink_(model, keeping(model, ATTENTION, []).with_block(FFN, [False] * 48))
    assert model_sizes(model)[1] == (0, 0)
    layer = adapter_of(model).layers(model)[1]
    assert list(layer.parameters()) == []
    markers = layer.state_dict()
    assert len(markers) >= 2
    assert all(value.shape == (1,) for value in markers.values())


def test_the_guide_names_every_family() -> None:
    table = (DOCS / "families.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9-]+)`", table))
    assert set(supported_model_types()) <= named


# -- ALBERT: shared weights -------------------------------------------------------------------


@torch.no_grad()
def test_layers_of_a_group_share_a_view_and_inner_layers_have_their_own() -> None:
    model = tiny_model("albert", num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)
    assert model_sizes(model) == ((4, 48),) * 4
    assert [view.uses for view in block_views(model).values()] == [2] * 8
    plan = random_plan(model, removed=(BlockKey(3, "ffn"), BlockKey(0, "attention")))
    batch = tiny_batch()
    with Gates(model, plan):
        want = model(**batch).logits
    torch.testing.assert_close(shrink_(model, plan)(**batch).logits, want, atol=1e-5, rtol=0)


def test_albert_variants_that_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="num_hidden_layers=5 and num_hidden_groups=2"):
        model_sizes(tiny_model("albert", num_hidden_layers=5, num_hidden_groups=2))
    with pytest.raises(UnsupportedModelError, match="chunk_size_feed_forward=4 cannot be pruned"):
        model_sizes(tiny_model("albert", chunk_size_feed_forward=4))


def test_names_of_tensors_in_files_of_images() -> None:
    """transformers 5 has other names than files, which hold those of transformers 4."""
    new = torch.nn.Module()
    new.base_model = torch.nn.Module()
    new.base_model.layers = torch.nn.ModuleList()
    adapter = adapter_for("vit")
    attention = ("vit.encoder.layer.3.attention.attention", "vit.layers.3.attention")
    for saved, name in {
        f"{attention[0]}.query.weight": f"{attention[1]}.q_proj.weight",
        f"{attention[0]}.key.bias": f"{attention[1]}.k_proj.bias",
        f"{attention[0]}.value.bias": f"{attention[1]}.v_proj.bias",
        "vit.encoder.layer.3.attention.output.dense.bias": "vit.layers.3.attention.o_proj.bias",
        "vit.encoder.layer.0.intermediate.dense.weight": "vit.layers.0.mlp.fc1.weight",
        "vit.encoder.layer.0.output.dense.weight": "vit.layers.0.mlp.fc2.weight",
        "vit.encoder.layer.0.layernorm_before.weight": "vit.layers.0.layernorm_before.weight",
        "classifier.weight": "classifier.weight",
    }.items():
        assert adapter.tensor_name(new, saved) == name
        assert adapter.tensor_name(new, name) == name


# -- MPNet: a bias of positions for all heads -------------------------------------------------


def biased_mpnet() -> Any:
    """An MPNet whose heads differ most in their bias of relative positions."""
    model = tiny_model("mpnet")
    bias = model.mpnet.encoder.relative_attention_bias.weight
    with torch.no_grad():
        bias.copy_(3 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(0)))
    return model


@torch.no_grad()
def test_pruned_heads_keep_their_own_position_bias(tmp_path: Path) -> None:
    model = biased_mpnet()
    plan = keeping(model, ATTENTION, [1, 3]).with_block(
        BlockKey(2, "attention"), [True, True, False, True]
    )
    batch = tiny_batch()
    with Gates(model, plan):
        want = model(**batch).logits
    shrink_(model, plan)
    torch.testing.assert_close(model(**batch).logits, want, atol=1e-5, rtol=0)
    assert torch.equal(copy.deepcopy(model)(**batch).logits, model(**batch).logits)
    model.save_pretrained(tmp_path)
    assert torch.equal(hfprune.from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)
    layers = model.mpnet.encoder.layer
    layers[1].attention.kept_heads.copy_(torch.tensor([0, 1]))
    assert not torch.allclose(model(**batch).logits, want, atol=1e-3), "the bias must matter"


def test_kept_heads_follow_a_second_shrink() -> None:
    model = biased_mpnet()
    shrink_(model, keeping(model, ATTENTION, [0, 2, 3]))
    shrink_(model, keeping(model, ATTENTION, [1, 2]))
    attention = model.mpnet.encoder.layer[1].attention
    assert attention.kept_heads.tolist() == [2, 3]
    assert len(attention._forward_pre_hooks) == 1
    assert "kept_heads" not in dict(model.mpnet.encoder.layer[0].attention.named_buffers())
    model(**tiny_batch(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert model.mpnet.encoder.relative_attention_bias.weight.grad.abs().sum(0).min() > 0


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([1, 4], r"layer 1: kept_heads must be ascending indices below 4, got \[1, 4\]"),
        ([-1, 1], "must be ascending indices below 4"),
        ([3, 1], "must be ascending indices below 4"),
        ([1, 1], "must be ascending indices below 4"),
        ([1, 2, 3], r"of another shape: .*kept_heads \(file \(3,\), model \(2,\)\)"),
        (None, "missing: .*kept_heads"),
    ],
)
def test_tampered_heads_are_refused(heads: list[int] | None, message: str, tmp_path: Path) -> None:
    model = biased_mpnet()
    shrink_(model, keeping(model, ATTENTION, [1, 3])).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "mpnet.encoder.layer.1.attention.kept_heads"
    if heads is None:
        del tensors[name]
    else:
        tensors[name] = torch.tensor(heads)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        hfprune.from_pretrained(tmp_path)


# -- decoders and ModernBERT ------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_the_cache_is_off_where_a_layer_has_no_attention(family: str, tmp_path: Path) -> None:
    model = tiny_model(family, use_cache=True)
    shrink_(model, keeping(model, ATTENTION, [0]).with_block(FFN, [False] * 48))
    assert model.config.use_cache
    assert model(**tiny_batch()).past_key_values is not None
    shrink_(model, keeping(model, BlockKey(0, "attention"), []))
    assert model(**tiny_batch()).past_key_values is None
    model.save_pretrained(tmp_path)
    assert hfprune.from_pretrained(tmp_path).config.use_cache is False


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_tokens_after_the_last_one_change_nothing(family: str) -> None:
    """Still causal, still pooled at the last token that is no padding."""
    model = tiny_model(family)
    shrink_(model, random_plan(model, removed=(BlockKey(0, "attention"),)))
    batch = tiny_batch(4, 9, padded=False)
    padding = torch.full((4, 3), model.config.pad_token_id)
    padded = {
        "input_ids": torch.cat([batch["input_ids"], padding], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros_like(padding)], 1),
    }
    torch.testing.assert_close(model(**padded).logits, model(**batch).logits, atol=1e-5, rtol=0)


def test_cross_attention_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="has cross-attention.*add_cross_attention=F"):
        model_sizes(tiny_model("gpt2", add_cross_attention=True))


@torch.no_grad()
def test_local_and_global_layers_of_modernbert_stay_what_they_were() -> None:
    model = tiny_model("modernbert", layers=5)
    shrink_(
        model,
        keeping(model, BlockKey(0, "attention"), []).with_block(BlockKey(0, "ffn"), [False] * 48),
    )
    attention = [getattr(layer, "attn", None) for layer in model.model.layers]
    if TRANSFORMERS_5:  # half a window, and the token itself
        assert [getattr(a, "sliding_window", None) for a in attention] == [None, 5, 5, None, 5]
    else:
        found = [getattr(a, "local_attention", None) for a in attention]
        assert found == [None, (4, 4), (4, 4), (-1, -1), (4, 4)]
