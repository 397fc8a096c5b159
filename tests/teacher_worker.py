"""Computes a teacher's outputs under ``torch.distributed.run``; see training/test_shards.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tiny import tiny_model, tiny_tokenizer

from hfprune.core.processes import leave_processes, processes
from hfprune.data.collate import data_collator
from hfprune.training.distillation.cache import TeacherCache


def made(rows: int, hidden: int, **arguments: Any) -> TeacherCache:
    """Of rows of 4 to 10 tokens."""
    ids = torch.randint(5, 100, (rows, 10), generator=torch.Generator().manual_seed(0)).tolist()
    ids = [row[: 4 + number % 7] for number, row in enumerate(ids)]
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    return TeacherCache(
        tiny_model("bert", labels=3).eval(),
        data,
        data_collator(tiny_tokenizer()),
        hidden=hidden,
        batch_size=4,
        **arguments,
    )


def main(folder: Path) -> None:
    state = processes()
    done: list[int] = []
    # Of one row with hidden states only the first process has any of its own.
    for hidden in (0, 1, 20):
        cache = made(30, hidden, progress=lambda done_, total: done.append(total))
        found = {"logits": cache.logits(torch.arange(30)), "asked": torch.tensor(len(done))}
        if hidden:
            rows = torch.arange(hidden)
            found["states"] = torch.stack(cache.hidden_states(rows, 10)).contiguous()
        save_file(found, folder / f"{hidden}-{state.process_index}.safetensors")
    state.wait_for_everyone()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
