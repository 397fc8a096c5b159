"""What blocks cost here, as they will be deployed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfprune.core.kinds import image_shape
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.quantize.search import usual_settings
from hfprune.deploy.speed.landing import calibrated
from hfprune.deploy.speed.table import NARROW, latency_table
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Baseline, Latency, SavedModel
from hfprune.recipe.sections.export import QuantizationConfig
from hfprune.recipe.sections.pruning import PruningConfig


def baseline(context: Context, prepared: Prepared, teacher: SavedModel) -> Baseline:
    """Export the dense float32 model that speeds are relative to before the end."""
    model = prepared.saved(context, teacher)
    opset = context.recipe.export.opset
    export_onnx(model, prepared.dense.processor, context.path("onnx-dense"), opset=opset)
    return Baseline(folder="onnx-dense")


def run(
    context: Context,
    prepared: Prepared,
    teacher: SavedModel,
    dense: Baseline,
    target: PruningConfig,
) -> Latency:
    """Measure a table of times, and refuse a speed-up that no model can have."""
    recipe, processor = context.recipe, prepared.dense.processor
    speedup = single_speed(target)
    quantization = probe_settings(recipe.export.quantization, context.path(dense.folder))
    with context.console.progress("latency table") as progress:
        model = prepared.saved(context, teacher)
        table = latency_table(
            model,
            processor,
            quantization,
            batch_size=recipe.benchmark.batch_sizes[0],
            sequence_length=lengths_to_time(context, prepared, model.config)[0],
            threads=recipe.benchmark.threads,
            opset=recipe.export.opset,
            baseline=context.path(dense.folder) / MODEL_FILE,
            progress=lambda step, done, total: progress(done, total),
        )
    table.budget_ms(speedup)  # refuses the impossible
    if table.error > NARROW:
        context.console.note(
            f"the machine is busy: times of blocks are known within {table.error:.0%} of the most"
        )
    if target.method == "gates":  # reconstruction measures its own plans
        opset = recipe.export.opset
        table = calibrated(table, model, processor, quantization, speedup, opset)
    return Latency(table=table.to_dict())


def single_speed(target: PruningConfig) -> float:
    """The speed-up of a target that has one."""
    return float(target.speedup) if isinstance(target.speedup, float | int) else 0.0


def lengths_to_time(context: Context, prepared: Prepared, config: Any) -> Sequence[int]:
    """The lengths to time, in tokens; of images their one size, in pixels.

    Of reranking, where the recipe names none, how long a pair is: half of the validation's are
    shorter.
    """
    if prepared.data.of_images:
        return [max(image_shape(config)[1:])]
    if not context.recipe.benchmark.sequence_lengths:
        lengths = [len(ids) for ids in prepared.data.validation["input_ids"]]
        return [int(np.median(lengths))]
    return context.recipe.benchmark.sequence_lengths


def probe_settings(
    quantization: QuantizationConfig | str | None, dense: Path
) -> QuantizationConfig | None:
    """Quantization for probes: as the recipe's, without what needs data or names of nodes.

    Where the recipe leaves it to a search, what the search usually ends with.
    """
    if quantization is None:
        return None
    if isinstance(quantization, str):
        return usual_settings(dense, constant=True)
    return quantization.model_copy(update={"is_static": False, "nodes_to_exclude": []})
