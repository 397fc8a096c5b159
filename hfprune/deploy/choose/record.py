"""``deploy.json``: which file to take for which use, why, and how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hfprune.core.errors import OutputError
from hfprune.core.files import atomic_write_json
from hfprune.models.folders import inside

DEPLOY_FILE = "deploy.json"


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tried(_Plain):
    """A candidate and what was found of it.

    Attributes:
        name: unique among the candidates.
        runtime, precision, graph: of it.
        settings: of int8, as a recipe spells them.
        state: of the judge, or ``failed``, ``not tried`` (no time was left).
        eligible: whether it might be deployed.
        why: for the state, in words.
        drop, divergence, expected_loss: against float32; see
            :class:`hfprune.deploy.choose.judge.Evidence`.
        rows: on which it was judged.
        rows_needed: how many would decide.
        depends_on_batch: rows whose prediction is another alone than in a batch.
        saturated: the greatest fraction of an activation's values that its constant scale cuts.
        slower: by use, how many times as slow as the fastest, with its interval.
        file_bytes: of the file.
    """

    name: str
    runtime: str
    precision: str
    graph: str
    settings: dict[str, Any] | None = None
    state: Literal["kept", "undecided", "refused", "failed", "not tried"]
    eligible: bool
    why: str
    drop: float | None = None
    divergence: float | None = None
    expected_loss: float | None = None
    rows: int | None = None
    rows_needed: int | None = None
    depends_on_batch: int | None = None
    saturated: float | None = None
    slower: dict[str, tuple[float, float, float]] = {}
    file_bytes: int | None = None


class Recommended(_Plain):
    """The file for one use.

    Attributes:
        path: relative to the folder of ``deploy.json``.
        candidate: the name of the candidate that it is.
        runtime, precision, graph: of it.
        ms: milliseconds a text, of processor time where one thread is used; ``None`` where it was
            not measured.
        speedup: over the baseline, with its interval.
        over_best: over the dense model's own best file for this use, with its interval; ``None``
            for the dense model, and where that is not known.
        parts: factors whose product is the speed-up; see
            :func:`hfprune.deploy.choose.parts.parts_of`.
        why: in words.
        load: three lines of Python.
    """

    path: str
    candidate: str
    runtime: str
    precision: str
    graph: str
    ms: float | None = None
    speedup: tuple[float, float, float] | None = None
    over_best: tuple[float, float, float] | None = None
    parts: dict[str, float] = {}
    why: str
    load: tuple[str, ...]


class Timed(_Plain):
    """A file that lies in the output, or a baseline, timed at the end beside the others.

    Attributes:
        name: of it.
        use: ``single`` or ``batches``.
        ms, cold_ms, process_ms: milliseconds a text; see
            :class:`hfprune.measure.traffic.TrafficRow`.
        path: relative to the output; ``None`` for a baseline.
    """

    name: str
    use: str
    ms: float
    cold_ms: float
    process_ms: float
    path: str | None = None


class Deployment(_Plain):
    """All of ``deploy.json``.

    Attributes:
        cpu: the kind of CPU that it is for.
        measured: whether on such a machine; if not, ``notes`` say so.
        threads: of one session.
        batch_size: of the use ``batches``.
        baseline: what speed-ups are over.
        best: by use, what the dense model's best file is; empty for the dense model.
        uses: the file for ``single`` (one text at a time) and ``batches``.
        files: the last timing of all that was written.
        candidates: in the order in which they were tried.
        seconds: that the choice took.
        notes: what to know: a busy machine, a search cut short, what was not measured.
    """

    format_version: Literal[1] = 1
    cpu: str
    measured: bool
    threads: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    baseline: str | None = None
    best: dict[str, str] = {}
    uses: dict[str, Recommended]
    files: tuple[Timed, ...] = ()
    candidates: tuple[Tried, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def write_deployment(found: Deployment, folder: str | Path) -> Path:
    """Write ``deploy.json`` into a run's output; returns its path."""
    place = Path(folder) / DEPLOY_FILE
    atomic_write_json(place, found.model_dump(mode="json"))
    return place


def read_deployment(folder: str | Path) -> Deployment:
    """Read it back.

    Raises:
        OutputError: if it is missing, or not such a file, or names a file that is not there or
            not in this folder.
    """
    place = Path(folder) / DEPLOY_FILE
    try:
        found = Deployment.model_validate(json.loads(place.read_text(encoding="utf-8")))
    except OSError as error:
        raise OutputError(f"there is no {DEPLOY_FILE} in {folder}: {error}") from error
    except (ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise OutputError(f"{place} is no record of a deployment: {first}") from error
    for use, chosen in found.uses.items():
        try:
            inside(Path(folder), chosen.path)
        except ValueError as error:
            raise OutputError(
                f"{place} recommends a file that is not its own: {error}; choose again "
                "(`hfprune benchmark DIR --choose`)"
            ) from error
        if not (Path(folder) / chosen.path).is_file():
            raise OutputError(
                f"{place} recommends {chosen.path} for {use}, which is not there: choose again "
                "(`hfprune benchmark DIR --choose`)"
            )
    return found


def one_line(found: Deployment) -> str:
    """What to deploy, a use after the other: ``single: onnx/... (onnxruntime int8, 9.8x)``."""
    parts = []
    for use, chosen in found.uses.items():
        speed = "" if chosen.speedup is None else f", {chosen.speedup[0]:.1f}x"
        if chosen.over_best is not None:
            speed += f", {chosen.over_best[0]:.1f}x over the best dense file"
        parts.append(f"{use}: {chosen.path} ({chosen.runtime} {chosen.precision}{speed})")
    return "; ".join(parts)
