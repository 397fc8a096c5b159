"""Write docs/scale.md: time, memory and disk of the stages against rows, layers, labels, length.

    python scripts/make_scale.py --measure runs/scale.json    # some minutes; small sizes, here
    python scripts/make_scale.py --from runs/scale.json --whole runs/whole.json   # the page

Each measurement is a process of its own: processor seconds, peak memory. Times are of the
processor, so that other work on the machine does not count. Beyond what minutes allow the page
tells what the cost model says (hfprune/early/cost.py).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for place in (ROOT, ROOT / "scripts"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

PAGE = ROOT / "docs" / "scale.md"
SMALL = {"layers": 6, "width": 384, "inner": 1536, "heads": 12}
# What is measured: the stage, and its sizes; the short ones first.
MEASURED: tuple[tuple[str, dict[str, int]], ...] = (
    *(("data", {"rows": rows, "words": 62}) for rows in (1_000, 10_000)),
    *(("teacher", {"rows": rows, "words": 30}) for rows in (32, 64)),
    *(("answers", {"rows": rows, "words": 30}) for rows in (64, 128)),
    *(("reconstruct", {"rows": rows, "words": 30}) for rows in (32, 64)),
    ("teacher", {"rows": 32, "words": 30, "layers": 12}),
    ("teacher", {"rows": 32, "words": 30, "layers": 24}),
    ("teacher", {"rows": 32, "words": 30, "labels": 1_000}),
    ("data", {"rows": 10_000, "words": 62, "labels": 1_000}),
    *(("teacher", {"rows": 2, "words": words}) for words in (510, 2_046)),
    ("answers", {"rows": 256, "words": 30}),
    ("reconstruct", {"rows": 32, "words": 30, "layers": 12}),
    ("reconstruct", {"rows": 2, "words": 510}),
    ("data", {"rows": 100_000, "words": 62}),
    ("teacher", {"rows": 256, "words": 30}),
    ("answers", {"rows": 1_024, "words": 30}),
    ("reconstruct", {"rows": 512, "words": 30}),
)


def data(folder: Path, rows: int, words: int, labels: int, layers: int) -> Callable[[], object]:
    """Read, check, split, tokenize."""
    from synthetic import write_model, write_rows
    from transformers import AutoTokenizer

    from hfprune.data.loading import load_task_data
    from hfprune.recipe.sections.data import DataConfig

    write_model(folder / "m", layers=1, width=8, inner=8, heads=1, positions=words * 2)
    file = write_rows(folder / "rows.csv", rows, words=words, labels=labels)
    tokenizer = AutoTokenizer.from_pretrained(folder / "m", trust_remote_code=False)
    config = DataConfig(train_file=str(file), max_length=words * 3 // 2 + 2, test_fraction=0.1)
    return lambda: load_task_data(config, tokenizer, "single_label_classification")


def classifier(rows: int, words: int, labels: int, layers: int) -> tuple[Any, list[Any]]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=SMALL["width"],
        num_hidden_layers=layers,
        num_attention_heads=SMALL["heads"],
        intermediate_size=SMALL["inner"],
        max_position_embeddings=max(512, words + 2),
        num_labels=labels,
    )
    model = BertForSequenceClassification(config)
    ids = torch.randint(5, 30_000, (rows, words + 2))
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(32)
    ]
    return model, batches


def teacher(folder: Path, rows: int, words: int, labels: int, layers: int) -> Callable[[], object]:
    """An epoch of training: forward, back, AdamW."""
    import torch

    model, batches = classifier(rows, words, labels, layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def work() -> None:
        for batch in batches:
            wanted = torch.arange(len(batch["input_ids"])) % labels
            model(**batch, labels=wanted).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return work


def answers(folder: Path, rows: int, words: int, labels: int, layers: int) -> Callable[[], object]:
    """The teacher's outputs on all rows, hidden states too."""
    from datasets import Dataset
    from transformers import DataCollatorWithPadding
    from synthetic import write_model  # isort: skip
    from transformers import AutoTokenizer

    from hfprune.training.distillation.cache import TeacherCache

    model, batches = classifier(rows, words, labels, layers)
    write_model(folder / "m", layers=1, width=8, inner=8, heads=1)
    collate = DataCollatorWithPadding(
        AutoTokenizer.from_pretrained(folder / "m", trust_remote_code=False)
    )
    columns = {
        name: [row for batch in batches for row in batch[name].tolist()] for name in batches[0]
    }
    return lambda: TeacherCache(model.eval(), Dataset.from_dict(columns), collate, hidden=rows)


def reconstruct(
    folder: Path, rows: int, words: int, labels: int, layers: int
) -> Callable[[], object]:
    """Moments, levels, a search of ten rounds, one refit."""
    import copy

    from hfprune.families import block_views
    from hfprune.pruning.cost import parameter_costs
    from hfprune.pruning.reconstruction.reconstruct import prune_without_training

    model, batches = classifier(rows, words, labels, layers)
    costs = parameter_costs(model)
    budget = 0.3 * sum(costs[key] * view.units for key, view in block_views(model).items())
    return lambda: prune_without_training(
        model, copy.deepcopy(model), batches, budget, lambda key, n: costs[key] * n, rounds=10
    )


