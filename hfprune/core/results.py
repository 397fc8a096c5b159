"""What a run found: one versioned model, which console, report, card and commands read.

``metrics.json`` is :class:`RunResults` as JSON. Files of earlier versions stay readable: what they
lack is ``None`` or empty, and what this version does not know is kept as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from hfprune.core import reading
from hfprune.core.errors import OutputError
from hfprune.core.model_ref import BASELINE, DENSE, PRUNED, ModelRef
from hfprune.core.records import Part, QuantizationRecord, SizesCandidate, SpeedSearch, Target

RESULTS_VERSION: Final = 1
METRICS_FILE: Final = "metrics.json"
# Details hold texts of test rows.
MOST_BYTES: Final = 2**29
# Files whose times differ by no more than this factor are taken for equally fast.
AS_FAST: Final = 1.03
EXPECTED: Final = "give the output_dir of a finished run"
PartT = TypeVar("PartT", bound=Part)
ValueT = TypeVar("ValueT")


class ClassScores(Part):
    """Scores by class, and the table true x predicted where there is one."""

    classes: list[dict[str, Any]] = Field(default_factory=list)
    confusion: list[list[int]] | None = None


class ModelQuality(Part):
    """One model on the test rows.

    Attributes:
        metrics: by name.
        interval: of the first metric, at the level of the evaluation.
        probabilities: ``ece`` (expected calibration error) and ``brier``, where there are such; of
            the dense model also its own ``temperature``, ``scaled_ece`` and ``scaled_brier``, if
            one helps.
        difference: first metric minus the dense model's on the same rows, and its interval.
        intervals, differences: the same of all metrics that are of the test rows, by name.
        by_class, changes: where the task has such a thing.
    """

    metrics: dict[str, float]
    interval: tuple[float, float]
    probabilities: dict[str, float] | None = None
    difference: tuple[float, float, float] | None = None
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    differences: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    by_class: ClassScores | None = None
    changes: dict[str, Any] | None = None


class Evaluation(Part):
    """All models on the test rows; ``models`` by the name of their :class:`ModelRef`."""

    primary: str
    confidence: float
    samples: int
    models: dict[str, ModelQuality]


class Timing(Part):
    """Times of one model at one shape; milliseconds a batch, inputs a second."""

    name: str
    batch_size: int
    sequence_length: int
    median_ms: float
    p95_ms: float | None = None
    throughput: float | None = None
    speedup: float
    speedup_interval: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Batch size and length."""
        return self.batch_size, self.sequence_length


class Fact(Part):
    """Time of one ONNX model at one of many shapes, for other deployments than the run's own."""

    name: str
    threads: int
    batch_size: int
    sequence_length: int
    median_ms: float
    speedup: float


RowT = TypeVar("RowT", Timing, Fact)


class Benchmark(Part):
    """Times and sizes of all models, measured together."""

    threads: int
    repeats: int
    baseline: str = str(BASELINE)
    length_unit: str = "tokens"
    # How quiet the machine was: see hfprune.measure.quiet.
    busy: float | None = None
    spread: float | None = None
    rows: list[Timing]
    full_table: list[Fact] | None = None
    file_bytes: dict[str, int]
    parameters: dict[str, dict[str, int]] = Field(default_factory=dict)
    macs: dict[str, dict[str, int]] = Field(default_factory=dict)

    def shapes(self) -> list[tuple[int, int]]:
        """The shapes that were timed, in order, each once."""
        return list(dict.fromkeys(row.shape for row in self.rows))

    def times(self) -> dict[tuple[str, tuple[int, int]], Timing]:
        """By name and shape."""
        return {(row.name, row.shape): row for row in self.rows}


class Kept(Part):
    """What one pruned model kept; ``sparsity`` in [0, 1] of the dense model's encoder weights.

    Attributes:
        layout: of the recipe: ``uneven`` or ``uniform``.
        stock: whether transformers loads the model without hfprune.
        temperature: that the logits were divided by, ``None`` where they were not.
        heads, neurons, of_heads, of_neurons: a number a layer of the dense model.
    """

    sparsity: float
    heads: list[int]
    neurons: list[int]
    of_heads: list[int]
    of_neurons: list[int]
    layout: str | None = None
    stock: bool | None = None
    temperature: float | None = None
    predicted_speedup: float | None = None
    candidates: dict[str, SizesCandidate] | None = None


