"""Chooses among the files that lie in an output, on the machine where they will run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfprune.core.errors import HFPruneError, OutputError
from hfprune.core.kinds import kind_of_task, task_of_config
from hfprune.deploy.choose.record import Deployment, read_deployment, write_deployment
from hfprune.deploy.choose.settling import FLOAT_FILE, Settled, busy_note
from hfprune.deploy.choose.targets import cpu_here
from hfprune.deploy.choose.trying import Candidate
from hfprune.deploy.files import OPTIMIZED_FILE
from hfprune.deploy.predict.places import example_of
from hfprune.deploy.runtimes.base import Offer
from hfprune.deploy.runtimes.registry import runtime, usable_runtimes
from hfprune.measure.runners import Batch, batches_for, config_beside
from hfprune.measure.traffic import USES, Use
from hfprune.models.cross_encoder import task_in

# Lengths of made-up texts, where there are no rows: from short sentences to short paragraphs.
SHORTEST, LONGEST, TEXTS = 8, 96, 64


def choose_among(
    folder: str | Path,
    *,
    traffic: Mapping[Use, Sequence[Batch]] | None = None,
    uses: Sequence[Use] = USES,
    batch_size: int = 32,
    threads: int = 1,
    seconds: float = 60.0,
    progress: Callable[[float, str], None] | None = None,
) -> Deployment:
    """Time the files of an output on this machine and record which to take for each use.

    Nothing is judged: what lies in the output was let through when it was written. The record of
    that keeps its candidates.

    Args:
        folder: a run's output; gets a new ``deploy.json``.
        traffic: by use, batches of :func:`~hfprune.measure.traffic.traffic_batches`; without,
            random tokens of ``SHORTEST`` to ``LONGEST`` (images of their one size), which the notes
            tell.
        uses, batch_size, threads: of the deployment.
        seconds: about so long.
        progress: called with the fraction that is done, and what.

    Raises:
        HFPruneError: if there is no file that an installed runtime takes.
    """
    place, start = Path(folder), time.monotonic()
    present = _present(place)
    if not present:
        raise HFPruneError(
            f"{folder} holds no file to choose among; run `hfprune export {folder}` first"
        )
    notes = []
    if traffic is None:
        traffic = {use: _made_up(place / next(iter(present)), use, batch_size) for use in uses}
        notes.append("timed on random inputs, for no rows were given: real lengths may differ")
    runners = {
        path: each.runtime.open(place / path, threads, each.offer.precision)
        for path, each in present.items()
    }
    first = place / next(iter(present))
    task = task_in(_folder_of_config(first), task_of_config(_config(first)))
    found = Settled(
        place,
        kind_of_task(task).export_task,
        present,
        runners,
        FLOAT_FILE,
        threads,
        example=example_of(place),
    )
    for number, use in enumerate(uses):
        if progress is not None:
            progress(number / len(uses), f"timing: {use}")
        found.time(use, traffic[use], seconds / len(uses))
    try:
        earlier = read_deployment(place)
    except OutputError:  # none, or of files that are gone: that is what choosing anew is for
        earlier = None
    record = Deployment(
        cpu=cpu_here(),
        measured=True,
        threads=threads,
        batch_size=batch_size,
        baseline=found.base,
        uses={use: found.recommended(use) for use in uses},
        files=tuple(found.timed),
        candidates=() if earlier is None else earlier.candidates,
        seconds=round(time.monotonic() - start, 1),
        notes=(*notes, *busy_note(found.busy)),
    )
    write_deployment(record, place)
    return record


def _present(folder: Path) -> dict[str, Candidate]:
    """By relative path, the files that runtimes find, but for the saved model itself."""
    found = {}
    for each in usable_runtimes():
        if each.keeps:
            continue
        for precision, file in each.files(folder).items():
            path = file.relative_to(folder).as_posix()
            found[path] = Candidate(each, Offer(precision, "as written"), path)
    optimized = folder / "onnx" / OPTIMIZED_FILE
    onnx = runtime("onnxruntime")
    if optimized.is_file() and onnx.missing() is None:
        path = optimized.relative_to(folder).as_posix()
        found[path] = Candidate(onnx, Offer("float32", "as written"), path)
    return found


def _made_up(file: Path, use: Use, batch_size: int) -> list[Batch]:
    """Random inputs."""
    config = _config(file)
    longest = min(LONGEST, (getattr(config, "max_position_embeddings", None) or LONGEST) - 8)
    size = 1 if use == "single" else batch_size
    count = TEXTS if use == "single" else max(1, TEXTS // 8)
    lengths = np.random.default_rng(0).integers(min(SHORTEST, longest), longest + 1, size=count)
    make = batches_for(config)
    return [make(size, int(length)) for length in lengths]


def _config(file: Path) -> Any:
    return config_beside(_folder_of_config(file) / file.name)


def _folder_of_config(file: Path) -> Path:
    """The config lies beside a file or at the top of the output."""
    places = (file.parent, file.parent.parent)
    return next((place for place in places if (place / "config.json").is_file()), file.parent)
