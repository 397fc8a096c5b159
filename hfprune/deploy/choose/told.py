"""What was chosen to be deployed, as console, report and model card tell it, all alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from hfprune.core.errors import OutputError
from hfprune.core.results import RunResults
from hfprune.deploy.choose.record import Deployment, Recommended

TITLES: Final[Mapping[str, str]] = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
}
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Told:
    """The recommended file of one model for one use.

    Attributes:
        label: of the model.
        use: ``single`` or ``batches``; ``served``: in words.
        path: relative to the folder of the model.
        runtime: as people call it; ``precision``, ``graph``: of the file.
        threads: of one session.
        ms: milliseconds an input; ``None`` where it was not measured.
        speedup: over ``baseline``; ``over_best``: over ``best``, the dense model's own best file
            for this use; each with its interval. ``None`` where that was not measured.
        parts: factors whose product is the speed-up, by where they come from.
        why: in words.
        load: three lines of Python.
        notes: what to know of the whole choice.
    """

    label: str
    use: str
    served: str
    path: str
    runtime: str
    precision: str
    graph: str
    threads: int
    ms: float | None
    speedup: Interval | None
    baseline: str
    over_best: Interval | None
    best: str | None
    parts: Mapping[str, float]
    why: str
    load: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def speeds(self) -> str:
        """``10.9x over dense float32 ONNX, 4.3x over the best dense file (...)``, or nothing."""
        if self.speedup is None:
            return ""
        said = f"{self.speedup[0]:.1f}x over {self.baseline}"
        if self.over_best is not None:
            named = "" if self.best is None else f" ({self.best})"
            said += f", {self.over_best[0]:.1f}x over the best dense file{named}"
        return said

    @property
    def from_where(self) -> str:
        """``pruning 4.1x, graph 1.2x, precision 2.2x``; empty where it was not measured."""
        return ", ".join(f"{name} {factor:.2f}x" for name, factor in self.parts.items())

    @property
    def line(self) -> str:
        """All but the reason and the lines that load it, in one line."""
        what = f"{self.path} ({self.runtime}, {self.precision})"
        time = "not measured" if self.ms is None else f"{self.ms:.2f} ms"
        speeds = f", {self.speeds}" if self.speeds else ""
        parts = f"; {self.from_where}" if self.from_where else ""
        return f"{self.served}: {what}, {time}{speeds}{parts}"


def recommended_files(results: RunResults, label: str) -> list[Told]:
    """The recommended file of a model for each use; empty where none was chosen.

    Args:
        results: of a run.
        label: of one of its models, the dense one or a pruned one.

    Raises:
        OutputError: the results hold something else than a choice.
    """
    if not results.deployment or label not in results.deployment:
        return []
    try:
        found = Deployment.model_validate(results.deployment[label])
    except ValidationError as error:
        first = str(error).splitlines()[0]
        raise OutputError(
            f"deployment.{label} of the results is no record of a choice: {first}; was "
            "metrics.json edited?"
        ) from error
    return [_told(label, use, chosen, found) for use, chosen in found.uses.items()]


def _told(label: str, use: str, chosen: Recommended, found: Deployment) -> Told:
    served = "one at a time" if use == "single" else f"in batches of {found.batch_size}"
    return Told(
        label=label,
        use=use,
        served=served,
        path=chosen.path,
        runtime=TITLES.get(chosen.runtime, chosen.runtime),
        precision=chosen.precision,
        graph=chosen.graph,
        threads=found.threads,
        ms=chosen.ms,
        speedup=chosen.speedup,
        baseline=found.baseline or "the float32 file",
        over_best=chosen.over_best,
        best=found.best.get(use),
        parts=chosen.parts,
        why=chosen.why,
        load=chosen.load,
        notes=found.notes,
    )
