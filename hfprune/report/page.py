"""What the report of a run shows, part by part, as data.

Every number comes from ``metrics.json`` and ``details.json``; what they lack (an earlier version
wrote them, or the task has no such thing) is left out. Local paths in the recipe are called local,
as in the model card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from hfprune.core.details import Details, read_details
from hfprune.core.errors import OutputError, RecipeError
from hfprune.core.kinds import kind_of_task
from hfprune.core.model_ref import DENSE, REFERENCE
from hfprune.core.records import SizesCandidate
from hfprune.core.results import RunResults, Timing, read_results
from hfprune.deploy.calling import calls, example_for, reader
from hfprune.deploy.worth import layout_in_words
from hfprune.recipe.public import public_recipe
from hfprune.recipe.reading import dump_recipe, load_recipe
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.curves import colour_of
from hfprune.report.sure import CascadePart, cascade_part
from hfprune.report.verdict import Verdict, asked_about, verdict, verdicts

NEEDED_BY = "a report"
RECIPE_FILE = "recipe.yaml"
Interval = tuple[float, float]


@dataclass(frozen=True)
class Headline:
    """One pruned model, as one would deploy it, before and after.

    Attributes:
        before, after: the first metric of the dense PyTorch model and of this one.
        difference: of the two, and its interval.
        ms, base_ms: of a batch of the first shape, of this model and of the baseline.
        bytes, base_bytes: of their files.
        parameters, base_parameters: of this model and the dense one, if counted.
        changes: of predictions, if compared.
    """

    name: str
    colour: int
    before: float
    before_interval: Interval
    after: float
    interval: Interval
    difference: tuple[float, float, float] | None
    speedup: float
    speedup_interval: Interval | None
    ms: float
    base_ms: float
    bytes: int
    base_bytes: int
    sparsity: float
    parameters: Mapping[str, int] | None
    base_parameters: Mapping[str, int] | None
    changes: Mapping[str, Any] | None


@dataclass(frozen=True)
class Row:
    """One model in the table of all; ``times`` by shape."""

    name: str
    colour: int
    metrics: Mapping[str, float]
    interval: Interval
    intervals: Mapping[str, Interval]
    bytes: int
    times: Sequence[Timing]


@dataclass(frozen=True)
class ByClass:
    """Scores of each class before and after; ``confusion`` by name of the model, if it is there."""

    name: str
    label: str
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
    labels: Sequence[str]
    confusion: Mapping[str, Sequence[Sequence[int]]] | None


@dataclass(frozen=True)
class Said:
    """What was said of a row, or of one word of it (``of``), in words.

    ``confidence``: the probabilities of what was said before and after, where there are such.
    """

    of: str | None
    label: str
    before: str
    after: str
    confidence: Sequence[float] | None = None


@dataclass(frozen=True)
class ChangedRow:
    """A test row (from 1) whose prediction changed; ``kind``: fixed, broken or other."""

    row: int
    text: str | None
    pair: str | None
    kind: str | None
    said: Sequence[Said]


@dataclass(frozen=True)
class Changed:
    """Where one model says otherwise than the dense one."""

    name: str
    summary: Mapping[str, Any]
    rows: Sequence[ChangedRow]


@dataclass(frozen=True)
class Origin:
    """What a run began with, by name; of local files and folders the last part of their paths."""

    model: str = "not recorded"
    data: str = "not recorded"
    teacher: str | None = None


@dataclass(frozen=True)
class Page:
    """A finished run, read for its report; ``recipe`` is its YAML without local paths.

    Attributes:
        asked: the recipe's target, if there is a recipe.
        origin: base model and data.
        cascade: of a family, if one was chosen.

    Methods raise KeyError and the like, or OutputError, where results were edited.
    """

    name: str
    results: RunResults
    details: Details
    recipe: str | None
    asked: PruningConfig | None = None
    origin: Origin = field(default_factory=Origin)
    cascade: CascadePart | None = None

    @classmethod
    def read(cls, folder: Path) -> Page:
        """The page of the run in a folder.

        Raises:
            OutputError: there are no results, or they, the details or the recipe cannot be read.
        """
        results = read_results(folder, NEEDED_BY)
        details = read_details(folder, NEEDED_BY)
        whole = _recipe(folder / RECIPE_FILE)
        if whole is None:
            return cls(folder.resolve().name, results, details, None)
        recipe = public_recipe(whole, results.sources)
        # By its recipe, as the folder may still be a temporary one.
        name, member = Path(recipe.output_dir).name, results.member
        title = name if member is None else f"{name}, {member}"
        return cls(
            title, results, details, dump_recipe(recipe), recipe.pruning,
            origin_of(whole, results), cascade_part(folder),
        )  # fmt: skip

    def verdicts(self) -> list[Verdict]:
        """What it came to, a model."""
        return verdicts(self.results, self.asked)

    def layouts(self) -> list[tuple[str, str]]:
        """What sizes the layers have and who loads them, by label; of old runs nothing."""
        told = {label: layout_in_words(kept) for label, kept in self.results.members.items()}
        return [(label, text) for label, text in told.items() if text is not None]

    def usage(self) -> list[tuple[str, str]]:
        """How the file of a model is used, as titles and texts to copy."""
        return usage(self.results)

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, in order."""
        return list(self.results.quality(REFERENCE).metrics)

    def headlines(self) -> Iterator[Headline]:
        """One entry a pruned model."""
        results, benchmark = self.results, self.results.benchmark
        times, shape = benchmark.times(), benchmark.shapes()[0]
        base, before = benchmark.baseline, results.quality(REFERENCE)
        for label, kept in results.members.items():
            ref = results.served(label)
            name, after = str(ref), results.quality(ref)
            row = times[name, shape]
            yield Headline(
                name=name,
                colour=colour_of(results, label),
                before=before.metrics[results.primary],
                before_interval=before.interval,
                after=after.metrics[results.primary],
                interval=after.interval,
                difference=after.difference,
                speedup=row.speedup,
                speedup_interval=row.speedup_interval,
                ms=row.median_ms,
                base_ms=times[base, shape].median_ms,
                bytes=benchmark.file_bytes[name],
                base_bytes=benchmark.file_bytes[base],
                sparsity=kept.sparsity,
                parameters=benchmark.parameters.get(label),
                base_parameters=benchmark.parameters.get(DENSE),
                changes=after.changes,
            )

    def table(self) -> Iterator[Row]:
        """A row a model: metrics, size, and times by shape."""
        results, benchmark = self.results, self.results.benchmark
        times = benchmark.times()
        for ref in results.refs():
            name, entry = str(ref), results.quality(ref)
            yield Row(
                name=name,
                colour=colour_of(results, ref.label),
                metrics=entry.metrics,
                interval=entry.interval,
                intervals=entry.intervals,
                bytes=benchmark.file_bytes[name],
                times=[times[name, shape] for shape in benchmark.shapes()],
            )

    def by_class(self) -> Iterator[ByClass]:
        """Precision, recall and F1 of each class before and after."""
        results = self.results
        before = results.quality(REFERENCE).by_class
        for label in results.members:
            ref = results.served(label)
            after = results.quality(ref).by_class
            if before is None or after is None:
                continue
            confusion = None
            if before.confusion is not None and after.confusion is not None:
                confusion = {str(REFERENCE): before.confusion, str(ref): after.confusion}
            yield ByClass(
                name=str(ref),
                label=label,
                rows=list(zip(before.classes, after.classes, strict=True)),
                labels=[str(entry["label"]) for entry in after.classes],
                confusion=confusion,
            )

    def changed(self) -> Iterator[Changed]:
        """Rows on which the deployed models say otherwise than the dense one."""
        for name, rows in self.details.changed.items():
            entry = self.results.evaluation.models.get(name)
            if entry is not None and entry.changes is not None:
                yield Changed(name, entry.changes, [told(row) for row in rows])

    def candidates(self) -> dict[str, dict[str, SizesCandidate]]:
        """By label, the sizes that were tried for a model, where there was a choice."""
        members = self.results.members.items()
        return {label: kept.candidates for label, kept in members if kept.candidates}