class RunResults(Part):
    """A finished run, of one pruned model (``pruning``) or of a family (``family``, by label)."""

    format_version: Literal[1] = RESULTS_VERSION
    recipe_sha256: str | None = None
    task: str = "single_label_classification"
    labels: list[str] | None = None
    member: str | None = Field(default=None, description="Which of a family, in a folder of it.")
    data: dict[str, Any] = Field(default_factory=dict)
    sources: dict[str, str | None] = Field(default_factory=dict)
    seed: int | None = None
    bf16: bool | None = None
    processes: int | None = None
    search: SpeedSearch | None = None
    quantization: dict[str, QuantizationRecord] | None = None
    vocabulary: dict[str, Any] | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    pruning: Kept | None = None
    family: dict[str, Kept] | None = None
    deployment: dict[str, dict[str, Any]] | None = None
    targets: dict[str, Target] | None = None
    evaluation: Evaluation
    benchmark: Benchmark

    @model_validator(mode="after")
    def _says_what_was_kept(self) -> RunResults:
        if self.pruning is None and self.family is None:
            raise ValueError("neither pruning (of one model) nor family (of several) is there")
        return self

    @property
    def members(self) -> dict[str, Kept]:
        """The pruned models by label."""
        if self.family is not None:
            return self.family
        return {} if self.pruning is None else {PRUNED: self.pruning}

    @property
    def primary(self) -> str:
        """The first metric."""
        return self.evaluation.primary

    def refs(self) -> Iterator[ModelRef]:
        """All models that were evaluated, in order."""
        return map(ModelRef.parse, self.evaluation.models)

    def quality(self, ref: ModelRef) -> ModelQuality:
        """Of one model on the test rows.

        Raises:
            KeyError: it was not evaluated.
        """
        return self.evaluation.models[str(ref)]

    def served(self, label: str) -> ModelRef:
        """The form of a model that one would deploy.

        Where files were chosen, the one for the first use; else the fastest at the first shape, and
        of files within :data:`AS_FAST` of it the smallest (int8 is only written where it keeps the
        metric).

        Raises:
            OutputError: no form but that of PyTorch was evaluated.
        """
        refs = [ref for ref in self.refs() if ref.label == label]
        uses = (self.deployment or {}).get(label, {}).get("uses", {})
        for use in uses.values():
            wanted = (use.get("runtime"), use.get("precision"))
            found = [ref for ref in refs if (ref.runtime, ref.precision) == wanted]
            # Of float32 in ONNX Runtime there may be two, which differ by their graphs.
            lean = str(use.get("path", "")).endswith("model_optimized.onnx")
            found.sort(key=lambda ref: (ref.form == "ONNX-lean") != lean)
            if found:
                return found[0]
        forms = [ref for ref in refs if ref.format != "pytorch"]
        if not forms:
            found_names = ", ".join(self.evaluation.models) or "none"
            raise OutputError(
                f"the results hold no model that could serve as {label!r}: of {found_names}, none "
                "is its ONNX form; was metrics.json edited?"
            )
        return self._fastest(forms)

    def _fastest(self, forms: list[ModelRef]) -> ModelRef:
        """By speed-ups, which compare times of the same rounds, not by medians of all rounds."""
        shapes, times = self.benchmark.shapes(), self.benchmark.times()
        timed = {
            ref: times[str(ref), shapes[0]].speedup for ref in forms
            if shapes and (str(ref), shapes[0]) in times and str(ref) in self.benchmark.file_bytes
        }  # fmt: skip
        if not timed:
            return next((ref for ref in forms if ref.precision == "int8"), forms[0])
        near = [ref for ref in timed if AS_FAST * timed[ref] >= max(timed.values())]
        return min(near, key=lambda ref: self.benchmark.file_bytes[str(ref)])

    def member_results(self, label: str) -> RunResults:
        """The results of one model of a family, as if it had been the only one."""
        if self.family is None:
            return self
        names = self._renamed(label)
        timing = self.benchmark
        mine = {DENSE: DENSE, label: PRUNED}
        records = self.quantization or {}
        changes: dict[str, Any] = {
            "member": label,
            "family": None,
            "pruning": self.family[label],
            "quantization": {PRUNED: records[label]} if label in records else None,
            "deployment": {mine[k]: v for k, v in self.deployment.items() if k in mine}
            if self.deployment
            else None,
            "targets": {PRUNED: self.targets[label].renamed(names)}
            if self.targets and label in self.targets
            else None,
            "evaluation": self.evaluation.model_copy(
                update={"models": _renamed_keys(self.evaluation.models, names)}
            ),
            "benchmark": timing.model_copy(
                update={
                    "rows": _renamed_rows(timing.rows, names),
                    "full_table": _renamed_rows(timing.full_table or [], names) or None,
                    "file_bytes": _renamed_keys(timing.file_bytes, names),
                    "parameters": _renamed_keys(timing.parameters, mine),
                    "macs": _renamed_keys(timing.macs, mine),
                }
            ),
        }
        single = self.model_copy(update=changes)
        single.model_fields_set.discard("family")
        for name in ("deployment", "targets"):
            if getattr(single, name) is None:
                single.model_fields_set.discard(name)
        return single

    def _renamed(self, label: str) -> dict[str, str]:
        """Names of the dense model and of one of a family -> names where it is the only one."""
        found = {}
        for name in dict.fromkeys(
            [*self.evaluation.models, *self.benchmark.file_bytes, *self._timed()]
        ):
            ref = ModelRef.parse(name)
            if ref.is_dense:
                found[name] = name
            elif ref.label == label:
                found[name] = str(ref.of(PRUNED))
        return found

    def _timed(self) -> list[str]:
        timing = self.benchmark
        table = timing.full_table or []
        return [*(row.name for row in timing.rows), *(row.name for row in table)]


