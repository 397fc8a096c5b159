"""All models on the test rows, which are read here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfprune.core.files import sha256_file
from hfprune.core.machine import usable_cpus
from hfprune.core.model_ref import ModelRef
from hfprune.core.results import Evaluation
from hfprune.deploy.choose.record import read_deployment
from hfprune.deploy.files import MODEL_FILE, OPTIMIZED_FILE, QUANTIZED_FILE
from hfprune.deploy.runtimes.base import Session
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.deploy.runtimes.registry import runtime, usable_runtimes
from hfprune.deploy.sentences import Sample, Uses, read_uses
from hfprune.measure.comparison import changes, class_scores
from hfprune.measure.intervals import interval, paired_interval
from hfprune.measure.metrics import compute
from hfprune.measure.probabilities import quality
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, Reading
from hfprune.pipeline.results import AllExported, Evaluated, FilesRead, SavedModel
from hfprune.pipeline.stages import embeddings
from hfprune.pipeline.stages.export import reading_of
from hfprune.pipeline.stages.temperature import fitted

# By the word for such a model, its file in the folder of ONNX files.
ONNX_FORMS = {"ONNX": MODEL_FILE, "ONNX-lean": OPTIMIZED_FILE, "int8": QUANTIZED_FILE}

# Of a text whose prediction changed: characters, or words, that are kept.
MOST_TEXT = 1000
# Of a text, or its nearest: three stand side by side.
NEAR_TEXT = 200


@dataclass(frozen=True)
class RuntimeFile:
    """A deployed file of another runtime than ONNX Runtime."""

    path: Path
    runtime: str
    precision: str

    def open(self, threads: int) -> Session:
        """The file, ready to run."""
        return runtime(self.runtime).open(self.path, threads, self.precision)

    @property
    def file_bytes(self) -> int:
        """Of the file and what lies beside it under the same name (an IR has its weights there)."""
        return sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.stem}.*"))


def candidates(
    context: Context, prepared: Prepared, models: Mapping[str, SavedModel], exported: AllExported
) -> dict[ModelRef, Any]:
    """All models that are compared: PyTorch modules, paths of ONNX files, other runtimes' files."""
    found: dict[ModelRef, Any] = {}
    for label, model in models.items():
        entry = exported.models[label]
        folder = context.path(entry.folder)
        found[ModelRef(label, "PyTorch")] = prepared.saved(context, model).eval()
        for form, name in ONNX_FORMS.items():
            if (folder / name).is_file():
                found[ModelRef(label, form)] = folder / name
        if entry.deployed is not None:
            found |= _of_others(context, label, context.path(entry.deployed))
    return found


def _of_others(context: Context, label: str, folder: Path) -> dict[ModelRef, Any]:
    """Files of runtimes that are neither ONNX Runtime nor the saved model as it is.

    Of a runtime whose file is the saved model, only what is recommended.
    """
    found: dict[ModelRef, Any] = {}
    settings = context.recipe.deploy
    for each in usable_runtimes():
        if settings is None or each.name == "onnxruntime" or each.keeps:
            continue
        for precision, file in each.files(folder).items():
            file_of = RuntimeFile(file, each.name, precision)
            found[ModelRef(label, each.forms[precision])] = file_of
    for chosen in read_deployment(folder).uses.values():
        each = runtime(chosen.runtime)
        ref = ModelRef(label, each.forms[chosen.precision])
        if each.keeps and ref.form != "PyTorch":
            file = folder / chosen.path
            found[ref] = RuntimeFile(file, chosen.runtime, chosen.precision)
    return found


def recommended(context: Context, exported: AllExported, label: str) -> set[ModelRef]:
    """The forms of a model that its users will get; empty where none were chosen."""
    place = exported.models[label].deployed
    if place is None:
        return set()
    found = set()
    for chosen in read_deployment(context.path(place)).uses.values():
        form = runtime(chosen.runtime).forms[chosen.precision]
        lean = chosen.path.endswith(OPTIMIZED_FILE)
        found.add(ModelRef(label, "ONNX-lean" if lean else form))
    return found


def opened(candidate: Any, threads: int) -> Any:
    """A model or an opened file, for its logits."""
    if isinstance(candidate, Path):
        return OnnxClassifier(candidate, threads)
    return candidate.open(threads) if isinstance(candidate, RuntimeFile) else candidate


