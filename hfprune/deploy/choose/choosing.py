"""Chooses the files to deploy: judges what candidates say, and races the right ones.

Candidates are what runtimes offer (runtime x precision x graph). Those that may be deployed race on
real traffic, one race for each use. The winners are written into the output, timed once more beside
each other, and the fastest is recommended.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfprune.core.errors import ExportError
from hfprune.deploy.choose.halving import Race, race
from hfprune.deploy.choose.recommend import Written, recommend, stray
from hfprune.deploy.choose.record import Deployment, Recommended, Timed, Tried, write_deployment
from hfprune.deploy.choose.targets import cpu_here
from hfprune.deploy.choose.trying import Candidate, Judging, Trials, list_candidates
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.runtimes.base import Runtime
from hfprune.deploy.runtimes.onnx_session import OnnxClassifier
from hfprune.deploy.runtimes.predicting import padding
from hfprune.deploy.runtimes.registry import runtime
from hfprune.deploy.staging import copy_of_export
from hfprune.measure.latency import paired_ratio
from hfprune.measure.runners import Batch
from hfprune.measure.traffic import (
    USES,
    TrafficTimer,
    Use,
    busy_share,
    traffic_batches,
)

RUNTIMES = ("onnxruntime", "openvino")

# Of the time for all: until then candidates are tried that are not among the usual.
TRYING_SHARE = 0.6

# Texts of the traffic that is timed, by use.
MOST_TEXTS: Mapping[Use, int] = {"single": 128, "batches": 256}

# Of the last timing, which has the dense model in it: fewer rounds where its time is over.
LEAST_ROUNDS, LAST_ROUNDS = 9, 24
LAST_SHARE = 0.15

# The part of the time in which the processor was with others; from here on it is told.
BUSY = 0.15
FLOAT_FILE = f"onnx/{MODEL_FILE}"


def choose_files(
    onnx_dir: str | Path,
    output: str | Path,
    judging: Judging,
    *,
    calibration: Any,
    task: str = "text-classification",
    uses: Sequence[Use] = USES,
    batch_size: int = 32,
    threads: int = 1,
    seconds: float = 240.0,
    quantization: Any = "auto",
    runtimes: Sequence[str] = RUNTIMES,
    baseline: str | Path | None = None,
    keep_all: bool = False,
    progress: Callable[[float, str], None] | None = None,
) -> Deployment:
    """Choose, write and record the files to deploy.

    Args:
        onnx_dir: what ``export_onnx`` wrote; may be ``output/onnx``.
        output: gets the files (``onnx/``, ``openvino/``) and ``deploy.json``. ``onnx/model.onnx``
            is there in any case: it is what others are made from.
        judging: rows, metric and what may be lost.
        calibration: training rows, for constant scales.
        task: of a pipeline, for the lines that load a file.
        uses: for which to choose; ``single``: one text at a time, ``batches``: ``batch_size``.
        batch_size, threads: of the deployment.
        seconds: about so long; what usually wins is tried and timed however little it is.
        quantization: see :func:`~hfprune.deploy.choose.trying.list_candidates`.
        runtimes: names; of those whose packages are missing the notes tell.
        baseline: the dense float32 ONNX file that speed-ups are over; without: ``model.onnx``.
        keep_all: leave also files of winners that turned out slower in the end.
        progress: called with the fraction of the time that is over, and what is done.

    Returns:
        What ``deploy.json`` holds.

    Raises:
        ExportError: if not even ``model.onnx`` runs.
        ExtensionError: for an unknown runtime.
    """
    start = time.monotonic()
    output, source = Path(output), Path(onnx_dir)
    tell = progress or (lambda fraction, what: None)

    def over() -> float:
        return (time.monotonic() - start) / seconds

    named = [runtime(name) for name in runtimes]
    notes = [f"{each.title} took no part: {why}" for each in named if (why := each.missing())]
    able = [each for each in named if each.missing() is None]
    pad = padding(judging.collator)
    traffic = {
        use: traffic_batches(
            judging.rows, _inputs_only(pad), use, batch_size=batch_size, most=MOST_TEXTS[use]
        )
        for use in uses
    }
    with tempfile.TemporaryDirectory(prefix="hfprune-choose-") as name:
        trials = Trials(source, Path(name), judging, calibration, batch_size, threads)
        candidates = list_candidates(able, quantization)
        trials.try_all(
            candidates,
            lambda: over() > TRYING_SHARE,
            lambda what: tell(min(1.0, over()), what),
        )
        right = [candidate for candidate in candidates if candidate.eligible]
        if not right:
            raise ExportError(
                "no candidate may be deployed: "
                + "; ".join(f"{c.name}: {_why(c)}" for c in candidates)
            )
        races = {}
        for use in uses:
            tell(min(1.0, over()), f"racing: {use}")
            left = max(0.0, (1 - over()) * seconds / len(uses))
            races[use] = _race(right, traffic[use], use, threads, left)
        if any(found.cut_short for found in races.values()):
            notes.append("time ended before the race was clear: give more seconds")
        _place_float(source, output)
        written = _write(trials, right, races, output)
    runners = {path: _open(c, output / path, threads) for path, c in written.items()}
    baselines = {} if baseline is None else {"baseline": OnnxClassifier(baseline, threads)}
    float_name = next((c.name for c in written.values() if _is_float(c)), FLOAT_FILE)
    runners.setdefault(FLOAT_FILE, OnnxClassifier(output / FLOAT_FILE, threads))
    tell(min(1.0, over()), "the winners once more")
    found = _Settled(output, task, written, {**baselines, **runners}, float_name, threads)
    for use in uses:
        found.time(use, traffic[use], seconds * LAST_SHARE)
    chosen = {use: found.recommended(use) for use in uses}
    if not keep_all:
        found.remove_stray(chosen)
    if found.busy > BUSY:
        notes.append(
            f"the machine was busy: the processor was elsewhere {found.busy:.0%} of the time; "
            "times are of the processor, where one thread is used"
        )
    record = Deployment(
        cpu=cpu_here(),
        measured=True,
        threads=threads,
        batch_size=batch_size,
        baseline="dense float32 ONNX" if baselines else FLOAT_FILE,
        uses=chosen,
        files=tuple(found.timed),
        candidates=tuple(_tried(candidate) for candidate in candidates),
        seconds=round(time.monotonic() - start, 1),
        notes=tuple(notes),
    )
    write_deployment(record, output)
    return record


def _inputs_only(pad: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> Any:
    names = ("input_ids", "attention_mask", "token_type_ids")

    def padded(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
        texts = "input_ids" in rows[0]
        return pad([{n: row[n] for n in names if n in row} if texts else row for row in rows])

    return padded


def _race(
    candidates: Sequence[Candidate],
    batches: Sequence[Batch],
    use: Use,
    threads: int,
    seconds: float,
) -> Race:
    """Of equals the one is preferred that depends least on its batch, then the least changed."""
    runners: dict[str, Any] = {c.name: c.session for c in candidates}
    timer = TrafficTimer(runners, batches, use)
    # Of one thread the processor's own time: it does not see what else the machine does.
    series = timer.process if threads == 1 else timer.times

    def measure(names: Sequence[str], rounds: int) -> dict[str, Sequence[float]]:
        timer.warm_up(names)
        for _ in range(rounds):
            timer.round(names)
        return {name: [max(ms, 1e-9) for ms in series[name][-rounds:]] for name in names}

    def preference(candidate: Candidate) -> tuple[int, float]:
        verdict = candidate.verdict
        return candidate.depends or 0, 0.0 if verdict is None else verdict.divergence

    names = [c.name for c in sorted(candidates, key=preference)]
    found = race(names, measure, seconds=seconds, clock=time.monotonic)
    for candidate in candidates:
        standing = next(s for s in found.standings if s.name == candidate.name)
        candidate.slower[use] = (standing.slower, standing.low, standing.high)
    return found


def _place_float(source: Path, output: Path) -> None:
    """``model.onnx`` with its config, where it is not there already."""
    target = output / "onnx"
    if target.resolve() == source.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as name:
        for file in copy_of_export(source, Path(name) / "onnx").iterdir():
            os.replace(file, target / file.name)


def _write(
    trials: Trials, right: Sequence[Candidate], races: Mapping[Use, Race], output: Path
) -> dict[str, Candidate]:
    """Write the winner of each use; where two want one place, the next best takes another."""
    written: dict[str, Candidate] = {}
    by_name = {candidate.name: candidate for candidate in right}
    for found in races.values():
        order = [found.winner, *(s.name for s in found.standings if s.name != found.winner)]
        for name in order:
            candidate = by_name[name]
            path = candidate.runtime.place(candidate.offer)
            if written.get(path, candidate) is candidate:
                break
        if path not in written:
            written[path] = candidate
            if path != FLOAT_FILE:  # which is there
                trials.write(candidate, output / Path(path).parent)
    return written


def _open(candidate: Candidate, file: Path, threads: int) -> Any:
    return candidate.runtime.open(file, threads, candidate.offer.precision)


def _is_float(candidate: Candidate) -> bool:
    return candidate.runtime.place(candidate.offer) == FLOAT_FILE


class _Settled:
    """The files in the output: timed beside each other, recommended, removed."""

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
        base = series["baseline" if "baseline" in names else FLOAT_FILE]
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


def _why(candidate: Candidate) -> str:
    if candidate.verdict is not None:
        return candidate.verdict.why
    return candidate.failure or "no time was left"


def _tried(candidate: Candidate) -> Tried:
    verdict, offer = candidate.verdict, candidate.offer
    first = candidate.evidence[0] if candidate.evidence else None
    expected = None if first is None or not np.isfinite(first.expected) else first.expected
    state: Any = "failed" if candidate.failure else "not tried"
    return Tried(
        name=candidate.name,
        runtime=candidate.runtime.name,
        precision=offer.precision,
        graph=offer.graph,
        settings=None
        if offer.settings is None
        else offer.settings.model_dump(exclude_defaults=True),
        state=state if verdict is None else verdict.state,
        eligible=candidate.eligible,
        why=_why(candidate),
        drop=None if verdict is None else verdict.drop,
        divergence=None if verdict is None else verdict.divergence,
        expected_loss=expected,
        rows=None if first is None else first.rows,
        rows_needed=None if verdict is None else verdict.rows_needed,
        depends_on_batch=candidate.depends,
        saturated=candidate.saturated,
        slower=candidate.slower,
        file_bytes=candidate.file_bytes,
    )
