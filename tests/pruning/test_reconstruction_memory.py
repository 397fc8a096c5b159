"""Less memory: more batches, more passes, files; the same levels, plans and weights."""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_batch, tiny_model

from hfprune.families import block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.reconstruction.memory import (
    Shelf,
    bytes_a_token,
    cut,
    groups,
    judged,
    moment_bytes,
)
from hfprune.pruning.reconstruction.reconstruct import Reconstruction

BATCHES = [tiny_batch(16, 20, seed=seed) for seed in range(6)]


@pytest.mark.parametrize(
    ("lengths", "tokens", "rows", "expected"),
    [
        ([], 10, 64, []),
        ([5], 1, 64, [1]),
        ([2, 2, 3, 9], 6, 64, [2, 1, 1]),
        ([3] * 10, 12, 64, [4, 4, 2]),
        ([3] * 10, 1e9, 4, [4, 4, 2]),
        ([1, 8, 1, 1], 16, 64, [2, 2]),
        ([7, 7], 6, 64, [1, 1]),
    ],
)
def test_batches_by_tokens(
    lengths: list[int], tokens: float, rows: int, expected: list[int]
) -> None:
    found = cut(lengths, tokens, rows)
    assert [part.stop - part.start for part in found] == expected
    assert [n for part in found for n in lengths[part]] == lengths


@pytest.mark.parametrize(
    ("sizes", "memory", "expected"),
    [
        ([], 5, []),
        ([9], 5, [1]),
        ([2, 2, 2], 4, [2, 1]),
        ([2, 9, 2], 4, [1, 1, 1]),
        ([2, 9, 2], 100, [3]),
    ],
)
def test_groups_of_blocks(sizes: list[float], memory: float, expected: list[int]) -> None:
    keys = [BlockKey(layer, "ffn") for layer in range(len(sizes))]
    found = groups(dict(zip(keys, sizes, strict=True)), memory)
    assert list(map(len, found)) == expected
    assert [key for part in found for key in part] == keys


def numbered(rows: int, size: int, length: int = 8) -> list[dict[str, Any]]:
    """Rows in batches of a size, each with its number as its first token; all of one length."""
    ids = torch.zeros(rows, length, dtype=torch.long)
    ids[:, 0] = torch.arange(rows)
    return [
        {"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(size)
    ]


def rows_in(batches: Sequence[Any]) -> list[int]:
    return [int(row) for batch in batches for row in batch["input_ids"][:, 0]]


def test_a_choice_is_judged_by_rows_enough() -> None:
    assert len(rows_in(judged(numbered(576, 64)))) == 256
    assert len(rows_in(judged(numbered(36, 4, 4096)))) == 8, "tokens are enough"
    assert rows_in(judged(numbered(128, 64))) == list(range(128)), "all that there are"
    images = judged([{"pixel_values": torch.zeros(100, 3, 4, 4)}] * 9)
    assert sum(len(one["pixel_values"]) for one in images) == 256
    padded = numbered(576, 64, 4096)
    for batch in padded:
        batch["attention_mask"][:, 64:] = 0
    assert len(rows_in(judged(padded))) == 256, "padding is no token"


@pytest.mark.parametrize("length", [8, 512])
def test_the_rows_that_a_choice_is_judged_by_do_not_depend_on_the_batches(length: int) -> None:
    found = {tuple(rows_in(judged(numbered(500, size, length)))) for size in (1, 7, 64, 500)}
    assert len(found) == 1
    (rows,) = found
    assert len(rows) == (256 if length == 8 else 64)
    assert abs(sum(rows) / len(rows) - 250) < 60, "drawn from all of them"


def test_what_a_token_takes_is_that_of_measured_shapes() -> None:
    views = block_views(tiny_model("bert"))  # 3 layers of 32 features, 48 neurons
    assert bytes_a_token(views) == 3 * (10 * (32 + 48) + 20 * (32 + 32))
    # BERT's own shape, where 90 bytes a layer and feature were measured.
    width = 768
    assert 10 * (width + 4 * width) + 20 * 2 * width == 90 * width


def test_what_does_not_fit_lies_in_files_and_goes_with_the_shelf(tmp_path: Path) -> None:
    tensors = [torch.randn(3, 4), torch.randn(5, 6), torch.zeros(0, 4), torch.randn(1, 4).T]
    shelf = Shelf(4 * 12 + 4 * 4, tmp_path)
    kept = shelf.keep(tensors)
    for before, after in zip(tensors, kept, strict=True):
        assert torch.equal(before, after)
        assert before.shape == after.shape
    assert [before is after for before, after in zip(tensors, kept, strict=True)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert len(list(tmp_path.rglob("hfprune-levels-*/*"))) == 1
    del shelf
    gc.collect()
    assert not list(tmp_path.iterdir())
    assert torch.equal(kept[1], tensors[1]), "what is mapped stays readable"


@pytest.mark.parametrize("selection", ["obs", "fisher", "kprune"])
def test_little_memory_finds_the_same(selection: str) -> None:
    model = tiny_model("bert")
    units = parameter_costs(model)
    total = sum(units[key] * view.units for key, view in block_views(model).items())
    assert max(map(moment_bytes, block_views(model).values())) > 4e3
    found = []
    for memory in (2e9, 4e3):  # the second: a block a pass, nearly all levels in files
        pruner = Reconstruction(model, model, BATCHES, selection=selection, memory=memory)  # type: ignore[arg-type]
        plan = pruner.search(0.5 * total, lambda key, n: units[key] * n, rounds=8)
        pruned = copy.deepcopy(model)
        pruner.prune_(pruned, plan)
        found.append((plan, model_sizes(pruned), pruned.state_dict()))
    assert found[0][:2] == found[1][:2]
    for name, tensor in found[0][2].items():
        assert torch.equal(tensor, found[1][2][name]), name