# How the words end that say of an embedding what stayed.
KEPT: Final = "neighbours kept"


def told(row: Mapping[str, Any]) -> ChangedRow:
    """A row of ``details.json`` in words; of tokens one entry a changed word."""
    text = row.get("text")
    if "words" in row:
        words = text if isinstance(text, list) else []
        said = [
            Said(
                of=words[spot["word"]] if spot["word"] < len(words) else f"word {spot['word']}",
                label=_shown(spot["label"]),
                before=_shown(spot["before"]),
                after=_shown(spot["after"]),
            )
            for spot in row["words"]
        ]
        joined = " ".join(map(str, words)) or None
        return ChangedRow(row["row"], joined, row.get("text_pair"), None, said)
    label, before, after = row["label"], row["before"], row["after"]
    kind = None
    if not isinstance(label, float) and not str(label).endswith(KEPT):
        kind = "fixed" if label == after else "broken" if label == before else "other"
    confidence = row.get("confidence")
    said = [Said(None, _shown(label), _shown(before), _shown(after), confidence)]
    return ChangedRow(row["row"], text, row.get("text_pair"), kind, said)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _recipe(file: Path) -> Recipe | None:
    """The recipe of the run, as it was."""
    if not file.is_file():
        return None
    try:
        return load_recipe(file)
    except RecipeError as error:
        raise OutputError(f"the recipe of the run cannot be read: {error}") from error


