"""What a run tried on the way to its models, as it stands in its results.

Each is a part of :class:`~hfprune.core.results.RunResults`. What an earlier version did not write
is ``None``; what a later one adds is kept as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """What all parts of results share: frozen, and keys of later versions are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """As it is written: plain data, without what was never given."""
        return self.model_dump(mode="json", exclude_unset=True)


class SizesCandidate(Part):
    """Sizes that a target can be met with, and how they did.

    Attributes:
        sizes: heads and neurons of each layer.
        chosen: whether the model of these sizes is the result; of all candidates one.
        predicted, measured: speed-up by the table of latencies and on the model itself; ``None``
            where the target is no speed-up.
        divergence: from the teacher after its longest trial, nats a validation row; ``None`` for
            the only candidate, which needs no trial, and for one whose trial ran away.
        trial_epochs: of that trial.
    """

    sizes: list[tuple[int, int]]
    chosen: bool
    predicted: float | None = None
    measured: float | None = None
    divergence: float | None = None
    trial_epochs: float | None = None


class QuantizationCandidate(Part):
    """Settings for int8 that were tried.

    Attributes:
        settings: what differs from plain dynamic quantization.
        ms: median milliseconds of a batch by shape (``"1x32"``: batch x length).
        speedup: over plain dynamic int8 of the same model, geometric mean of the shapes.
        metric: on validation rows; ``drop``: what it lost against float32, below 0 it gained.
        agreement: fraction of predictions that are those of float32.
        file_bytes: of the file.
        refused: why it was not chosen; ``None`` for the chosen one.
        state, why: the judge's verdict (``kept``, ``undecided``, ``refused``), and in words.
        divergence: from float32, nats a row.
        depends_on_batch: rows whose prediction is another alone than in a batch.
        saturated: the greatest fraction of an activation's values that its constant scale cuts.

    What was not measured is ``None``.
    """

    settings: dict[str, Any]
    ms: dict[str, float]
    speedup: float | None
    metric: float | None
    drop: float | None = None
    agreement: float | None
    file_bytes: int | None
    refused: str | None
    state: str | None = None
    why: str = ""
    divergence: float | None = None
    depends_on_batch: int | None = None
    saturated: float | None = None


class QuantizationRecord(Part):
    """The search for one model's int8 settings.

    Attributes:
        metric: the name of the metric that was to be kept; ``float_metric``: its value in float32.
        chosen: the settings that were taken, as :attr:`QuantizationCandidate.settings`.
        within: whether they keep the metric; if not, none did.
        not_tried: candidates that the time was too short for; ``seconds``: the time.
        candidates: in the order in which they were tried.
    """

    metric: str
    chosen: dict[str, Any]
    within: bool
    float_metric: float
    not_tried: int
    seconds: float
    candidates: list[QuantizationCandidate]

    def shapes(self) -> list[str]:
        """The shapes that were timed, in order, each once."""
        return list(dict.fromkeys(shape for entry in self.candidates for shape in entry.ms))


class SpeedStep(Part):
    """One speed-up on the way up: the validation metric and what it lost, or why it stopped."""

    speedup: float
    metric: float | None = None
    drop: float | None = None
    stopped: str | None = None

    @property
    def label(self) -> str:
        """As the model of that speed is called: ``3.9x``."""
        return f"{self.speedup:g}x"


class SpeedSearch(Part):
    """How ``max_metric_drop`` was met.

    Attributes:
        dense: the dense model's metric on validation rows.
        limit: what a model may lose of it.
        chosen: the label of the step that was taken.
        steps: from slow to fast.
    """

    dense: float
    limit: float
    chosen: str
    steps: list[SpeedStep]


class Target(Part):
    """A speed-up that was asked for, and the one of the file that is recommended.

    Attributes:
        wanted, reached: over the dense float32 ONNX model, at ``batch_size`` x ``sequence_length``.
        name: of the model's form that was timed, as in the benchmark.
        missed: whether they differ by more than a tenth, either way.
    """

    wanted: float
    reached: float
    name: str
    batch_size: int
    sequence_length: int
    missed: bool

    def text(self) -> str:
        """In one line."""
        said = f"asked for {self.wanted:.3g}x, reached {self.reached:.3g}x"
        at = f"{self.name}, batch {self.batch_size} x {self.sequence_length}"
        miss = ""
        if self.missed:
            way = "slower" if self.reached < self.wanted else "faster"
            miss = f": {way} than asked for by {abs(self.reached / self.wanted - 1):.0%}"
        return f"{said} ({at}){miss}"

    def renamed(self, names: Mapping[str, str]) -> Target:
        """The same with another name of the model."""
        return self.model_copy(update={"name": names.get(self.name, self.name)})