STAGES = {"data": data, "teacher": teacher, "answers": answers, "reconstruct": reconstruct}


def one(stage: str, sizes: dict[str, int]) -> dict[str, float]:
    """Processor seconds, and bytes at the peak beyond those before it."""
    import torch

    torch.set_num_threads(1)
    full = {"labels": 2, "layers": SMALL["layers"], **sizes}
    with tempfile.TemporaryDirectory() as folder:
        work = STAGES[stage](Path(folder), **full)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        work()
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_bytes": 1024.0 * peak, "added": 1024.0 * (peak - before)}


def measure(out: Path) -> None:
    """All of :data:`MEASURED` that the file does not have yet, written after each."""
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    for stage, sizes in MEASURED:
        key = json.dumps([stage, sizes])
        if key in known:
            continue
        command = [sys.executable, __file__, "--one", key]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        except subprocess.TimeoutExpired as error:  # the others are measured all the same
            print(f"{key}: not done after {error.timeout:.0f} s", file=sys.stderr)
            continue
        if done.returncode != 0:
            print(f"{key}: {done.stderr[-2000:]}", file=sys.stderr)
            continue
        known[key] = json.loads(done.stdout.splitlines()[-1])
        print(key, known[key])
        out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def slope(points: list[tuple[float, float]]) -> float:
    """Of a line through logarithms, by least squares: 1 is proportional.

    >>> round(slope([(10, 1), (100, 10), (1000, 100)]), 6)
    1.0
    """
    xs, ys = zip(*((math.log(x), math.log(max(y, 1e-9))) for x, y in points), strict=True)
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mx) ** 2 for x in xs)


def measured_tables(known: dict[str, dict[str, float]]) -> list[str]:
    lines: list[str] = [] if known else ["Not run here.", ""]
    found: dict[str, list[tuple[dict[str, int], dict[str, float]]]] = {}
    for key, values in known.items():
        stage, sizes = json.loads(key)
        found.setdefault(stage, []).append((sizes, values))
    for stage, entries in found.items():
        lines += [
            f"**{stage}**: {str(STAGES[stage].__doc__).splitlines()[0]}",
            "",
            "| rows | words a row | layers | labels | processor, s | peak, GB |",
            "|---:|---:|---:|---:|---:|---:|",
        ]
        for sizes, values in entries:
            lines.append(
                f"| {sizes['rows']:,} | {sizes['words']} | {sizes.get('layers', SMALL['layers'])} |"
                f" {sizes.get('labels', 2):,} | {values['seconds']:.1f} |"
                f" {values['peak_bytes'] / 1e9:.2f} |"
            )
        groups: dict[int, list[tuple[float, float]]] = {}
        for sizes, values in entries:
            if sizes.keys() == {"rows", "words"}:
                groups.setdefault(sizes["words"], []).append((sizes["rows"], values["seconds"]))
        told = [f"{slope(points):.2f}" for points in groups.values() if len(points) > 1]
        if told:
            lines += ["", f"Slope over rows: {told[0]} (1: in proportion)."]
        lines.append("")
    return lines