def read_results(folder: str | Path, needed_by: str = "hfprune") -> RunResults:
    """The results in the folder of a finished run.

    Args:
        folder: with a ``metrics.json``, of this version or an earlier one.
        needed_by: what reads them, for errors: ``a report``, say.

    Raises:
        OutputError: there are none, they are of another version, or lack what they must have.
    """
    file = Path(folder) / METRICS_FILE
    if not file.is_file():
        raise OutputError(f"{folder} holds no {METRICS_FILE}: {EXPECTED}")
    return parse_results(read_json(file), file, needed_by)


def parse_results(values: Any, file: Path, needed_by: str = "hfprune") -> RunResults:
    """Results from the JSON value that a file holds; else as :func:`read_results`."""
    found = values.get("format_version") if isinstance(values, dict) else None
    if found != RESULTS_VERSION:
        raise OutputError(
            f"{file}: format_version must be {RESULTS_VERSION}, got {found!r:.40}; {EXPECTED} of "
            "this version of hfprune"
        )
    return validated(RunResults, values, file, needed_by)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OutputError: it cannot be read, or is no JSON.
    """
    return reading.read_json(path, OutputError, most=MOST_BYTES)


def validated(kind: type[PartT], values: Any, file: Path, needed_by: str) -> PartT:
    """A part of the results from the JSON value that a file holds.

    Raises:
        OutputError: it lacks something.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise OutputError(
            f"{file} lacks something that {needed_by} needs ({_first_problem(error)}); was it "
            "edited?"
        ) from error


def _first_problem(error: ValidationError) -> str:
    """In the words of readers that look a value up themselves, where it is not there."""
    first = error.errors(include_url=False)[0]
    where = repr(".".join(map(str, first["loc"])))
    if first["type"] == "missing":
        return f"KeyError: {where}"
    if not first["loc"]:  # of the whole, which is too much to show
        return str(first["msg"])
    return f"{where}: {first['msg']}, got {first['input']!r:.40}"


def _renamed_keys(values: dict[str, ValueT], names: dict[str, str]) -> dict[str, ValueT]:
    """What has a new name, under it, in the order of the values."""
    return {names[name]: value for name, value in values.items() if name in names}


def _renamed_rows(rows: list[RowT], names: dict[str, str]) -> list[RowT]:
    """Those whose name has a new one, under it."""
    return [row.model_copy(update={"name": names[row.name]}) for row in rows if row.name in names]
