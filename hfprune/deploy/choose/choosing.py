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
from typing import Any, NamedTuple

import numpy as np

from hfprune.core.errors import ExportError
from hfprune.deploy.calling import EXAMPLE, Example
from hfprune.deploy.choose.halving import FIRST_ROUNDS, Race, race
from hfprune.deploy.choose.record import Deployment, Tried, write_deployment
from hfprune.deploy.choose.settling import (
    BASELINE,
    FLOAT_FILE,
    Rival,
    Settled,
    busy_note,
    in_float,
)
from hfprune.deploy.choose.targets import cpu_here
from hfprune.deploy.choose.trying import Candidate, Judging, Trials, list_candidates
from hfprune.deploy.runtimes.base import Session
from hfprune.deploy.runtimes.onnx_session import OnnxClassifier
from hfprune.deploy.runtimes.predicting import padding
from hfprune.deploy.runtimes.registry import runtime
from hfprune.deploy.staging import copy_of_export
from hfprune.measure.runners import Batch
from hfprune.measure.traffic import (
    TEXTS_A_ROUND,
    USES,
    TrafficTimer,
    Use,
    traffic_batches,
)

RUNTIMES = ("onnxruntime", "openvino")

# Of the time for all: until then candidates are tried that are not among the usual.
TRYING_SHARE = 0.6

# Texts of the traffic that is timed, by use.
MOST_TEXTS: Mapping[Use, int] = {"single": 128, "batches": 256}

# Of the time for all, what the first stage of one race may take before its rounds become shorter,
# counted as if so many candidates were as slow as float32.
FIRST_STAGE_SHARE, SLOW_ONES = 0.1, 3

# Rounds of which each gets other batches, at least.
LEAST_PARTS = 4

# Of the time for all, what timing the winners of one use once more may take.
LAST_SHARE = 0.15


def choose_files(
    onnx_dir: str | Path,
    output: str | Path,
    judging: Judging,
    *,
    calibration: Any,
    task: str = "text-classification",
    example: Example = EXAMPLE,
    uses: Sequence[Use] = USES,
    batch_size: int = 32,
    threads: int = 1,
    seconds: float = 240.0,
    quantization: Any = "auto",
    runtimes: Sequence[str] = RUNTIMES,
    baseline: str | Path | None = None,
    rivals: Mapping[Use, Rival] | None = None,
    most_rows: int | None = None,
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
        example: what these read.
        uses: for which to choose; ``single``: one text at a time, ``batches``: ``batch_size``.
        batch_size, threads: of the deployment.
        seconds: about so long; what usually wins is tried and timed however little it is.
        quantization: see :func:`~hfprune.deploy.choose.trying.list_candidates`.
        runtimes: names; of those whose packages are missing the notes tell.
        baseline: the dense float32 ONNX file that speed-ups are over; without: ``model.onnx``.
        rivals: by use, the dense model's own best file, which speed-ups are told over as well.
        most_rows: that candidates are judged on; ``None``: all. Fewer let more through.
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
    with tempfile.TemporaryDirectory(prefix="hfprune-choose-") as name:
        trials = Trials(source, Path(name), judging, calibration, batch_size, threads, most_rows)
        amounts = {use: amount_of(use, trials.ms, batch_size, seconds) for use in uses}
        traffic = {
            use: traffic_batches(
                judging.rows,
                inputs_only(pad),
                use,
                batch_size=batch_size,
                most=amounts[use].texts,
            )
            for use in uses
        }
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
            races[use] = _race(right, traffic[use], use, threads, left, amounts[use].calls)
        if any(found.cut_short for found in races.values()):
            notes.append("time ended before the race was clear: give more seconds")
        _place_float(source, output)
        written = _write(trials, right, races, output)
        for candidate in candidates:  # of a dense model they hold gigabytes
            candidate.session = None
    runners = {path: _open(c, output / path, threads) for path, c in written.items()}
    baselines = {} if baseline is None else {BASELINE: OnnxClassifier(baseline, threads)}
    float_name = next((c.name for c in written.values() if _is_float(c)), FLOAT_FILE)
    runners.setdefault(FLOAT_FILE, OnnxClassifier(output / FLOAT_FILE, threads))
    tell(min(1.0, over()), "the winners once more")
    found = Settled(
        output,
        task,
        written,
        {**baselines, **runners},
        float_name,
        threads,
        candidates,
        example,
    )
    extra = _in_float(written, output, threads) if baselines else {}
    best = dict(rivals or {})
    for use in uses:
        found.time(
            use, traffic[use], seconds * LAST_SHARE, best.get(use), extra, amounts[use].calls
        )
    chosen = {use: found.recommended(use) for use in uses}
    if not keep_all:
        found.remove_stray(chosen)
    notes += busy_note(found.busy)
    record = Deployment(
        cpu=cpu_here(),
        measured=True,
        threads=threads,
        batch_size=batch_size,
        baseline="dense float32 ONNX" if baselines else FLOAT_FILE,
        best={use: rival.name for use, rival in best.items()},
        uses=chosen,
        files=tuple(found.timed),
        candidates=tuple(_tried(candidate) for candidate in candidates),
        seconds=round(time.monotonic() - start, 1),
        notes=tuple(notes),
    )
    write_deployment(record, output)
    return record


class Amount(NamedTuple):
    """How much traffic is timed: texts in all, and batches a round."""

    texts: int
    calls: int


def amount_of(use: Use, ms: float, batch_size: int, seconds: float) -> Amount:
    """As much traffic as the time allows: of a slow model fewer texts, and fewer in each round.

    Args:
        use: of the traffic.
        ms: that float32 takes for a text.
        batch_size: of batches.
        seconds: for the whole choice.

    >>> amount_of("batches", 1.0, 32, 120.0), amount_of("batches", 12.0, 32, 40.0)
    (Amount(texts=256, calls=4), Amount(texts=128, calls=1))
    """
    size = 1 if use == "single" else batch_size
    able = 1e3 * seconds * FIRST_STAGE_SHARE / (FIRST_ROUNDS * SLOW_ONES * max(ms, 1e-6) * size)
    calls = max(1, min(TEXTS_A_ROUND[use], int(able)))
    return Amount(min(MOST_TEXTS[use], LEAST_PARTS * calls * size), calls)


def _in_float(written: Mapping[str, Candidate], output: Path, threads: int) -> dict[str, Session]:
    """Files that another runtime computes in a lower precision, once more in float32."""
    return {
        in_float(path): c.runtime.open(output / path, threads, "float32")
        for path, c in written.items()
        if c.offer.settings is None
        and c.offer.precision != "float32"
        and "float32" in c.runtime.forms
        and not c.runtime.keeps
    }


def inputs_only(pad: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> Any:
    """The same padding, of what models read: neither labels nor what else rows hold."""
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
    calls: int,
) -> Race:
    """Of equals the one is preferred that depends least on its batch, then the least changed."""
    runners: dict[str, Any] = {c.name: c.session for c in candidates}
    timer = TrafficTimer(runners, batches, use, calls=calls)
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
                trials.place(candidate, output / Path(path).parent)
    for candidate in right:
        path = candidate.runtime.place(candidate.offer)
        if candidate.asked and path not in written:
            written[path] = candidate
            trials.place(candidate, output / Path(path).parent)
    return written


def _open(candidate: Candidate, file: Path, threads: int) -> Any:
    return candidate.runtime.open(file, threads, candidate.offer.precision)


def _is_float(candidate: Candidate) -> bool:
    return candidate.runtime.place(candidate.offer) == FLOAT_FILE


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
