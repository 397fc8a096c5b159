"""Time a finished model in PyTorch: float32, bfloat16, compiled; on the CPU or a GPU.

python scripts/benchmark_torch.py runs/movie-reviews-minilm --dense runs/movie-reviews-teacher
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from hfprune.measure.latency import measure_latency, ratios  # noqa: E402
from hfprune.measure.runners import batches_for, torch_runner  # noqa: E402
from hfprune.models.saved import load_saved  # noqa: E402


def measure(
    folder: Path,
    *,
    dense: Path | None = None,
    shapes: Sequence[tuple[int, int]] = ((1, 32), (32, 128)),
    repeats: int = 15,
    threads: int = 1,
    device: str = "cpu",
    compile_model: bool = True,
) -> list[dict[str, Any]]:
    """Rows of name, shape, milliseconds and speed-up over the first model in float32.

    The first is the dense one, where it is given. On a GPU each row also has the peak memory in
    bytes of its model alone, weights included.
    """
    places = {"dense ": dense, "": folder} if dense is not None else {"": folder}
    models: dict[str, Any] = {}
    for label, place in places.items():
        for dtype in (torch.float32, torch.bfloat16):
            kind = str(dtype).removeprefix("torch.")
            model = load_saved(str(place)).to(device, dtype)
            models[f"{label}{kind}"] = model
            if compile_model:
                models[f"{label}{kind} compiled"] = torch.compile(model)
    make_batch = batches_for(*(model.config for model in models.values()))
    runners = {name: torch_runner(model, threads) for name, model in models.items()}
    rows = measure_latency(runners, shapes, repeats=repeats, warmup=3, make_batch=make_batch)
    first = next(iter(models))
    ratio = ratios(rows, first)
    found = [
        {
            "name": row.name,
            "batch_size": row.batch_size,
            "sequence_length": row.sequence_length,
            "median_ms": round(row.median_ms, 4),
            "speedup": round(ratio[(row.name, row.shape)].value, 3),
        }
        for row in rows
    ]
    if device.startswith("cuda"):
        for row in found:
            run = runners[row["name"]]
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run(make_batch(row["batch_size"], row["sequence_length"]))
            weights = sum(p.numel() * p.element_size() for p in models[row["name"]].parameters())
            row["peak_bytes"] = torch.cuda.max_memory_allocated() - before + weights
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a finished run, or any model of hfprune")
    parser.add_argument("--dense", type=Path, help="the dense model to compare with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    given = parser.parse_args()
    compile_model = not given.no_compile
    if compile_model and not (shutil.which("c++") or shutil.which("g++")):
        print("no C++ compiler: torch.compile is left out", file=sys.stderr)
        compile_model = False
    for row in measure(
        given.folder,
        dense=given.dense,
        repeats=given.repeats,
        threads=given.threads,
        device=given.device,
        compile_model=compile_model,
    ):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
