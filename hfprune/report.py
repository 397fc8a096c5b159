"""What a run tells a person: stages as they go, a table at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from rich.console import Console as RichConsole
from rich.progress import Progress
from rich.table import Table


def processes() -> PartialState:
    """This process among those that were started together.

    Without a GPU accelerate must be told so, or each of several processes takes itself for the
    only one.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def leave_processes() -> None:
    """Take the process group down, if there is one; at the very end of a program.

    A process that just ends can abort in gloo's threads, after its work is done and well.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def lost_processes(environ: Mapping[str, str] = os.environ) -> str | None:
    """What to say where several processes were asked for and only this one was started.

    ``accelerate launch --num_processes 2`` without a GPU starts one process and says nothing. It
    then sets an address to meet at, but, other than for real processes, no rank and no world size.
    """
    started = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    asked = all(
        name in environ for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT")
    )
    if not asked or any(name in environ for name in started):
        return None
    return (
        "accelerate launch was asked for several processes, but without GPUs it starts only this "
        "one, which trains with the batch of one; for two processes on the CPU use "
        "`python -m torch.distributed.run --nproc_per_node 2 scripts/prune.py --recipe ...`"
    )


class Console:
    """Writes to stderr, on the main process only; plain lines where that is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._rich = RichConsole(file=sys.stderr, highlight=False)

    @property
    def silent(self) -> bool:
        return self._quiet or not processes().is_main_process

    def note(self, text: str) -> None:
        """One line."""
        if not self.silent:
            self._rich.print(f"  {text}", markup=False)

    def warn(self, text: str) -> None:
        """One line that is shown also where progress is not."""
        if processes().is_main_process:
            self._rich.print(f"warning: {text}", markup=False, style="yellow")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage, and how long it took when it ends well."""
        start = time.monotonic()
        if not self.silent:
            self._rich.print(f"== {name}", markup=False, style="bold")
        yield
        self.note(f"{name}: {time.monotonic() - start:.0f} s")

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Gives a function of (done, total) that moves a bar."""
        if self.silent or not self._rich.is_terminal:
            yield lambda done, total: None
            return
        with Progress(console=self._rich, transient=True) as bars:
            task = bars.add_task(name)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def quantization(self, label: str, record: dict[str, Any]) -> None:
        """The candidates of a search for int8 settings, to stderr."""
        if not self.silent:
            width = None if self._rich.is_terminal else 160
            RichConsole(file=sys.stderr, highlight=False, width=width).print(
                quantization_table(label, record)
            )

    def summary(self, results: dict[str, Any]) -> None:
        """The table of a run, to stdout."""
        if not self.silent:
            RichConsole(highlight=False, width=_width()).print(summary_table(results))


def _width() -> int | None:
    return None if sys.stdout.isatty() else 120


def quantization_table(label: str, record: dict[str, Any]) -> Table:
    """A row a candidate: settings, times, speed-up over plain int8, metric, size, verdict."""
    metric = record["metric"]
    table = Table(
        title=f"int8 of the {label} model",
        caption=(
            f"{metric} on validation rows, float32 {record['float_metric']:.4f}; speed-up over "
            f"plain dynamic int8, geometric mean of the shapes; {record['seconds']:.0f} s, "
            f"{record['not_tried']} candidates not tried for want of time"
        ),
    )
    shapes = list(dict.fromkeys(s for entry in record["candidates"] for s in entry["ms"]))
    table.add_column("settings")
    for name in (*shapes, "speed-up", metric, "agree", "MB"):
        table.add_column(name, justify="right")
    table.add_column("verdict")

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for entry in record["candidates"]:
        size = entry["file_bytes"]
        table.add_row(
            ", ".join(f"{key}: {value}" for key, value in entry["settings"].items()) or "plain",
            *(shown(entry["ms"].get(shape), ".2f") for shape in shapes),
            shown(entry["speedup"], ".2f"),
            shown(entry["metric"], ".4f"),
            shown(entry["agreement"], ".3f"),
            shown(size and size / 1e6, ".1f"),
            entry["refused"] or "chosen",
        )
    return table


def summary_table(results: dict[str, Any]) -> Table:
    """A row a model: quality with its interval, size, latency and speed-up at each shape."""
    evaluation, benchmark = results["evaluation"], results["benchmark"]
    primary = evaluation["primary"]
    shapes = list(
        dict.fromkeys((row["batch_size"], row["sequence_length"]) for row in benchmark["rows"])
    )
    removed = {
        label: f"{entry['sparsity']:.1%}"
        for label, entry in (results.get("family") or {"": results["pruning"]}).items()
    }
    table = Table(
        title="encoder weights removed: "
        + ", ".join(f"{label} {share}".strip() for label, share in removed.items()),
        caption=(
            f"{primary} on {evaluation['samples']} test samples, {evaluation['confidence']:.0%} "
            f"interval; speed-up over {benchmark['baseline']}, {benchmark['threads']} thread(s), "
            f"batch x length, median of {benchmark['repeats']} interleaved rounds; one seed "
            f"({results['seed']})"
        ),
    )
    table.add_column("model")
    table.add_column(primary, justify="right")
    table.add_column("interval", justify="right")
    table.add_column("MB", justify="right")
    for batch, length in shapes:
        table.add_column(f"{batch}x{length}", justify="right")
    for name, entry in evaluation["models"].items():
        rows = {
            (row["batch_size"], row["sequence_length"]): row
            for row in benchmark["rows"]
            if row["name"] == name
        }
        low, high = entry["interval"]
        table.add_row(
            name,
            f"{entry['metrics'][primary]:.4f}",
            f"{low:.3f}-{high:.3f}",
            f"{benchmark['file_bytes'][name] / 1e6:.1f}",
            *(f"{rows[s]['median_ms']:.2f} ms {rows[s]['speedup']:.1f}x" for s in shapes),
        )
    return table
