"""Times and sizes of all models, measured together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hfprune.core.machine import usable_cpus
from hfprune.core.model_ref import BASELINE, PRUNED, REFERENCE, ModelRef
from hfprune.core.records import Target
from hfprune.core.results import Benchmark, RunResults
from hfprune.deploy.speed.landing import misses
from hfprune.measure.latency import latency_facts, measure_latency, ratios
from hfprune.measure.quiet import quiet
from hfprune.measure.runners import batches_for, onnx_runner, torch_runner
from hfprune.measure.sizes import count_macs, count_parameters, file_size
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import WEIGHTS, Prepared
from hfprune.pipeline.results import AllExported, SavedModel, Timed
from hfprune.pipeline.stages.evaluate import RuntimeFile, candidates
from hfprune.pipeline.stages.latency import lengths_to_time
from hfprune.recipe.sections.evaluation import BenchmarkConfig
from hfprune.recipe.sections.pruning import PruningConfig

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
    ratio = ratios(rows, str(BASELINE), own=True)
    machine = quiet(rows, str(BASELINE))
    if (note := machine.note()) is not None:
        context.console.note(note)
    of_images = prepared.data.of_images
    benchmark = {
        "threads": settings.threads,
        "repeats": settings.repeats,
        "baseline": str(BASELINE),
        "length_unit": "pixels" if of_images else "tokens",
        "busy": round(machine.busy, 4),
        "spread": round(machine.spread, 4),
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


def targets(
    pruning: PruningConfig, results: RunResults, settings: BenchmarkConfig
) -> dict[str, Target] | None:
    """By label, the speed-up that was asked for beside the one of the file that is recommended.

    Both are at the first shape, over the dense float32 ONNX model. ``None`` where none was asked.
    """
    wanted: dict[str, float] = {}
    if results.search is not None:  # what the search for max_metric_drop ended with
        wanted[PRUNED] = float(results.search.chosen.rstrip("x"))
    elif isinstance(pruning.speedup, list):
        wanted = {f"{speed:g}x": float(speed) for speed in pruning.speedup}
    elif pruning.speedup is not None:
        wanted[PRUNED] = float(pruning.speedup)
    found = {}
    for label, speed in wanted.items():
        name = str(results.served(label))
        row = next(
            row
            for row in results.benchmark.rows
            if row.name == name and row.batch_size == settings.batch_sizes[0]
        )
        found[label] = Target(
            wanted=speed,
            reached=row.speedup,
            name=name,
            batch_size=row.batch_size,
            sequence_length=row.sequence_length,
            missed=misses(speed, row.speedup),
        )
    return found or None


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
