"""Minutes, memory and disk of a run, predicted from its recipe with rates measured on this machine.

    python scripts/cost_model.py recipe.yaml
    python scripts/cost_model.py recipe.yaml --against pruned/metrics.json

``hfprune prune --dry-run`` tells the same with the usual rates. With ``--against`` each stage's
prediction stands beside what the run noted, and the exit code is 1 where the whole differs by more
than the factor 1.5.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import torch

from hfprune.core.machine import bfloat16_pays, usable_cpus
from hfprune.early.cost import Cost, cost_of
from hfprune.early.duration import USUAL, Rates
from hfprune.recipe.reading import load_recipe

FACTOR = 1.5


def per_second(operations: float, work: Callable[[], object], seconds: float = 1.0) -> float:
    """Operations a second of a call that does so many, by the processor's time."""
    work()
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return operations / best


def step_seconds(*, bf16: bool) -> tuple[float, float]:
    """Seconds of a step of training (two layers of MiniLM, 32 texts of 64 tokens), and what a step
    is in operations: 6 a weight and token."""
    from transformers import BertConfig, BertModel

    from hfprune.training.attention import quick_attention

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=384,
        num_attention_heads=12,
        intermediate_size=1536,
        num_hidden_layers=2,
    )
    model = BertModel(config, add_pooling_layer=False).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    batch = {"input_ids": torch.randint(100, (32, 64))}
    args = SimpleNamespace(bf16=bf16, device=torch.device("cpu"))

    def step() -> None:
        with (
            quick_attention(args, batch),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
        ):
            loss = model(**batch).last_hidden_state.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    weights = sum(value.numel() for value in model.encoder.parameters())
    operations = 6.0 * weights * batch["input_ids"].numel()
    return operations / per_second(operations, step), operations


def measure_rates() -> Rates:
    """What this machine does; some seconds. A core's pace, so what else runs is not seen."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds, operations = step_seconds(bf16=False)
        half = step_seconds(bf16=True)[0] if bfloat16_pays() else seconds
        wide = torch.randn(1024, 1024, dtype=torch.float64)
        doubles = per_second(2 * 1024**3, lambda: wide @ wide)
    finally:
        torch.set_num_threads(threads)
    flops = operations / seconds
    # What is not counted in operations goes with the pace of a core too.
    slower = USUAL.flops / flops
    return replace(
        USUAL,
        flops=flops,
        bf16=max(1.0, seconds / half),
        moments=doubles,
        probes=USUAL.probes * slower,
        rows=USUAL.rows / slower,
        fixed=USUAL.fixed * slower,
    )


def table(cost: Cost, seen: dict[str, float] | None) -> str:
    lines = ["| stage | seconds | memory, GB |" + (" measured, s |" if seen else "")]
    lines.append("|---|---:|---:|" + ("---:|" if seen else ""))
    for name, seconds, memory in cost.stages:
        line = f"| {name} | {seconds:.0f} | {memory / 1e9:.1f} |"
        lines.append(line + (f" {seen.get(name, 0.0):.0f} |" if seen else ""))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="as of hfprune prune: key=value")
    parser.add_argument("--usual", action="store_true", help="the usual rates: measure nothing")
    parser.add_argument("--against", type=Path, help="metrics.json of a run of this recipe")
    given = parser.parse_args(arguments)
    rates = USUAL if given.usual else measure_rates()
    cost = cost_of(load_recipe(given.recipe, given.overrides), rates)
    if cost is None:
        print("rows or sizes are not known before the run: nothing is predicted", file=sys.stderr)
        return 2
    print("rates:", json.dumps({name: round(value, 1) for name, value in asdict(rates).items()}))
    print(f"cores: {usable_cpus()}")
    seen = None
    if given.against is not None:
        run = json.loads(given.against.read_text(encoding="utf-8"))
        seen = {str(name): float(value) for name, value in run["seconds"].items()}
    print(table(cost, seen))
    print(cost.in_words())
    if seen is None:
        return 0
    expected = sum(seconds for _, seconds, _ in cost.stages)
    measured = sum(seen.values())
    ratio = measured / expected
    print(f"predicted {expected:.0f} s, measured {measured:.0f} s: {ratio:.2f} times as long")
    return int(not 1 / FACTOR <= ratio <= FACTOR)


if __name__ == "__main__":
    sys.exit(main())