def run(
    context: Context, prepared: Prepared, models: Mapping[str, SavedModel], exported: AllExported
) -> Evaluated:
    """Metrics with intervals, and what the pruned models say otherwise than the dense one."""
    recipe, data = context.recipe, prepared.data
    names, level = recipe.evaluation.metrics, recipe.evaluation.confidence
    labels = data.label_array("test")
    threads = usable_cpus()
    primary = names[0]
    report: dict[str, Any] = {}
    changed: dict[str, list[dict[str, Any]]] = {}
    about = (data.task, data.num_labels, data.label_names)
    first: Any = None  # the dense model in PyTorch, which all are compared with
    first_more: Mapping[str, Sample] = {}
    found = candidates(context, prepared, models, exported)
    uses = {reading is prepared.dense: _uses(context, reading)
            for reading in (prepared.small, prepared.dense)}  # fmt: skip
    for ref, candidate in found.items():
        model = opened(candidate, threads)
        reading = reading_of(prepared, ref.label)
        logits = predict_logits(
            model,
            reading.data.test,
            reading.collator,
            batch_size=recipe.training.per_device_eval_batch_size,
        )
        logits = reading.data.by_text("test", logits)
        used = uses[reading is prepared.dense]
        more = {} if used is None else used.measure(
            model, reading.collator, recipe.training.per_device_eval_batch_size
        )  # fmt: skip
        entry: dict[str, Any] = {
            "metrics": compute(logits, labels, names, *about)
            | {name: sample.value for name, sample in more.items()},
            "by_class": class_scores(logits, labels, *about),
            "probabilities": quality(logits, labels, data.task),
        }
        if first is None:
            first, first_more = logits, more
            if recipe.fits_temperature:
                entry["probabilities"] |= _scaled(context, reading, model, logits, labels)
        elif not ref.is_dense:
            entry["changes"], rows = changes(first, logits, labels, *about)
            served = recommended(context, exported, ref.label) or {ModelRef(ref.label, "int8")}
            if ref in served or not served & set(found):
                changed[str(ref)] = _with_texts(prepared, rows)
        entry["intervals"] = {
            name: interval(name, logits, labels, *about, level) for name in names
        } | {name: sample.interval(level) for name, sample in more.items()}
        entry["differences"] = {
            name: paired_interval(name, logits, first, labels, *about, level) for name in names
        } | {name: one.difference(first_more[name], level) for name, one in more.items()}
        entry["interval"] = entry["intervals"][primary]
        entry["difference"] = entry["differences"][primary]
        report[str(ref)] = entry
        context.console.note(f"{ref}: {primary} {entry['metrics'][primary]:.4f}")
    evaluation = Evaluation.model_validate(
        {"primary": primary, "confidence": level, "samples": len(labels), "models": report}
    )
    return Evaluated(evaluation=evaluation, changed=changed)


def _scaled(
    context: Context, reading: Reading, dense: Any, logits: Any, labels: Any
) -> dict[str, float]:
    """What a temperature of its own makes of the dense model's probabilities, if it helps.

    The pruned models are given one, so what they are compared with is too; its files stay.
    """
    _, value = fitted(context, reading, dense)
    if value is None:
        return {}
    found = quality(logits / value, labels, reading.data.task) or {}
    told = {f"scaled_{name}": number for name, number in found.items()}
    return {"temperature": round(value, 6), **told}


def files_read(context: Context) -> dict[str, FilesRead]:
    """What :func:`run` reads besides the rows of the run, if anything, as an input of its stage."""
    settings = context.recipe.evaluation
    named = {"scored_pairs": settings.scored_pairs, "retrieval": settings.retrieval}
    files = {key: Path(name) for key, name in named.items() if name is not None}
    found = {key: sha256_file(file) for key, file in files.items() if file.is_file()}
    return {"evaluation": FilesRead(digests=found)} if files and context.is_main else {}


def _uses(context: Context, reading: Reading) -> Uses | None:
    """What embeddings are tried on besides, if the recipe names such rows."""
    settings, data = context.recipe.evaluation, reading.data
    if settings.scored_pairs is None and settings.retrieval is None:
        return None
    return read_uses(
        settings.scored_pairs,
        settings.retrieval,
        reading.processor,
        data.max_length,
        data.prompt,
        embeddings.prompts_to_search(context.recipe),
    )


def _with_texts(prepared: Prepared, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Test rows that ``comparison.changes`` names, with their texts if any."""
    data = prepared.data
    if data.task == "sentence_embedding":
        return _with_nearest(data.texts.get("test"), rows)
    texts = {"text": data.texts.get("test"), "text_pair": data.text_pairs.get("test")}
    return [
        {
            **row,
            **{key: some[row["row"] - 1][:MOST_TEXT] for key, some in texts.items() if some},
        }
        for row in rows
    ]


def _with_nearest(
    texts: Sequence[str] | None, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Texts whose neighbours changed, with the nearest before and after, by number or in words."""
    if not texts:
        return [dict(row) for row in rows]
    found = []
    for row in rows:
        near = {key: texts[row[key] - 1][:NEAR_TEXT] for key in ("before", "after")}
        found.append({**row, "text": texts[row["row"] - 1][:NEAR_TEXT], **near})
    return found
