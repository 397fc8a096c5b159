"""Reconstructs under ``torch.distributed.run``; see pruning/test_shared_statistics.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tiny import tiny_batch, tiny_model

from hfprune.core.processes import leave_processes, processes
from hfprune.families import block_views
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.reconstruction.reconstruct import Reconstruction

SELECTIONS = ("obs", "fisher", "kprune")


def planned(selection: Any) -> tuple[PruningPlan | None, list[int]]:
    """The plan, where this process makes one, and which batches it read."""
    model = tiny_model("bert", labels=3)
    batches = [tiny_batch(8, 12, seed=seed) for seed in range(3)]
    read: list[int] = []
    costs = parameter_costs(model)
    budget = 0.4 * sum(costs[key] * view.units for key, view in block_views(model).items())
    found = Reconstruction(
        model,
        tiny_model("bert", labels=3),
        batches,
        lambda step, done, total: read.append((done - 1) % 3) if step == "statistics" else None,
        selection=selection,
        memory=20_000,  # blocks in groups, a pass for each
        shared=True,
    )
    if not found.levels:
        return None, read
    return found.search(budget, lambda key, n: costs[key] * n, rounds=2), read


def main(folder: Path) -> None:
    state = processes()
    told = {}
    for selection in SELECTIONS:
        plan, read = planned(selection)
        told[selection] = {"plan": None if plan is None else plan.digest(), "read": read}
    (folder / f"{state.process_index}.json").write_text(json.dumps(told))
    state.wait_for_everyone()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
