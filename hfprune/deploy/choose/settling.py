"""The end of a choice: files that lie in an output, timed beside each other and recommended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfprune.deploy.choose.recommend import Written, recommend, stray
from hfprune.deploy.choose.record import Recommended, Timed
from hfprune.deploy.choose.trying import Candidate
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.runtimes.base import Runtime
from hfprune.deploy.runtimes.registry import runtime
from hfprune.measure.latency import paired_ratio
from hfprune.measure.quiet import BUSY
from hfprune.measure.runners import Batch
from hfprune.measure.traffic import TrafficTimer, Use, busy_share

# The last timing has the dense model in it: fewer rounds where its time is over.
LEAST_ROUNDS, LAST_ROUNDS = 9, 24
FLOAT_FILE = f"onnx/{MODEL_FILE}"


class Settled:
    """The files in the output: timed beside each other, recommended, removed.

    Args:
        output: that they lie in.
        task: of a pipeline, for the lines that load a file.
        written: by path relative to ``output``, the candidate that each file is.
        runners: by path the opened files; ``baseline``: what speed-ups are over, if it is another.
        float_name: the name of ``model.onnx`` where it is no candidate.
        threads: of the deployment.

    Attributes:
        timed: all that was timed, in order.
        base: the runner that speed-ups are over.
        busy: the part of the time in which the processor was elsewhere.
    """

    def __init__(
        self,
        output: Path,
        task: str,
        written: Mapping[str, Candidate],
        runners: Mapping[str, Any],
        float_name: str,
        threads: int,
    ) -> None:
        self.output, self.task, self.written = output, task, written
        self.runners, self.float_name, self.threads = runners, float_name, threads
        able = [name for name in ("baseline", FLOAT_FILE) if name in runners]
        self.base = (able or list(runners))[0]
        self.timed: list[Timed] = []
        self.busy = 0.0
        self.ms: dict[str, dict[str, float]] = {name: {} for name in runners}
        self.ratio: dict[str, dict[str, tuple[float, float, float]]] = {n: {} for n in runners}

    def time(self, use: Use, batches: Sequence[Batch], seconds: float) -> None:
        timer = TrafficTimer(self.runners, batches, use, seed=1)
        names = list(self.runners)
        timer.warm_up(names)
        start = time.monotonic()
        for done in range(LAST_ROUNDS):
            if done >= LEAST_ROUNDS and time.monotonic() - start > seconds:
                break
            timer.round(names)
        rows = [timer.row(name) for name in names]
        series = timer.process if self.threads == 1 else timer.times
        base = series[self.base]
        for row in rows:
            self.ms[row.name][use] = row.process_ms if self.threads == 1 else row.ms
            found = paired_ratio(base, series[row.name])
            self.ratio[row.name][use] = (found.value, found.low, found.high)
            self.timed.append(
                Timed(
                    name=row.name,
                    use=use,
                    ms=row.ms,
                    cold_ms=row.cold_ms,
                    process_ms=row.process_ms,
                    path=None if row.name == "baseline" else row.name,
                )
            )
        if self.threads == 1:
            shares = [busy_share(row.ms, row.process_ms) for row in rows]
            self.busy = max(self.busy, float(np.median(shares)))

    def recommended(self, use: Use) -> Recommended:
        files = [
            Written(self._name(path), path, ms)
            for path, ms in self.ms.items()
            if path != "baseline"
        ]
        best = recommend(files, use)
        others = [f"{f.path} {f.ms[use] / best.ms[use]:.2f}x" for f in files if f is not best]
        candidate = self.written.get(best.path)
        each: Runtime = runtime("onnxruntime") if candidate is None else candidate.runtime
        why = "the fastest of what may be deployed"
        if others:
            why += f"; times of the others over its own: {', '.join(others)}"
        if candidate is not None and candidate.verdict is not None:
            why += f"; {candidate.verdict.why}"
        return Recommended(
            path=best.path,
            candidate=best.name,
            runtime=each.name,
            precision="float32" if candidate is None else candidate.offer.precision,
            graph="exported" if candidate is None else candidate.offer.graph,
            ms=best.ms[use],
            speedup=self.ratio[best.path][use],
            why=why,
            load=each.how_to_load(best.path, self.task),
        )

    def remove_stray(self, chosen: Mapping[Use, Recommended]) -> None:
        files = [Written(self._name(path), path, self.ms[path]) for path in self.written]
        kept = {str(use): Written(c.candidate, c.path, {}) for use, c in chosen.items()}
        own = [path for path, c in self.written.items() if c.runtime.keeps]
        for file in stray(files, kept, keep=[FLOAT_FILE, *own]):
            place = self.output / file.path
            beside = (place.with_suffix(".bin"), Path(f"{place}_data"), Path(f"{place}.data"))
            for part in (place, *beside):
                part.unlink(missing_ok=True)
            self.timed = [row for row in self.timed if row.path != file.path]

    def _name(self, path: str) -> str:
        return self.written[path].name if path in self.written else self.float_name


def busy_note(busy: float) -> list[str]:
    """What to say of a busy machine, if it was."""
    if busy <= BUSY:
        return []
    return [
        f"the machine was busy: the processor was elsewhere {busy:.0%} of the time; times are of "
        "the processor, where one thread is used"
    ]
