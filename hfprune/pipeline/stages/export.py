"""Deployed files of each model, and the metric that they have on validation rows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hfprune.core.model_ref import DENSE
from hfprune.core.records import QuantizationRecord
from hfprune.core.tasks import LOWER_IS_BETTER
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.files import MODEL_FILE, QUANTIZED_FILE
from hfprune.deploy.quantize.outcome import PLAIN, describe_settings
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.quantize.search import quantize_auto, usual_settings
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.runners import config_beside
from hfprune.measure.scores import score
from hfprune.pipeline.context import Context
from hfprune.pipeline.decisions import judged_metric
from hfprune.pipeline.prepared import Prepared, Reading
from hfprune.pipeline.results import AllExported, Exported, SavedModel, Validated
from hfprune.pipeline.stages.latency import lengths_to_time

# Where files lie that are only made to judge a model.
VALIDATION = "validation"


def run(
    context: Context,
    prepared: Prepared,
    models: dict[str, SavedModel],
    made: dict[str, Validated],
) -> AllExported:
    """Export all models.

    Args:
        models: by label, the dense one first.
        made: what was exported before, to judge it: those very files are taken.
    """
    found = {}
    for label, model in models.items():
        place = f"onnx/{label}"
        if label not in made:
            found[label] = export(context, prepared, model, place, label)
            continue
        earlier = made[label].exported
        shutil.copytree(context.path(earlier.folder), context.path(place), dirs_exist_ok=True)
        record = earlier.quantization
        if label == DENSE:  # which was judged in float32 alone
            record = _quantize(context, prepared, place, label, judged=False)
        found[label] = earlier.model_copy(update={"folder": place, "quantization": record})
    return AllExported(models=found)


def validate(context: Context, prepared: Prepared, model: SavedModel, label: str) -> Validated:
    """The metric that chooses checkpoints, of the exported model as it will be deployed.

    Of the dense model that is the float32 file: what int8 costs the dense model is no reason to
    allow the pruned one less.
    """
    exported = export(context, prepared, model, f"{VALIDATION}/{label}", label)
    recipe, reading = context.recipe, reading_of(prepared, label)
    data = reading.data
    metric = judged_metric(
        recipe.training.metric_for_best_model,
        recipe.training.greater_is_better,
        recipe.evaluation.metrics,
    )
    file = deployed_file(context.path(exported.folder))
    logits = data.by_text(
        "validation", predict_logits(OnnxClassifier(file), data.validation, reading.collator)
    )
    labels = data.label_array("validation")
    value = score(metric.name, logits, labels, data.task, data.num_labels, data.label_names)
    return Validated(metric=value, exported=exported)


def reading_of(prepared: Prepared, label: str) -> Reading:
    """How the model with this label reads."""
    return prepared.dense if label == DENSE else prepared.small


def deployed_file(folder: Path) -> Path:
    """The file that would be deployed: int8 where there is one."""
    quantized = folder / QUANTIZED_FILE
    return quantized if quantized.is_file() else folder / MODEL_FILE


def export(
    context: Context, prepared: Prepared, model: SavedModel, place: str, label: str
) -> Exported:
    """Export, and quantize where the recipe wants it."""
    reading, settings = reading_of(prepared, label), context.recipe.export
    loaded = prepared.saved(context, model)
    export_onnx(loaded, reading.processor, context.path(place), opset=settings.opset)
    judged = place.startswith(VALIDATION)
    record = _quantize(context, prepared, place, label, judged=judged)
    digest = context.store.digest(model.folder)
    return Exported(folder=place, model=digest, quantization=record)


def _quantize(
    context: Context, prepared: Prepared, place: str, label: str, *, judged: bool
) -> dict[str, Any] | None:
    """Write the int8 file that the recipe names or that is searched; the record of the search.

    Where files are chosen among runtimes, int8 is one of the candidates there: here only what will
    be chosen as a rule is made, of models that are judged before they are taken.

    Args:
        judged: whether the file is only for that.
    """
    recipe, reading, folder = context.recipe, reading_of(prepared, label), context.path(place)
    quantization = recipe.export.quantization
    if quantization is None or (judged and label == DENSE):
        return None
    if isinstance(quantization, str):
        if recipe.deploy is None and label != DENSE:
            config = config_beside(folder / MODEL_FILE)
            return _search(
                context, reading, folder, label, lengths_to_time(context, prepared, config)
            )
        if recipe.deploy is not None and not judged:
            return None
        # Nothing is searched for the dense model, with which others are compared.
        quantization = PLAIN if recipe.deploy is None else usual_settings(folder, constant=True)
    samples = quantization.calibration_samples
    rows = calibration_rows(context, reading, samples) if quantization.needs_calibration else None
    quantize_onnx(folder, quantization, calibration=rows)
    return None


def calibration_rows(
    context: Context, reading: Reading, samples: int = PLAIN.calibration_samples
) -> Any:
    """What static quantization sees: training rows, or images as the model gets them.

    Images are drawn with the seed of the run.
    """
    train = reading.data.train
    if not reading.data.of_images:
        return train
    rng = np.random.default_rng(context.recipe.training.seed)
    chosen = sorted(rng.permutation(len(train))[:samples].tolist())
    pixels = [reading.collator([train[row]])["pixel_values"][0].numpy() for row in chosen]
    return Dataset.from_dict({"pixel_values": pixels})


def _search(
    context: Context, reading: Reading, folder: Path, label: str, lengths: Sequence[int]
) -> dict[str, Any]:
    """The fastest int8 model that keeps the metric; the record holds the candidates."""
    recipe, data = context.recipe, reading.data
    name = recipe.evaluation.metrics[0]
    batches = recipe.benchmark.batch_sizes
    truth = data.label_array("validation")

    def metric(logits: Any, rows: Sequence[int]) -> float:
        found, labels = data.judged("validation", logits, rows, truth)
        return score(name, found, labels, data.task, data.num_labels, data.label_names)

    with context.console.progress("quantization") as progress:
        found = quantize_auto(
            folder,
            calibration=calibration_rows(context, reading),
            validation=data.validation,
            collator=reading.collator,
            metric=metric,
            greater_is_better=name not in LOWER_IS_BETTER,
            # The first is the deployment; the last is the largest that is to be fast as well.
            shapes=[(batches[0], lengths[0]), (batches[-1], lengths[-1])],
            threads=recipe.benchmark.threads,
            max_drop=recipe.export.max_quantization_drop,
            seconds=recipe.export.quantization_seconds,
            queries=data.queries("validation"),
            vectors=data.task == "sentence_embedding",
            progress=lambda done, what: progress(round(1000 * done), 1000),
        )
    record: dict[str, Any] = {"metric": name, **found.to_dict()}
    context.console.quantization(label, QuantizationRecord.model_validate(record))
    if not found.within:
        context.console.note(
            f"no int8 model of {label} keeps {name} within "
            f"{recipe.export.max_quantization_drop:g}; took the one that loses least"
        )
    context.console.note(f"{label} int8: {describe_settings(record['chosen'])}")
    return record
