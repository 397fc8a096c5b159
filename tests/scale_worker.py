"""One stage on many rows or long texts, alone in a process; prints its peak memory as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_model

from hfprune.families import block_views
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.reconstruction.reconstruct import prune_without_training
from scripts.synthetic import write_model, write_rows


def rows(folder: Path) -> dict[str, Any]:
    """100,000 rows of 1,000 classes: read, checked, split, tokenized."""
    from transformers import AutoTokenizer

    from hfprune.data.loading import load_task_data
    from hfprune.recipe.sections.data import DataConfig

    write_model(folder / "m", layers=1, width=8, inner=8, heads=1)
    file = write_rows(folder / "rows.csv", 100_000, words=30, labels=1_000)
    config = DataConfig(train_file=str(file), max_length=64, test_fraction=0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "m")
    data = load_task_data(config, tokenizer, "single_label_classification")
    return {"labels": data.num_labels, "rows": sum(map(data.size, ("train", "validation", "test")))}


def long_text(folder: Path) -> dict[str, Any]:
    """A text of 8,192 tokens: scores of attention for all pairs would take 1 GB a layer."""
    model = tiny_model("modernbert", labels=1_000, max_position_embeddings=8_192)
    ids = torch.randint(5, 90, (1, 8_192), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    costs = parameter_costs(model)
    budget = 0.5 * sum(costs[key] * view.units for key, view in block_views(model).items())
    plan = prune_without_training(
        model, tiny_model("modernbert", labels=1_000, max_position_embeddings=8_192), [batch],
        budget, lambda key, n: costs[key] * n, rounds=0,
    )  # fmt: skip
    return {
        "attention": model.config._attn_implementation,
        "kept": sum(len(plan.kept(key)) for key in plan.keys()),
    }


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = {"rows": rows, "long_text": long_text}[name](folder)
    found["seconds"] = time.process_time() - start
    found["added"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