def origin_of(recipe: Recipe, results: RunResults) -> Origin:
    """What a run began with; no more of a local path than its last part."""

    def named(key: str, value: str | list[str] | None) -> str | None:
        if value is None or results.sources.get(key) is not None:
            return results.sources.get(key)
        names = [value] if isinstance(value, str) else value
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{PurePath(names[0]).name}{more} (local)"

    data = recipe.data
    return Origin(
        model=named("model", recipe.model.name_or_path) or "not recorded",
        data=named("dataset", data.name) or named("files", data.train_file) or "not recorded",
        teacher=named("teacher", recipe.teacher.name_or_path),
    )


def usage(results: RunResults) -> list[tuple[str, str]]:
    """How a model is used from the folder of its report: titles and texts to copy.

    Of a family the fastest, as in the commands that a run ends with.
    """
    label = list(results.members)[-1]
    found = verdict(results, label, None)
    place = label if results.family is not None else "."
    texts, pairs = [], results.data.get("pairs") is True  # of older runs it is not known
    if results.task != "image_classification":
        command = f"hfprune predict {place} {asked_about(results.task, pairs)}"
        texts.append(("On the command line, in the folder of this report", command))
    if results.task == "sentence_embedding":
        loaded = f'hfprune.load_encoder("{place}")'
        texts.append(
            ("In Python", f'import hfprune\n\nencoder = {loaded}\n'
             'embeddings = encoder.encode(["a text of yours"])')
        )  # fmt: skip
        return texts
    if found.ref.runtime == "onnxruntime":
        kind = kind_of_task(results.task)
        loads, variable = reader(kind)
        example = example_for(results.task, pairs, max_length=results.data["max_length"])
        lines = (
            f"from optimum.onnxruntime import {kind.onnx_class}",
            f"from transformers import {loads}, pipeline",
            "",
            f'model = {kind.onnx_class}.from_pretrained("{place}", subfolder="onnx", '
            f'file_name="{PurePath(found.file).name}")',
            f'{variable} = {loads}.from_pretrained("{place}")',
            *calls(kind, example),
        )
        texts.append(("In Python, with Optimum and without hfprune", "\n".join(lines)))
    return texts
