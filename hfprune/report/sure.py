"""The part of a report on probabilities: what they are worth, and the cascade that uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfprune.core.model_ref import DENSE
from hfprune.core.results import RunResults
from hfprune.deploy.predict.cascade import CASCADE_FILE, Cascade, read_cascade
from hfprune.deploy.worth import probabilities_in_words
from hfprune.report.curves import colour_of


@dataclass(frozen=True)
class SureRow:
    """One model: expected calibration error, Brier score, and the temperature, if it has one."""

    name: str
    colour: int
    ece: float
    brier: float
    temperature: float | None


@dataclass(frozen=True)
class SurePart:
    """What is shown; ``said`` are sentences on the files that one would deploy, by label."""

    rows: Sequence[SureRow]
    said: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class CascadeRow:
    """The fast model, the slow one or both as a cascade, one text at a time."""

    name: str
    metric: float
    interval: tuple[float, float]
    mean_ms: float
    p95_ms: float
    slow_share: float
    speedup: float


@dataclass(frozen=True)
class CascadePart:
    """A cascade with its rows, the cascade last; ``speedup`` there is over the slow model alone."""

    cascade: Cascade
    rows: Sequence[CascadeRow]
    said: str


def sure_part(results: RunResults) -> SurePart | None:
    """What the page shows of probabilities; ``None`` where a task has none."""
    rows = []
    for ref in results.refs():
        found = results.quality(ref).probabilities
        if not found or "ece" not in found or "brier" not in found:
            continue
        kept = None if ref.label == DENSE else results.members.get(ref.label)
        temperature = None if kept is None else kept.temperature
        colour = colour_of(results, ref.label)
        rows.append(SureRow(str(ref), colour, found["ece"], found["brier"], temperature))
        own = [found.get(key) for key in ("scaled_ece", "scaled_brier", "temperature")]
        if None not in own:  # what the pruned ones are compared with, treated as they are
            rows.append(SureRow(f"{ref}, divided", colour, *own))  # type: ignore[arg-type]
    if not rows:
        return None
    said = [
        (label, text)
        for label in results.members
        if (text := probabilities_in_words(results, results.served(label))) is not None
    ]
    return SurePart(rows, said)


def cascade_part(folder: Path) -> CascadePart | None:
    """What the page shows of ``cascade.json``; ``None`` where the folder has none.

    Raises:
        OutputError: it is damaged.
    """
    if not (folder / CASCADE_FILE).is_file():
        return None
    found = read_cascade(folder)
    slow = found.measured["slow"]
    names = {"slow": f"{found.slow} alone", "fast": f"{found.fast} alone", "cascade": "cascade"}
    rows = [
        CascadeRow(
            name=name,
            metric=row.metric,
            interval=row.interval,
            mean_ms=row.mean_ms,
            p95_ms=row.p95_ms,
            slow_share=row.slow_share,
            speedup=slow.mean_ms / row.mean_ms,
        )
        for key, name in names.items()
        if (row := found.measured.get(key)) is not None
    ]
    said = (
        f"{found.fast} answers where its probability is {found.threshold:.3f} or more, "
        f"{found.slow} else. The threshold was chosen on the validation rows, where "
        f"{found.metric} was to be {found.wanted:.4f} and is {found.reached:.4f}; the table is of "
        f"{found.rows:,} test rows, one at a time."
    )
    return CascadePart(found, rows, said)
