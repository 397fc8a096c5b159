"""``quantization: auto``: tries settings on this machine and keeps the fastest that is still right.

The search goes through groups of settings (the graph, precision, embeddings, static, operators,
excluded nodes), each time from the best that was found so far, until its time is over. Every
candidate is a :class:`~hfprune.recipe.QuantizationConfig`, so what was found can be written into a
recipe. It is timed interleaved with plain dynamic quantization, and judged by the task's metric on
the validation rows.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError, HFPruneError
from hfprune.core.machine import detect_instruction_set, usable_cpus
from hfprune.deploy.files import MODEL_FILE, QUANTIZED_FILE
from hfprune.deploy.graph.tools import weighted_products
from hfprune.deploy.quantize.outcome import PLAIN, USUAL, Outcome, SearchRecord, describe_settings
from hfprune.deploy.quantize.quantizing import prepare_graph, quantize_onnx
from hfprune.deploy.runtimes.onnx_session import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.measure.latency import measure_latency, ratios
from hfprune.measure.runners import batches_for, config_beside, onnx_runner
from hfprune.measure.sizes import file_size
from hfprune.recipe.sections.export import QuantizationConfig

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


# What a smaller file is worth in speed: half the size, 2 ** 0.25 (19 %). Embeddings are most of the
# file of a pruned model, and next to nothing of its time.
SIZE_WORTH = 0.25
FINALISTS = 4
MOST_ROWS = 2000
SENSITIVITY_ROWS = 96
EXCLUDE = (1, 2, 4)
MIN_ROUNDS, MAX_ROUNDS = 5, 25

# Of the time for the whole search, what timing one candidate may take.
TIMING_SHARE = 0.04


def quantize_auto(
    onnx_dir: str | Path,
    *,
    calibration: datasets.Dataset,
    validation: datasets.Dataset,
    collator: Any,
    metric: Callable[[NDArray[np.float32], Sequence[int]], float],
    greater_is_better: bool = True,
    shapes: Sequence[tuple[int, int]],
    threads: int = 1,
    max_drop: float = 0.002,
    seconds: float = 120.0,
    progress: Callable[[float, str], None] | None = None,
) -> SearchRecord:
    """Write the best 8-bit version of ``model.onnx`` that keeps the metric: fast, in a small file.

    Speed counts, and the size of the file a quarter of it: of two candidates the better one has the
    greater ``speedup / bytes ** 0.25``.

    Args:
        onnx_dir: what ``export_onnx`` wrote; gets ``model_quantized.onnx``.
        calibration: tokenised training rows, or ``pixel_values`` of training images; for static
            candidates.
        validation: tokenised rows, or images, that the model has not learned from; at most
            ``MOST_ROWS`` are used.
        collator: pads rows to a batch.
        metric: of logits as ``predict_logits`` gives them, and the positions of these rows in
            ``validation``.
        greater_is_better: whether more of the metric is better.
        shapes: pairs of batch size and length for which the model shall be fast; the geometric mean
            of the speed-ups counts.
        threads: of the deployment.
        max_drop: how much of the metric may be lost against the float32 graph.
        seconds: after that time no further candidate is begun.
        progress: called with the fraction of the time that is over, and what is tried.

    Returns:
        The record. A candidate that cannot be built or gives wrong outputs is in it, with the
        reason. Where no candidate is within ``max_drop``, the one that loses least was taken.

    Raises:
        ExportError: if even plain dynamic quantization fails. Earlier files are then untouched.
    """
    with tempfile.TemporaryDirectory(prefix="hfprune-quantize-") as name:
        search = _Search(
            directory=Path(onnx_dir),
            folder=Path(name),
            calibration=calibration,
            validation=_some_rows(validation),
            rows=_row_numbers(len(validation)),
            collator=collator,
            metric=metric,
            greater_is_better=greater_is_better,
            shapes=list(dict.fromkeys(shapes)),
            threads=threads,
            max_drop=max_drop,
            seconds=seconds,
            progress=progress or (lambda fraction, what: None),
        )
        return search.run()


def usual_settings(onnx_dir: str | Path) -> QuantizationConfig:
    """The settings that the search usually chooses, if this graph can be had so; else plainer ones.

    For models that are only timed: all of one table must be quantized alike.
    """
    with tempfile.TemporaryDirectory(prefix="hfprune-quantize-") as name:
        copy = _copy_of(Path(onnx_dir), Path(name) / "probe")
        # Attention is fused by patterns, which not every exporter's graphs match.
        for config in (USUAL, USUAL.model_copy(update={"graph": "lean"})):
            try:
                quantize_onnx(copy, config)
            except HFPruneError as error:
                logger.info("%s; plainer quantization instead", error)
            else:
                return config
    return PLAIN


class _Search:
    def __init__(
        self,
        *,
        directory: Path,
        folder: Path,
        calibration: Any,
        validation: Any,
        rows: list[int],
        collator: Any,
        metric: Callable[[NDArray[np.float32], Sequence[int]], float],
        greater_is_better: bool,
        shapes: list[tuple[int, int]],
        threads: int,
        max_drop: float,
        seconds: float,
        progress: Callable[[float, str], None],
    ) -> None:
        self.directory = directory
        self.work = _copy_of(directory, folder / "work")
        self.calibration = calibration
        self.validation, self.rows, self.collator = validation, rows, collator
        self.metric = metric
        self.sign = 1.0 if greater_is_better else -1.0
        self.shapes, self.threads = shapes, threads
        self.max_drop, self.seconds = max_drop, seconds
        self.progress = progress
        self.start = time.monotonic()
        self.outcomes: list[Outcome] = []
        self.files: dict[int, Path] = {}
        self.not_tried = 0
        self.make_batch = batches_for(config_beside(directory / MODEL_FILE))
        # With one thread the work is done in the calling thread: its own time does not see what
        # else the machine does. Some systems count it in steps too coarse for that.
        fine = time.get_clock_info("thread_time").resolution < 1e-6
        self.clock = time.thread_time_ns if threads == 1 and fine else time.perf_counter_ns

    # -- course -----------------------------------------------------------------------------------

    def run(self) -> SearchRecord:
        self.float_logits = self._logits(self.work / MODEL_FILE)
        self.float_metric = self.metric(self.float_logits, self.rows)
        plain = self._try(PLAIN, required=True)
        best = self._graphs(plain)
        best = self._group(
            best,
            [
                {"matmul_const_b_only": True},
                {"per_channel": True},
                {"matmul_const_b_only": True, "per_channel": True},
            ],
        )
        best = self._group(
            best, [{"embeddings": form} for form in ("int8", "int4", "float16", "float32")]
        )
        if not self._is_within(best):
            best = self._spare_nodes(best)
        best = self._group(
            best,
            [
                {"is_static": True},
                {"is_static": True, "operators_to_quantize": ["MatMul"]},
                {
                    "is_static": True,
                    "static_format": "qoperator",
                    "operators_to_quantize": ["MatMul"],
                },
                {"operators_to_quantize": ["MatMul"]},
            ],
        )
        if detect_instruction_set() in {"avx2", "avx512"}:
            # 8-bit weights can overflow there; whether they do, the metric tells.
            best = self._group(best, [{"reduce_range": False}])
        chosen = self._final()
        quantize_onnx(self.directory, chosen.config, calibration=self.calibration)
        return SearchRecord(
            path=self.directory / QUANTIZED_FILE,
            chosen=chosen.config,
            within=self._is_within(chosen),
            float_metric=self.float_metric,
            outcomes=tuple(self._refusals(chosen)),
            not_tried=self.not_tried,
            seconds=time.monotonic() - self.start,
        )

    def _graphs(self, plain: Outcome) -> Outcome:
        """The fastest graph, whatever its metric: the float graph is the same, rounding aside."""
        found = [plain]
        for graph in ("lean_multihead", "lean", "lean_attention", "fused"):
            if outcome := self._attempt(plain.config, {"graph": graph}):
                found.append(outcome)
        return max(found, key=lambda outcome: outcome.speedup)

    def _group(self, best: Outcome, changes: Iterable[dict[str, Any]]) -> Outcome:
        found = [best]
        for change in changes:
            if outcome := self._attempt(best.config, change):
                found.append(outcome)
        return self._best(found)

    def _spare_nodes(self, best: Outcome) -> Outcome:
        """Leave the nodes in float whose rounding changes the logits most."""
        found = [best]
        order = self._sensitivity(best.config)
        for count in EXCLUDE:
            if count < len(order) and (
                outcome := self._attempt(best.config, {"nodes_to_exclude": order[:count]})
            ):
                found.append(outcome)
        return self._best(found)

    def _sensitivity(self, config: QuantizationConfig) -> list[str]:
        """Nodes, the worst first: those without whose rounding the logits come nearest to float."""
        with tempfile.TemporaryDirectory(dir=self.work.parent) as name:
            import onnx

            source = prepare_graph(self.work / MODEL_FILE, config, name)
            nodes = weighted_products(onnx.load(str(source), load_external_data=False))
        count = min(SENSITIVITY_ROWS, len(self.validation))
        error: dict[str, float] = {}
        for node in nodes:
            if self._late():
                break
            self._tell(f"how much {node} loses")
            trial = QuantizationConfig(**{**config.model_dump(), "nodes_to_exclude": [node]})
            try:
                file = quantize_onnx(self.work, trial, calibration=self.calibration)
                logits = self._logits(file, count)
            except HFPruneError:
                continue  # the only product of the graph: nothing would be left to quantize
            before = self.float_logits[:count]
            if before.ndim == 3:  # of tokens, as far as the longest of these rows goes
                before = before[:, : logits.shape[1]]
            error[node] = float(np.square(logits - before).mean())
        return sorted(error, key=lambda node: error[node])

    def _final(self) -> Outcome:
        """The best, after the fastest ones have been timed once more, against each other."""
        able = [outcome for outcome in self.outcomes if outcome.refused is None]
        best = self._best(able)
        rivals = [o for o in able if self._is_within(o) == self._is_within(best)]
        if not self._is_within(best):
            rivals = [o for o in rivals if o.drop <= best.drop]
        rivals.sort(key=lambda o: (o.config != best.config, -_worth(o)))
        rivals = rivals[:FINALISTS]
        if len(rivals) > 1 and not self._late():
            self._tell("the fastest once more")
            for outcome, (ms, speedup) in zip(rivals, self._timed(rivals), strict=True):
                self._replace(outcome, ms=ms, speedup=speedup)
            configs = [outcome.config for outcome in rivals]
            best = self._best([o for o in self.outcomes if o.config in configs])
        return best

    def _refusals(self, chosen: Outcome) -> Iterable[Outcome]:
        for outcome in self.outcomes:
            if outcome.refused is not None or outcome.config == chosen.config:
                yield outcome
                continue
            if not self._is_within(outcome) and outcome.drop > min(chosen.drop, self.max_drop):
                why = f"the metric drops by {outcome.drop:.4f}, allowed is {self.max_drop:g}"
            elif outcome.speedup < chosen.speedup:
                why = (
                    f"slower than the chosen one ({outcome.speedup:.2f}x to {chosen.speedup:.2f}x)"
                )
            elif outcome.file_bytes > chosen.file_bytes:
                why = (
                    f"{outcome.speedup / chosen.speedup:.2f}x as fast as the chosen one, and "
                    f"{outcome.file_bytes / chosen.file_bytes:.2f} times its file"
                )
            else:
                why = "not faster than the chosen one when both were timed together"
            yield replace(outcome, refused=why)

    # -- one candidate ----------------------------------------------------------------------------

    def _attempt(self, config: QuantizationConfig, change: dict[str, Any]) -> Outcome | None:
        """Try a change of settings; ``None`` where it is none, failed, or came too late."""
        trial = QuantizationConfig(**{**config.model_dump(), **change})
        if any(trial == outcome.config for outcome in self.outcomes):
            return None
        if self._late():
            self.not_tried += 1
            return None
        outcome = self._try(trial)
        return outcome if outcome.refused is None else None

    def _try(self, config: QuantizationConfig, *, required: bool = False) -> Outcome:
        self._tell(describe_settings(config.model_dump(exclude_defaults=True)))
        number = len(self.outcomes)
        outcome = Outcome(config)
        try:
            file = quantize_onnx(
                self.work,
                config,
                calibration=self.calibration if config.is_static else None,
                file_name=f"candidate_{number}.onnx",
            )
            logits = self._logits(file)
            if not np.isfinite(logits).all():
                raise ExportError("logits that are not finite on the validation rows")
            self.files[number] = file
            self.outcomes.append(outcome)  # so that it can be timed, beside the plain one
            ((ms, speedup),) = self._timed([outcome])
            value = self.metric(logits, self.rows)
            self._replace(
                outcome,
                ms=ms,
                speedup=speedup,
                metric=value,
                drop=self.sign * (self.float_metric - value),
                agreement=_agreement(logits, self.float_logits),
                file_bytes=file_size(file),
            )
        except HFPruneError as error:
            if required:
                raise
            del self.outcomes[number:]
            self.outcomes.append(replace(outcome, refused=f"failed: {error}"[:300]))
        return self.outcomes[number]

    def _timed(self, outcomes: Sequence[Outcome]) -> list[tuple[dict[str, float], float]]:
        """Milliseconds of each shape and the speed-up over plain, for each of the outcomes."""
        numbers = [self._number(outcome) for outcome in outcomes]
        runners = {
            str(number): onnx_runner(self.files[number], self.threads)
            for number in dict.fromkeys([0, *numbers])
        }
        found: list[tuple[dict[str, float], list[float]]] = [({}, []) for _ in numbers]
        box = self.seconds * TIMING_SHARE * len(outcomes) / len(self.shapes)
        for shape in self.shapes:
            measure: Any = {"make_batch": self.make_batch, "clock": self.clock}
            trial = measure_latency(runners, [shape], repeats=1, warmup=1, **measure)
            round_s = sum(row.median_ms * row.inner_loops for row in trial) / 1e3
            rounds = int(min(MAX_ROUNDS, max(MIN_ROUNDS, box / max(round_s, 1e-6))))
            rows = measure_latency(runners, [shape], repeats=rounds, warmup=0, **measure)
            ratio = ratios(rows, "0")
            by_name = {row.name: row for row in rows}
            for number, (ms, speeds) in zip(numbers, found, strict=True):
                ms[f"{shape[0]}x{shape[1]}"] = by_name[str(number)].median_ms
                speeds.append(ratio[(str(number), shape)].value)
        return [(ms, float(np.exp(np.mean(np.log(speeds))))) for ms, speeds in found]

    def _logits(self, file: Path, count: int | None = None) -> NDArray[np.float32]:
        """On the validation rows, or the first of them."""
        rows = self.validation if count is None else self.validation.select(range(count))
        return predict_logits(OnnxClassifier(file, usable_cpus()), rows, self.collator)

    # -- judging ----------------------------------------------------------------------------------

    def _is_within(self, outcome: Outcome) -> bool:
        return outcome.drop <= self.max_drop + 1e-9

    def _best(self, outcomes: Sequence[Outcome]) -> Outcome:
        """The best speed for its file within the allowed drop; else the most accurate."""
        within = [outcome for outcome in outcomes if self._is_within(outcome)]
        if not within:
            least = min(outcome.drop for outcome in outcomes)
            within = [outcome for outcome in outcomes if outcome.drop <= least + 1e-9]
        return max(within, key=_worth)

    def _number(self, outcome: Outcome) -> int:
        return next(i for i, other in enumerate(self.outcomes) if other.config == outcome.config)

    def _replace(self, outcome: Outcome, **values: Any) -> None:
        number = self._number(outcome)
        self.outcomes[number] = replace(self.outcomes[number], **values)

    def _late(self) -> bool:
        return time.monotonic() - self.start > self.seconds

    def _tell(self, what: str) -> None:
        self.progress(min(1.0, (time.monotonic() - self.start) / self.seconds), what)


def _worth(outcome: Outcome) -> float:
    """Speed weighed against the size of the file: the more the better."""
    return math.log(outcome.speedup) - SIZE_WORTH * math.log(outcome.file_bytes)


def _agreement(logits: NDArray[Any], reference: NDArray[Any]) -> float:
    if logits.shape[-1] == 1:
        return float(np.corrcoef(logits[:, 0], reference[:, 0])[0, 1])
    if logits.ndim == 3:  # where a row has no more tokens, logits are zero
        real = reference.any(axis=-1)
        logits, reference = logits[real], reference[real]
    return float((logits.argmax(axis=-1) == reference.argmax(axis=-1)).mean())


def _row_numbers(count: int) -> list[int]:
    if count <= MOST_ROWS:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, MOST_ROWS, replace=False).tolist())


def _some_rows(validation: Any) -> Any:
    rows = _row_numbers(len(validation))
    return validation if len(rows) == len(validation) else validation.select(rows)


def _copy_of(onnx_dir: Path, target: Path) -> Path:
    """A folder with the float graph, its weights and its config, linked where that is possible."""
    target.mkdir(parents=True)
    for name in (MODEL_FILE, f"{MODEL_FILE}_data", f"{MODEL_FILE}.data", "config.json"):
        if (onnx_dir / name).is_file():
            try:
                os.link(onnx_dir / name, target / name)
            except OSError:  # another file system
                shutil.copy2(onnx_dir / name, target / name)
    return target
