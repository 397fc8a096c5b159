"""The rows that reconstruction looks at: cut by tokens and memory, by nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import datasets
import torch
from tiny import tiny_model

from hfprune.families import block_views
from hfprune.pipeline.stages.reconstruct import scoring_batches
from hfprune.pruning.reconstruction.memory import bytes_a_token, judged
from hfprune.recipe.sections.pruning import PruningConfig


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    padded = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {"input_ids": torch.tensor(padded)}


def test_batches_are_cut_by_tokens_and_shuffled() -> None:
    train = datasets.Dataset.from_dict(
        {"input_ids": [[n + 1] * (1 + n % 50) for n in range(500)], "labels": [0] * 500}
    )
    # The evaluation's batch size is not even there to be looked at.
    context: Any = SimpleNamespace(recipe=SimpleNamespace(training=SimpleNamespace(seed=3)))
    data = SimpleNamespace(train=train, of_images=False)
    prepared: Any = SimpleNamespace(small=SimpleNamespace(data=data, collator=collate))
    model = tiny_model("bert")
    tokens = 400
    memory = tokens * bytes_a_token(block_views(model)) / 1e9
    target = PruningConfig(
        sparsity=0.5, method="reconstruction", scoring_samples=300, memory_gb=memory
    )
    found = scoring_batches(context, prepared, target, model)
    shapes = [tuple(batch["input_ids"].shape) for batch in found]
    assert sum(rows for rows, _ in shapes) == 300
    assert max(rows * length for rows, length in shapes) <= tokens
    assert all(rows <= 64 for rows, _ in shapes)
    assert [length for _, length in shapes] == sorted(length for _, length in shapes)
    seen = {int(row[0]) for batch in found for row in batch["input_ids"]}
    assert len(seen) == 300, "no row twice"
    wide = scoring_batches(context, prepared, target.model_copy(update={"memory_gb": 2.0}), model)
    assert {len(batch["input_ids"]) for batch in wide} == {64, 300 % 64}
    assert {int(row[0]) for batch in wide for row in batch["input_ids"]} == seen
    # Which rows a plan is judged by does not depend on the memory either.
    drawn = [
        [int(row[0]) for batch in judged(some) for row in batch["input_ids"]]
        for some in (found, wide)
    ]
    assert len(drawn[0]) == 256
    assert drawn[0] == drawn[1]
