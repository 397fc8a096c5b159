"""What each stage leaves: typed, frozen, and JSON as it lies in the work folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from hfprune.core.results import Benchmark, Evaluation


class StageResult(BaseModel):
    """Result of one stage; what it says of files is relative to the work folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def places(self) -> Sequence[str]:
        """Files and folders that the result stands for, checked by content when it is taken."""
        return ()

    def sources(self) -> Sequence[str]:
        """Those of them that later stages read, and so follow from."""
        return self.places()


class FilesRead(StageResult):
    """What files that one stage alone reads hold: if that changes, the stage is done again.

    Attributes:
        digests: SHA-256 of the content, by the key of the recipe that names the file.
    """

    digests: dict[str, str]


class Precision(StageResult):
    """Whether trainings compute in bfloat16."""

    bf16: bool


class Embedded(StageResult):
    """Embeddings of the dense model on all rows, which take the place of labels.

    Attributes:
        folder: of a file ``<split>.npy`` each, float32 ``(rows, width)``.
    """

    folder: str

    def places(self) -> tuple[str, ...]:
        return (self.folder,)


class SavedModel(StageResult):
    """A model with its processor and, if it was pruned, its plan from the dense model.

    Attributes:
        folder: where it lies.
        log: file of the training's log, if it was trained.
    """

    folder: str
    log: str | None = None

    def places(self) -> Sequence[str]:
        return (self.folder,) if self.log is None else (self.folder, self.log)

    def sources(self) -> Sequence[str]:
        return (self.folder,)


class Scaled(SavedModel):
    """A finished model whose logits were divided by ``temperature``; ``None``: left as they are."""

    temperature: float | None = None


class Tokens(StageResult):
    """What a reduced vocabulary does to the validation texts; fractions are in [0, 1]."""

    tokens_before: int
    tokens_after: int
    unknown_before: float
    unknown_after: float
    mean_length_before: float
    mean_length_after: float
    changed: float

    def text(self) -> str:
        """In one line."""
        return (
            f"{self.tokens_after} of {self.tokens_before} tokens kept; on validation texts "
            f"{self.unknown_after:.2%} of tokens unknown ({self.unknown_before:.2%}), "
            f"{self.mean_length_after:.1f} tokens a text ({self.mean_length_before:.1f}), "
            f"{self.changed:.1%} of texts split otherwise"
        )


class Baseline(StageResult):
    """The dense float32 ONNX model that speeds are relative to before the end."""

    folder: str

    def places(self) -> Sequence[str]:
        return (self.folder,)


class Latency(StageResult):
    """A latency table as :meth:`hfprune.pruning.cost.LatencyTable.to_dict` gives it."""

    table: dict[str, Any]


class Reached(StageResult):
    """Speed-up of a model over the dense float32 one: by the table of times, and as measured."""

    predicted: float
    measured: float


class Candidate(StageResult):
    """One way to reach a target.

    Attributes:
        folder: where it lies.
        sizes: heads and neurons of each layer.
        predicted, measured: speed-ups, where the target is one.
    """

    folder: str
    sizes: list[tuple[int, int]]
    predicted: float | None = None
    measured: float | None = None


class Candidates(StageResult):
    """All candidates of a reconstruction, by name."""

    found: dict[str, Candidate]

    def places(self) -> Sequence[str]:
        return [entry.folder for entry in self.found.values()]


class Recovered(SavedModel):
    """A model after a training that may be one of several rounds.

    Attributes:
        nearer: whether it is shown to be nearer to the teacher than what it began with; ``None``
            where that was not asked.
        divergence: from the teacher on the validation rows, before and after, in nats a row.
    """

    nearer: bool | None = None
    divergence: tuple[float, float] | None = None


class Trial(StageResult):
    """KL divergence from the teacher on the validation rows, in nats a row.

    Attributes:
        divergence: their mean; ``None`` where the training ran away: its loss was no finite number.
        rows: file of all of them, float64 ``(rows,)``.
        epochs: of the training.
    """

    divergence: float | None
    rows: str
    epochs: float

    def places(self) -> tuple[str, ...]:
        return (self.rows,)


class Rate(StageResult):
    """The learning rate of a recovery.

    Attributes:
        learning_rate: that was chosen.
        tried: of each trial its ``learning_rate``, ``epochs`` and ``divergence`` from the teacher
            on the validation rows, in nats a row; ``None`` where the training ran away.
    """

    learning_rate: float
    tried: list[dict[str, float | None]]


class Exported(StageResult):
    """Deployed files of one model.

    Attributes:
        folder: where they lie.
        model: digest of the PyTorch model that they were made of.
        quantization: record of the search for int8 settings, if there was one.
        deployed: folder with the files of all runtimes and ``deploy.json``, if they were chosen.
    """

    folder: str
    model: str
    quantization: dict[str, Any] | None = None
    deployed: str | None = None

    def places(self) -> Sequence[str]:
        return (self.folder if self.deployed is None else self.deployed,)


class Validated(StageResult):
    """The metric of a deployed file on the validation rows."""

    metric: float
    exported: Exported

    def places(self) -> Sequence[str]:
        return self.exported.places()


class AllExported(StageResult):
    """Deployed files by label of the model."""

    models: dict[str, Exported]

    def places(self) -> Sequence[str]:
        return [place for entry in self.models.values() for place in entry.places()]


class Evaluated(StageResult):
    """Quality on the test rows, and the rows whose prediction changed, by model."""

    evaluation: Evaluation
    changed: dict[str, list[dict[str, Any]]]


class Timed(StageResult):
    """Times and sizes of all models."""

    benchmark: Benchmark
