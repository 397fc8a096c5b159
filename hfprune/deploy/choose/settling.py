"""The end of a choice: files that lie in an output, timed beside each other and recommended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfprune.deploy.calling import EXAMPLE, Example
from hfprune.deploy.choose.parts import Variant, parts_of
from hfprune.deploy.choose.recommend import Written, recommend, stray
from hfprune.deploy.choose.record import Recommended, Timed
from hfprune.deploy.choose.trying import Candidate
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.runtimes.base import Runtime, loading
from hfprune.deploy.runtimes.registry import runtime
from hfprune.measure.latency import paired_ratio
from hfprune.measure.quiet import BUSY
from hfprune.measure.runners import Batch
from hfprune.measure.traffic import TrafficTimer, Use, busy_share

# The last timing has the dense model in it: fewer rounds where its time is over.
LEAST_ROUNDS, LAST_ROUNDS = 9, 24
FLOAT_FILE = f"onnx/{MODEL_FILE}"
BASELINE, BEST = "baseline", "dense, best"

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Rival:
    """The dense model's own best file for a use: what a pruned one has to be faster than.

    Attributes:
        name: of it, for people.
        session: opened; ``None`` where it is the baseline itself.
    """

    name: str
    session: Any | None = None


class Settled:
    """The files in the output: timed beside each other, recommended, removed.

    Args:
        output: that they lie in.
        task: of a pipeline, for the lines that load a file.
        written: by path relative to ``output``, the candidate that each file is.
        runners: by path the opened files; ``baseline``: what speed-ups are over, if it is another.
        float_name: the name of ``model.onnx`` where it is no candidate.
        threads: of the deployment.
        candidates: all that raced.
        example: what the lines that load a file read.

    Attributes:
        timed: all that was timed, in order.
        over_best: by path and use, the speed-up over the rival.
        extra: by use, milliseconds a text of what was timed only to tell parts of speed-ups.
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
        candidates: Sequence[Candidate] = (),
        example: Example = EXAMPLE,
    ) -> None:
        self.output, self.task, self.written = output, task, written
        self.runners, self.float_name, self.threads = runners, float_name, threads
        self.candidates, self.example = candidates, example
        able = [name for name in (BASELINE, FLOAT_FILE) if name in runners]
        self.base = (able or list(runners))[0]
        self.timed: list[Timed] = []
        self.busy = 0.0
        self.ms: dict[str, dict[str, float]] = {name: {} for name in runners}
        self.ratio: dict[str, dict[str, Interval]] = {n: {} for n in runners}
        self.over_best: dict[str, dict[str, Interval]] = {n: {} for n in runners}
        self.extra: dict[str, dict[str, float]] = {}

    def time(
        self,
        use: Use,
        batches: Sequence[Batch],
        seconds: float,
        rival: Rival | None = None,
        extra: Mapping[str, Any] | None = None,
        calls: int | None = None,
    ) -> None:
        """Time all files on the traffic of one use, beside each other.

        Args:
            use, batches: the traffic.
            seconds: about so long.
            rival: the dense model's own best file.
            extra: runners that are timed too, and never recommended.
            calls: batches a round; ``None``: as many as is usual.
        """
        others = dict(extra or {})
        if rival is not None and rival.session is not None:
            others[BEST] = rival.session
        timer = TrafficTimer({**self.runners, **others}, batches, use, seed=1, calls=calls)
        names = [*self.runners, *others]
        timer.warm_up(names)
        start = time.monotonic()
        for done in range(LAST_ROUNDS):
            if done >= LEAST_ROUNDS and time.monotonic() - start > seconds:
                break
            timer.round(names)
        rows = {name: timer.row(name) for name in names}
        series = timer.process if self.threads == 1 else timer.times
        best = None if rival is None else series[BEST if BEST in rows else self.base]
        for name, row in rows.items():
            ms = row.process_ms if self.threads == 1 else row.ms
            if name in (extra or {}):
                self.extra.setdefault(use, {})[name] = ms
                continue
            if name in self.runners:
                self.ms[name][use] = ms
                self.ratio[name][use] = _interval(series[self.base], series[name])
                if best is not None:
                    self.over_best[name][use] = _interval(best, series[name])
            self.timed.append(
                Timed(
                    name=name,
                    use=use,
                    ms=row.ms,
                    cold_ms=row.cold_ms,
                    process_ms=row.process_ms,
                    path=None if name in (BASELINE, BEST) else name,
                )
            )
        if self.threads == 1:
            shares = [busy_share(row.ms, row.process_ms) for row in rows.values()]
            self.busy = max(self.busy, float(np.median(shares)))

    def recommended(self, use: Use) -> Recommended:
        files = [
            Written(self._name(path), path, ms) for path, ms in self.ms.items() if path != BASELINE
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
            over_best=self.over_best[best.path].get(use) if BASELINE in self.runners else None,
            parts=self._parts(best.path, use),
            why=why,
            load=loading(each, best.path, self.task, self.example),
        )

    def _parts(self, path: str, use: Use) -> dict[str, float]:
        """Where the speed-up of a file comes from; nothing where its candidates were not timed."""
        chosen = self.written.get(path)
        if chosen is None:
            return {}
        # Times of the race are relative to its fastest; those at the end of each use are not.
        ms = {variant_of(c): c.slower[use][0] for c in self.candidates if use in c.slower}
        scale = self.ms[path][use] / chosen.slower[use][0] if use in chosen.slower else None
        for name, extra in self.extra.get(use, {}).items():
            if scale is not None and name == in_float(path):
                ms[variant_of(chosen)._replace(precision="float32")] = extra / scale
        pruned = 1.0 if self.base == FLOAT_FILE else self.ratio[FLOAT_FILE][use][0]
        return parts_of(variant_of(chosen), ms, self.ratio[path][use][0], pruned)

    def remove_stray(self, chosen: Mapping[Use, Recommended]) -> None:
        files = [Written(self._name(path), path, self.ms[path]) for path in self.written]
        kept = {str(use): Written(c.candidate, c.path, {}) for use, c in chosen.items()}
        own = [path for path, c in self.written.items() if c.runtime.keeps or c.asked]
        for file in stray(files, kept, keep=[FLOAT_FILE, *own]):
            place = self.output / file.path
            beside = (place.with_suffix(".bin"), Path(f"{place}_data"), Path(f"{place}.data"))
            for part in (place, *beside):
                part.unlink(missing_ok=True)
            self.timed = [row for row in self.timed if row.path != file.path]

    def _name(self, path: str) -> str:
        return self.written[path].name if path in self.written else self.float_name


def _interval(base: Sequence[float], own: Sequence[float]) -> Interval:
    found = paired_ratio(base, own)
    return found.value, found.low, found.high


def in_float(path: str) -> str:
    """The name of a file's runner when it is run in float32, to tell what its precision gives."""
    return f"{path}, in float32"


def variant_of(candidate: Candidate) -> Variant:
    """How it runs, for :func:`hfprune.deploy.choose.parts.parts_of`."""
    offer = candidate.offer
    return Variant(candidate.runtime.name, offer.precision, offer.graph)


def busy_note(busy: float) -> list[str]:
    """What to say of a busy machine, if it was."""
    if busy <= BUSY:
        return []
    return [
        f"the machine was busy: the processor was elsewhere {busy:.0%} of the time; times are of "
        "the processor, where one thread is used"
    ]