def predicted_tables() -> list[str]:
    from hfprune.early.cost import Sizes, disk, stage_memory
    from hfprune.early.duration import Work, stage_seconds

    def told(rows: int, layers: int, labels: int, length: int) -> tuple[Work, Sizes]:
        width, inner = 768, 3072
        work = Work(
            rows=rows, test_rows=rows // 10, tokens=length, weights=layers * 12 * width**2, cores=2,
            teacher_epochs=3, recovery_epochs=3, trial_epochs=0.5, augmentation=0, fine_tunes=True,
            keep=0.35, searches=False, times_blocks=True, layers=layers, width=width,
        )  # fmt: skip
        sizes = Sizes(
            rows=rows + rows // 10, tokens=length, longest=length, layers=layers, width=width,
            inner=inner, vocabulary=30_522, labels=labels, training_rows=rows,
            batch=max(1, min(32, 4096 // length)),
        )  # fmt: skip
        return work, sizes

    names = ("data", "teacher", "latency", "reconstruct", "trial", "recover", "evaluate")
    usual = {"rows": 10_000, "layers": 12, "labels": 2, "length": 128}
    axes = {
        "rows": (1_000, 10_000, 100_000, 1_000_000),
        "layers": (6, 12, 24),
        "labels": (2, 100, 1_000),
        "length": (32, 128, 512, 2_048, 8_192),
    }
    lines: list[str] = []
    for axis, values in axes.items():
        lines += [
            f"### {axis.capitalize()}",
            "",
            "| "
            + " | ".join([axis, *(f"{name}, min" for name in names), "peak, GB", "disk, GB"])
            + " |",
            "|---:" * (len(names) + 3) + "|",
        ]
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for value in values:
            work, sizes = told(**{**usual, axis: value})
            seconds, memory = stage_seconds(work), stage_memory(sizes)
            for name in names:
                seen[name].append((value, seconds[name]))
            cells = [f"{value:,}", *(f"{seconds[name] / 60:.1f}" for name in names)]
            cells += [f"{max(memory.values()) / 1e9:.1f}", f"{disk(sizes) / 1e9:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
        cells = ["slope", *(f"{slope(points):.2f}" for points in seen.values()), "", ""]
        lines += ["| " + " | ".join(cells) + " |", ""]
    return lines


HEAD = """# Scale

What a run takes as rows, layers, labels and lengths grow. Made by `scripts/make_scale.py`. The
slope is that of logarithms: 1 is in proportion, 0 does not grow. No stage is superlinear in rows.

`hfprune prune recipe.yaml --dry-run` tells what your recipe may take;
`python scripts/cost_model.py recipe.yaml` measures your machine's pace first.

## Measured

One thread, processor seconds, each in a process of its own (its peak memory counts PyTorch itself,
about 0.5 GB): a random BERT of 6 layers, 384 features and a vocabulary of 30,522, as MiniLM has it.
Stages that are missing here were not measured.
"""

PREDICTED = """## Predicted

By the cost model, not measured: a model of BERT-base's width (768), two cores with the usual rates
(55 GFLOP a second and core in training), three epochs for teacher and recovery, a target speed. One
size changes at a time from 10,000 rows, 12 layers, 2 labels, 128 tokens; batches of at most 32 rows
and 4,096 tokens. The rates are those of MiniLM's width: wider models get more out of a core. Few
rows can take more memory than many: the teacher's hidden states are held where they fit
`distillation.cache_limit_gb` (4 GB); what is more lies in a file, on a CPU whose disk has room.
"""

TAIL = """Memory: moments, levels, the targets of the refit, what enters the layer that is fitted
and a scoring batch each keep within `pruning.memory_gb` (2 GB), whatever the size of the model; of
moments that is so with `selection: obs`, as other scores compare all blocks and hold the moments of
all. Token ids lie in Arrow tables. Beyond the model a training holds its optimizer and the
activations of one batch: where those are too many, halve `training.per_device_train_batch_size` and
double `training.gradient_accumulation_steps`. PyTorch's fused attention takes no dropout on a CPU,
so the attention of long texts is held whole there (the rows of 2,046 words above):
`distillation.dropout: false`, or a model that has no dropout in its attention.

## On a GPU

Reconstruction and training use the GPU where PyTorch sees one. `make test-gpu` runs
`scripts/gpu_check.py`: the tests that need one, plans, throughput and peak memory as one JSON,
within ten minutes. Its figures: not run here.
"""


def whole_run(found: dict[str, Any] | None) -> list[str]:
    """The stages of what scripts/whole_run.py has measured."""
    if found is None:
        return ["## A whole run", "", "Not run here.", ""]
    sizes, peaks = found["sizes"], found["peak_bytes"]
    seconds: dict[str, float] = {}
    for name, taken in found["seconds"].items():  # a trial has a line for each candidate
        seconds[name.split()[0]] = seconds.get(name.split()[0], 0.0) + taken
    most = max(peaks, key=peaks.get)
    lines = [
        "## A whole run",
        "",
        f"`python scripts/whole_run.py DIR --rows {sizes['rows']}`: a random model of "
        f"{sizes['layers']} layers, {sizes['width']} features and {sizes['inner']:,} neurons a "
        f"layer, {sizes['rows']:,} training rows of {sizes['words']} words in the mean, asked for "
        f"{sizes['speedup']:g}x; one epoch for teacher and recovery, a tenth for each trial, "
        f"`distillation.cache_limit_gb: 2`. {found['threads']} thread(s), of a machine that other "
        f"work shared. It took {sum(seconds.values()) / 60:.0f} minutes, and held "
        f"{peaks[most] / 1e9:.1f} GB at most ({most}).",
        "",
        "| stage | minutes | most that is held, GB |",
        "|---|---:|---:|",
    ]
    for name, peak in peaks.items():
        taken_here = f"{seconds[name] / 60:.1f}" if name in seconds else "-"
        lines.append(f"| {name} | {taken_here} | {peak / 1e9:.2f} |")
    return [*lines, ""]


def page(known: dict[str, dict[str, float]], whole: dict[str, Any] | None = None) -> str:
    parts = [HEAD, *measured_tables(known), *whole_run(whole)]
    return "\n".join([*parts, PREDICTED, *predicted_tables(), TAIL])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=Path, help="JSON that gets what is measured")
    parser.add_argument("--from", dest="known", type=Path, help="JSON of an earlier measurement")
    parser.add_argument("--whole", type=Path, help="JSON of scripts/whole_run.py")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        print(json.dumps(one(*json.loads(given.one))))
        return 0
    if given.measure is not None:
        measure(given.measure)
        return 0
    if given.known is None:
        parser.error("give --measure or --from")
    known = json.loads(given.known.read_text(encoding="utf-8"))
    whole = None if given.whole is None else json.loads(given.whole.read_text(encoding="utf-8"))
    PAGE.write_text(page(known, whole), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
