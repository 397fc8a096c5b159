"""Trains a pruned model under FSDP2, or alone; see training/test_sharded.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tiny import random_plan, tiny_model
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hfprune.pruning.surgery import shrink_

ROWS, STEPS = 8, 4


def trained(rank: int, world: int, *, sharded: bool) -> dict[str, torch.Tensor]:
    """Weights after a few steps; each process has its share of every batch."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_model("bert", labels=2, **quiet)
    shrink_(model, random_plan(model))  # uneven layers, odd sizes
    model.train()
    if sharded:
        for layer in model.bert.encoder.layer:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        ids = torch.randint(5, 100, (ROWS, 10), generator=generator)
        labels = (ids == 7).any(1).long()
        mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
        loss = model(input_ids=ids[mine], labels=labels[mine]).loss
        loss.backward()  # gradients are averaged over processes
        optimizer.step()
        optimizer.zero_grad()
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).clone()
        for name, value in model.state_dict().items()
    }


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    found = trained(dist.get_rank(), dist.get_world_size(), sharded=True)
    if dist.get_rank() == 0:
        save_file(found, folder / "sharded.safetensors")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
