"""How fast a model that was pruned while it trained really is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.speed.landing import deployed, speedup_at
from hfprune.families import model_sizes
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Baseline, Reached, SavedModel
from hfprune.pipeline.stages.latency import probe_settings
from hfprune.pruning.cost import LatencyTable


def run(
    context: Context, prepared: Prepared, pruned: SavedModel, dense: Baseline, table: LatencyTable
) -> Reached:
    """Export the model as it would be deployed, and time it beside the dense float32 file."""
    model = prepared.saved(context, pruned)
    folder, export = context.path(dense.folder), context.recipe.export
    with tempfile.TemporaryDirectory() as name:
        file = deployed(
            model,
            prepared.small.processor,
            probe_settings(export.quantization, folder),
            Path(name),
            opset=export.opset,
        )
        measured = speedup_at(folder / MODEL_FILE, file, model, table)
    return Reached(predicted=table.speedup(model_sizes(model)), measured=measured)
