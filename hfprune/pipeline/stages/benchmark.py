"""Times and sizes of all models, measured together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hfprune.core.machine import usable_cpus
from hfprune.core.model_ref import BASELINE, REFERENCE, ModelRef
from hfprune.core.results import Benchmark
from hfprune.measure.latency import latency_facts, measure_latency, ratios
from hfprune.measure.runners import batches_for, onnx_runner, torch_runner
from hfprune.measure.sizes import count_macs, count_parameters, file_size
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import WEIGHTS, Prepared
from hfprune.pipeline.results import AllExported, SavedModel, Timed
from hfprune.pipeline.stages.evaluate import RuntimeFile, candidates
from hfprune.pipeline.stages.latency import lengths_to_time

# Shapes of benchmark.full_table, as far as the model's positions go.
TABLE_BATCHES, TABLE_LENGTHS = (1, 8, 32), (16, 32, 64, 128, 256)


def run(
    context: Context, prepared: Prepared, models: Mapping[str, SavedModel], exported: AllExported
) -> Timed:
    """Time all models interleaved; count parameters, work and bytes."""
    settings = context.recipe.benchmark
    found = candidates(context, prepared, models, exported)
    runners: dict[str, Any] = {
        str(ref): _runner(candidate, settings.threads) for ref, candidate in found.items()
    }
    torch_models = {label: found[ModelRef(label, "PyTorch")] for label in models}
    configs = [model.config for model in torch_models.values()]
    lengths, make_batch = lengths_to_time(context, prepared, configs[0]), batches_for(*configs)
    shapes = [(b, length) for b in settings.batch_sizes for length in lengths]
    with context.console.progress("benchmark") as progress:
        rows = measure_latency(
            runners,
            shapes,
            repeats=settings.repeats,
            warmup=settings.warmup,
            make_batch=make_batch,
            progress=progress,
        )
    ratio = ratios(rows, str(BASELINE))
    of_images = prepared.data.of_images
    benchmark = {
        "threads": settings.threads,
        "repeats": settings.repeats,
        "baseline": str(BASELINE),
        "length_unit": "pixels" if of_images else "tokens",
        "rows": [
            {
                "name": row.name,
                "batch_size": row.batch_size,
                "sequence_length": row.sequence_length,
                "median_ms": row.median_ms,
                "p95_ms": row.p95_ms,
                "throughput": row.throughput,
                "speedup": ratio[(row.name, row.shape)].value,
                "speedup_interval": [
                    ratio[(row.name, row.shape)].low,
                    ratio[(row.name, row.shape)].high,
                ],
            }
            for row in rows
        ],
        "full_table": _full_table(context, prepared, found, make_batch)
        if settings.full_table
        else None,
        "file_bytes": {
            str(ref): candidate.file_bytes
            if isinstance(candidate, RuntimeFile)
            else file_size(
                candidate
                if isinstance(candidate, Path)
                else context.path(models[ref.label].folder) / WEIGHTS
            )
            for ref, candidate in found.items()
        },
        "parameters": {label: count_parameters(model) for label, model in torch_models.items()},
        "macs": {
            label: {
                str(length): count_macs(model, None if of_images else length) for length in lengths
            }
            for label, model in torch_models.items()
        },
    }
    return Timed(benchmark=Benchmark.model_validate(benchmark))


def _runner(candidate: Any, threads: int) -> Any:
    if isinstance(candidate, RuntimeFile):
        return candidate.open(threads)
    if isinstance(candidate, Path):
        return onnx_runner(candidate, threads)
    return torch_runner(candidate, threads)


def _full_table(
    context: Context,
    prepared: Prepared,
    found: Mapping[ModelRef, Any],
    make_batch: Callable[..., Any],
) -> list[dict[str, Any]]:
    """Facts for other deployments: many shapes, one thread and all, the ONNX models."""
    config = found[REFERENCE].config
    files = {str(ref): file for ref, file in found.items() if isinstance(file, Path)}
    longest = getattr(config, "max_position_embeddings", None) or max(TABLE_LENGTHS)
    lengths = [length for length in TABLE_LENGTHS if length <= longest]
    if prepared.data.of_images:
        lengths = list(lengths_to_time(context, prepared, config))
    rows: list[dict[str, Any]] = []
    for threads in dict.fromkeys([1, usable_cpus()]):
        with context.console.progress(f"table, {threads} thread(s)") as progress:
            rows += latency_facts(
                files,
                [(b, n) for b in TABLE_BATCHES for n in lengths],
                threads=threads,
                baseline=str(BASELINE),
                make_batch=make_batch,
                progress=progress,
            )
    return rows
