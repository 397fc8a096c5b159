#!/usr/bin/env python
"""A whole run of a model with random weights on synthetic rows: its stages' time and memory.

    python scripts/whole_run.py runs/whole --rows 20000       # BERT-base's size, 14 words a row
    python scripts/make_scale.py --from runs/scale.json --whole runs/whole.json

The run is `scripts/prune.py` on a recipe that is written beside its model, in a process of its own
that is looked at ten times a second; started again, it goes on with its sizes, and what was looked
at before is kept. Memory is what its processes hold together of the machine's. A random model that
has seen few rows is at chance: nothing here says how good a model gets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for place in (ROOT, ROOT / "scripts"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

STAGE = re.compile(r"== ([\w.-]+)")


def held(process: Any) -> int:
    """Bytes of memory of a process and its children, together, where shared once.

    A process that has just been forked shares all that its parent holds.
    """
    import psutil

    total = 0
    children = process.children(recursive=True)
    for one in (process, *children):
        try:
            found = one.memory_full_info() if children else one.memory_info()
            total += getattr(found, "pss", found.rss)  # of shared pages its part
        except psutil.Error:  # ended between the two, or another user's
            continue
    return total


def watch(process: Any, now: list[str], peaks: dict[str, int], ended: threading.Event) -> None:
    """Until it has ended: the most that was held in each stage. ``now[0]`` names the stage."""
    import psutil

    looked = psutil.Process(process.pid)
    while not ended.wait(0.1):
        try:
            bytes_held = held(looked)
        except psutil.NoSuchProcess:
            return
        peaks[now[0]] = max(peaks.get(now[0], 0), bytes_held)


def recipe_of(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    longest = options.words * 3 // 2 + 2
    return {
        "model": {"name_or_path": str(place / "model")},
        "data": {
            "train_file": str(place / "train.csv"),
            "test_file": str(place / "test.csv"),
            "max_length": longest,
        },
        "teacher": {"num_train_epochs": 1, "learning_rate": 5e-5},
        "training": {"bf16": "auto"},
        "pruning": {
            "speedup": options.speedup,
            "method": "reconstruction",
            "scoring_samples": 256,
            "trial_epochs": 0.1,
        },
        "distillation": {"cache_limit_gb": 2.0},
        "recovery": {"num_train_epochs": 1, "learning_rate": 2e-4},
        "export": {"quantization": "auto"},
        "benchmark": {"batch_sizes": [1, 32], "sequence_lengths": [longest], "repeats": 5},
        "output_dir": str(place / "out"),
    }


def carry_out(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    import psutil
    from synthetic import write_model, write_rows

    again, begun = (place / "out.work").is_dir(), place / "sizes.json"
    sizes = {name: getattr(options, name) for name in SIZES}
    if again and begun.is_file():  # whatever is said now
        sizes = json.loads(begun.read_text(encoding="utf-8"))
    if not again:
        place.mkdir(parents=True, exist_ok=True)
        begun.write_text(json.dumps(sizes), encoding="utf-8")
        size = {name: sizes[name] for name in ("layers", "width", "inner", "heads")}
        write_model(place / "model", **size)
        write_rows(place / "train.csv", options.rows, words=options.words)
        write_rows(place / "test.csv", options.rows // 10, words=options.words, seed=1)
        recipe = json.dumps(recipe_of(place, options), indent=1)
        (place / "recipe.yaml").write_text(recipe, encoding="utf-8")
    kept = place / "peaks.json"
    peaks: dict[str, int] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    command = [sys.executable, str(ROOT / "scripts" / "prune.py")]
    command += ["--recipe", str(place / "recipe.yaml"), *(["resume=true"] if again else [])]
    now, ended = ["start"], threading.Event()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        looking = threading.Thread(target=watch, args=(process, now, peaks, ended), daemon=True)
        looking.start()
        for line in process.stderr or ():
            print(line, end="", file=sys.stderr, flush=True)
            found = STAGE.match(line)
            if found:
                now[0] = found[1]
                kept.write_text(json.dumps(peaks), encoding="utf-8")
        process.wait()
        ended.set()
        looking.join()
    kept.write_text(json.dumps(peaks), encoding="utf-8")
    if process.returncode:
        raise SystemExit(process.returncode)
    metrics = json.loads((place / "out" / "metrics.json").read_text(encoding="utf-8"))
    return {
        "sizes": sizes,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count() or 1),
        "seconds": metrics["seconds"],
        "peak_bytes": peaks,
    }


SIZES = ("rows", "words", "layers", "width", "inner", "heads", "speedup")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("place", type=Path, help="folder that gets model, rows and the run")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=14, help="a row, in the mean")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--inner", type=int, default=3072)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--speedup", type=float, default=4.0)
    options = parser.parse_args(arguments)
    place = options.place.resolve()
    found = carry_out(place, options)
    text = json.dumps(found, indent=1) + "\n"
    place.with_name(place.name + ".json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
