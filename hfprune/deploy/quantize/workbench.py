"""One candidate of the search for int8 settings: written, run, judged, timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.arrays import all_finite
from hfprune.core.errors import ExportError, HFPruneError
from hfprune.core.machine import usable_cpus
from hfprune.data.task_data import whole_queries
from hfprune.deploy.choose.differences import depends_on_batch
from hfprune.deploy.choose.judge import gather, judge
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.graph.tools import weighted_products
from hfprune.deploy.quantize.outcome import Outcome
from hfprune.deploy.quantize.quantizing import cut_values, prepare_graph, quantize_onnx
from hfprune.deploy.quantize.weighing import agreement
from hfprune.deploy.runtimes.onnx_session import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.deploy.staging import copy_of_export
from hfprune.measure.latency import measure_latency, ratios
from hfprune.measure.runners import batches_for, config_beside, onnx_runner
from hfprune.measure.sizes import file_size
from hfprune.recipe.sections.export import QuantizationConfig

SENSITIVITY_ROWS = 96
MOST_ALONE = 200
MIN_ROUNDS, MAX_ROUNDS = 5, 25


@dataclass(frozen=True)
class Task:
    """What the search is for; see :func:`~hfprune.deploy.quantize.search.quantize_auto`."""

    calibration: Any
    validation: Any
    rows: list[int]
    collator: Any
    metric: Callable[[NDArray[np.float32], Sequence[int]], float]
    greater_is_better: bool
    shapes: list[tuple[int, int]]
    threads: int
    max_drop: float
    queries: NDArray[Any] | None = None
    vectors: bool = False


class Workbench:
    """Writes, runs and times candidates in a folder of its own.

    Args:
        directory: what ``export_onnx`` wrote.
        folder: empty.
        task: rows, metric and shapes.
        timing_seconds: for one candidate, all shapes.
    """

    def __init__(self, directory: Path, folder: Path, task: Task, timing_seconds: float) -> None:
        self.task, self.timing_seconds = task, timing_seconds
        self.work = copy_of_export(directory, folder / "work")
        self.files: dict[str, Path] = {}
        self.first: str | None = None
        self.ranges: dict[str, Any] = {}
        self.make_batch = batches_for(config_beside(directory / MODEL_FILE))
        # With one thread the work is done in the calling thread: its own time does not see what
        # else the machine does. Some systems count it in steps too coarse for that.
        fine = time.get_clock_info("thread_time").resolution < 1e-6
        self.clock = time.thread_time_ns if task.threads == 1 and fine else time.perf_counter_ns
        self.float_logits = self.logits(self.work / MODEL_FILE)
        self.float_metric = task.metric(self.float_logits, task.rows)

    def build(self, config: QuantizationConfig, name: str) -> Path:
        """The file of some settings."""
        calibration = self.task.calibration if config.needs_calibration else None
        return quantize_onnx(
            self.work, config, calibration=calibration, file_name=name, ranges=self.ranges
        )

    def tried(self, config: QuantizationConfig, number: int) -> Outcome:
        """All that can be found of a candidate; the first one is what others are compared with.

        Raises:
            HFPruneError: if it cannot be built, does not run, or gives something else than numbers.
        """
        file = self.build(config, f"candidate_{number}.onnx")
        logits = self.logits(file)
        if not all_finite(logits):
            raise ExportError("logits that are not finite on the validation rows")
        self.files[_key(config)] = file
        self.first = self.first or _key(config)
        outcome = Outcome(config)
        ((ms, speedup),) = self.timed([outcome])
        value = self.task.metric(logits, self.task.rows)
        sign = 1.0 if self.task.greater_is_better else -1.0
        return replace(
            self._judged(outcome, file, logits),
            ms=ms,
            speedup=speedup,
            metric=value,
            drop=sign * (self.float_metric - value),
            agreement=agreement(logits, self.float_logits),
            file_bytes=file_size(file),
            saturated=max(cut_values(file).values(), default=None)
            if config.activations == "constant"
            else None,
        )

    def timed(self, outcomes: Sequence[Outcome]) -> list[tuple[dict[str, float], float]]:
        """Milliseconds of each shape and the speed-up over the first, for each of the outcomes."""
        keys = [_key(outcome.config) for outcome in outcomes]
        first = self.first or keys[0]
        names = {key: str(number) for number, key in enumerate(dict.fromkeys([first, *keys]))}
        runners = {
            name: onnx_runner(self.files[key], self.task.threads) for key, name in names.items()
        }
        found: list[tuple[dict[str, float], list[float]]] = [({}, []) for _ in keys]
        box = self.timing_seconds * len(outcomes) / len(self.task.shapes)
        for shape in self.task.shapes:
            measure: Any = {"make_batch": self.make_batch, "clock": self.clock}
            trial = measure_latency(runners, [shape], repeats=1, warmup=1, **measure)
            round_s = sum(row.median_ms * row.inner_loops for row in trial) / 1e3
            rounds = int(min(MAX_ROUNDS, max(MIN_ROUNDS, box / max(round_s, 1e-6))))
            rows = measure_latency(runners, [shape], repeats=rounds, warmup=0, **measure)
            ratio = ratios(rows, names[first])
            by_name = {row.name: row for row in rows}
            for key, (ms, speeds) in zip(keys, found, strict=True):
                ms[f"{shape[0]}x{shape[1]}"] = by_name[names[key]].median_ms
                speeds.append(ratio[(names[key], shape)].value)
        return [(ms, float(np.exp(np.mean(np.log(speeds))))) for ms, speeds in found]

    def logits(self, file: Path, count: int | None = None) -> NDArray[np.float32]:
        """On the validation rows, or the first of them."""
        rows = self.task.validation
        rows = rows if count is None else rows.select(range(count))
        return predict_logits(OnnxClassifier(file, usable_cpus()), rows, self.task.collator)

    def alone(self, file: Path, count: int) -> NDArray[np.float32]:
        """On the first of the validation rows, each a batch of its own."""
        rows = self.task.validation.select(range(count))
        model = OnnxClassifier(file, usable_cpus())
        return predict_logits(model, rows, self.task.collator, batch_size=1)

    def sensitivity(
        self, config: QuantizationConfig, late: Callable[[], bool], tell: Callable[[str], None]
    ) -> list[str]:
        """Nodes, the worst first: those without whose rounding the logits come nearest to float."""
        with tempfile.TemporaryDirectory(dir=self.work.parent) as name:
            import onnx

            source = prepare_graph(self.work / MODEL_FILE, config, name)
            nodes = weighted_products(onnx.load(str(source), load_external_data=False))
        count = min(SENSITIVITY_ROWS, len(self.task.validation))
        error: dict[str, float] = {}
        for node in nodes:
            if late():
                break
            tell(f"how much {node} loses")
            trial = QuantizationConfig(**{**config.model_dump(), "nodes_to_exclude": [node]})
            try:
                logits = self.logits(self.build(trial, "sensitivity.onnx"), count)
            except HFPruneError:
                continue  # the only product of the graph: nothing would be left to quantize
            before = self.float_logits[:count]
            if before.ndim == 3:  # of tokens, as far as the longest of these rows goes
                before = before[:, : logits.shape[1]]
            error[node] = float(np.square(logits - before).mean())
        return sorted(error, key=lambda node: error[node])

    def _judged(self, outcome: Outcome, file: Path, logits: NDArray[np.float32]) -> Outcome:
        count = min(MOST_ALONE, len(self.task.validation))
        if self.task.queries is not None:
            count = len(whole_queries(self.task.queries, count))
        alone = self.alone(file, count)

        def first(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return values[:count, : alone.shape[1]] if alone.ndim == 3 else values[:count]

        depends = depends_on_batch(alone, first(logits), vectors=self.task.vectors)
        positions = np.array(self.task.rows)
        evidence = [self._evidence(self.float_logits, logits, positions, "batches")]
        if depends and count > 1:
            before = first(self.float_logits)
            evidence.append(self._evidence(before, alone, positions[:count], "one by one"))
        verdict = judge(evidence, self.task.max_drop)
        return replace(
            outcome,
            within=verdict.eligible,
            state=verdict.state,
            why=verdict.why,
            divergence=verdict.divergence,
            depends_on_batch=depends,
        )

    def _evidence(
        self, before: NDArray[Any], after: NDArray[Any], positions: NDArray[Any], served: str
    ) -> Any:
        return gather(
            before,
            after,
            positions,
            lambda logits, rows: self.task.metric(logits, rows.tolist()),
            greater_is_better=self.task.greater_is_better,
            served=served,
            vectors=self.task.vectors,
            units=None if self.task.queries is None else self.task.queries[: len(positions)],
        )


def _key(config: QuantizationConfig) -> str:
    """Settings as what a dictionary can be keyed by."""
    return config.model_dump_json()
