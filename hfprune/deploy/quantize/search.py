"""``quantization: auto``: tries settings on this machine and keeps the fastest that is still right.

The search goes through groups of settings (what usually wins, the graph, precision, constant scales
and their ranges, embeddings, static, operators, excluded nodes), each time from the best that was
found so far, until its time is over. Every candidate is a ``QuantizationConfig``, so what was found
can be written into a recipe. It is timed interleaved with plain dynamic quantization, and judged
against float32 on the validation rows (:mod:`hfprune.deploy.choose.judge`).
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import HFPruneError
from hfprune.core.machine import detect_instruction_set
from hfprune.data.task_data import whole_queries
from hfprune.deploy.files import QUANTIZED_FILE
from hfprune.deploy.quantize.checks import probe_rows
from hfprune.deploy.quantize.outcome import (
    CONSTANT,
    PLAIN,
    USUAL,
    Outcome,
    SearchRecord,
    describe_settings,
)
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.quantize.ranges import RULES
from hfprune.deploy.quantize.weighing import best_of, finalists, nearest, with_refusals
from hfprune.deploy.quantize.workbench import Task, Workbench
from hfprune.deploy.staging import copy_of_export
from hfprune.recipe.sections.export import QuantizationConfig

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

FINALISTS = 4
MOST_ROWS = 2000
EXCLUDE = (1, 2, 4)

# Of the time for the whole search, what timing one candidate may take.
TIMING_SHARE = 0.04

# How a candidate with constant scales becomes one with those of a batch.
PER_BATCH = {"activations": "per_batch", "activation_range": "least_squares"}


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
    queries: NDArray[Any] | None = None,
    vectors: bool = False,
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
        max_drop: how much of the metric may be lost against the float32 graph. A candidate is
            refused when it is shown to lose more (:func:`hfprune.deploy.choose.judge.judge`).
        seconds: after that time no further candidate is begun.
        queries: of reranking the number of each validation row's query; rows of one stay together.
        vectors: whether the outputs are embeddings.
        progress: called with the fraction of the time that is over, and what is tried.

    Returns:
        The record. A candidate that cannot be built or gives wrong outputs is in it, with the
        reason. Where the judge lets none be deployed, the one that loses least was taken.

    Raises:
        ExportError: if even plain dynamic quantization fails. Earlier files are then untouched.
    """
    rows = _row_numbers(len(validation))
    if queries is not None:
        rows = whole_queries(queries, MOST_ROWS)
    task = Task(
        calibration=calibration,
        validation=validation if len(rows) == len(validation) else validation.select(rows),
        rows=rows,
        queries=None if queries is None else np.asarray(queries)[rows],
        collator=collator,
        metric=metric,
        greater_is_better=greater_is_better,
        shapes=list(dict.fromkeys(shapes)),
        threads=threads,
        max_drop=max_drop,
        vectors=vectors,
    )
    with tempfile.TemporaryDirectory(prefix="hfprune-quantize-") as name:
        bench = Workbench(Path(onnx_dir), Path(name), task, seconds * TIMING_SHARE)
        search = _Search(Path(onnx_dir), bench, seconds, progress or (lambda fraction, what: None))
        return search.run()


def usual_settings(onnx_dir: str | Path, *, constant: bool = False) -> QuantizationConfig:
    """The fastest usual settings that this graph can be had in; else plainer ones.

    For models that are only timed, all of one table alike, and where there are no rows to judge on.

    Args:
        onnx_dir: what ``export_onnx`` wrote.
        constant: with constant scales, which is what a search usually ends with; they take
            calibration rows.
    """
    usual = [USUAL, USUAL.model_copy(update={"graph": "lean"})]
    if constant:
        graphs = (CONSTANT.graph, "lean_multihead", "lean")
        usual = [*(CONSTANT.model_copy(update={"graph": graph}) for graph in graphs), *usual]
    with tempfile.TemporaryDirectory(prefix="hfprune-quantize-") as name:
        copy = copy_of_export(Path(onnx_dir), Path(name) / "probe")
        # Attention is fused by patterns, which not every exporter's graphs match.
        for config in usual:
            rows = probe_rows(copy) if config.needs_calibration else None
            try:
                quantize_onnx(copy, config, calibration=rows)
            except HFPruneError as error:
                logger.info("%s; plainer quantization instead", error)
            else:
                return config
    return PLAIN


class _Search:
    """The course of the search: what is tried from where, and what is taken in the end."""

    def __init__(
        self,
        directory: Path,
        bench: Workbench,
        seconds: float,
        progress: Callable[[float, str], None],
    ) -> None:
        self.directory, self.bench = directory, bench
        self.seconds, self.progress = seconds, progress
        self.start = time.monotonic()
        self.outcomes: list[Outcome] = []
        self.not_tried = 0

    def run(self) -> SearchRecord:
        plain = self._try(PLAIN, required=True)
        usual = self._attempt(CONSTANT, {"graph": "lean_multihead"})
        best = self._graphs(plain)
        best = self._group(
            best,
            [
                {"matmul_const_b_only": True},
                {"per_channel": True},
                {"matmul_const_b_only": True, "per_channel": True},
            ],
        )
        best = self._ranges(best, usual)
        best = self._group(
            best, [{"embeddings": form} for form in ("int8", "int4", "float16", "float32")]
        )
        if not best.within:
            best = self._spare_nodes(best)
        static = {"is_static": True, **PER_BATCH}
        best = self._group(
            best,
            [
                static,
                {**static, "operators_to_quantize": ["MatMul"]},
                {**static, "static_format": "qoperator", "operators_to_quantize": ["MatMul"]},
                {"operators_to_quantize": ["MatMul"]},
            ],
        )
        if detect_instruction_set() in {"avx2", "avx512"}:
            # 8-bit weights can overflow there; whether they do, the metric tells.
            best = self._group(best, [{"reduce_range": False}])
        chosen = self._final()
        quantize_onnx(
            self.directory,
            chosen.config,
            calibration=self.bench.task.calibration if chosen.config.needs_calibration else None,
            ranges=self.bench.ranges,
        )
        return SearchRecord(
            path=self.directory / QUANTIZED_FILE,
            chosen=chosen.config,
            within=chosen.within,
            float_metric=self.bench.float_metric,
            outcomes=tuple(with_refusals(self.outcomes, chosen)),
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

    def _ranges(self, best: Outcome, usual: Outcome | None) -> Outcome:
        """Constant scales, with the rule for ranges that comes nearest to float32."""
        found = [] if usual is None else [usual]
        rules: list[Outcome] = []
        change = {"activations": "constant", "per_channel": True, "matmul_const_b_only": True}
        for rule in RULES:
            if outcome := self._attempt(best.config, {**change, "activation_range": rule}):
                rules.append(outcome)
        if rules:
            found.append(nearest(rules))
        return best_of([best, *found])

    def _group(self, best: Outcome, changes: Iterable[dict[str, Any]]) -> Outcome:
        found = [best]
        for change in changes:
            if outcome := self._attempt(best.config, change):
                found.append(outcome)
        return best_of(found)

    def _spare_nodes(self, best: Outcome) -> Outcome:
        """Leave the nodes in float whose rounding changes the logits most."""
        found = [best]
        order = self.bench.sensitivity(best.config, self._late, self._tell)
        for count in EXCLUDE:
            if count < len(order) and (
                outcome := self._attempt(best.config, {"nodes_to_exclude": order[:count]})
            ):
                found.append(outcome)
        return best_of(found)

    def _final(self) -> Outcome:
        """The best, after the fastest ones have been timed once more, against each other."""
        able = [outcome for outcome in self.outcomes if outcome.refused is None]
        best = best_of(able)
        rivals = finalists(able, best, FINALISTS)
        if len(rivals) > 1 and not self._late():
            self._tell("the fastest once more")
            for outcome, (ms, speedup) in zip(rivals, self.bench.timed(rivals), strict=True):
                number = self.outcomes.index(outcome)
                self.outcomes[number] = replace(outcome, ms=ms, speedup=speedup)
            configs = [outcome.config for outcome in rivals]
            best = best_of([o for o in self.outcomes if o.config in configs])
        return best

    def _attempt(self, config: QuantizationConfig, change: dict[str, Any]) -> Outcome | None:
        """Try a change of settings; ``None`` where it is none, failed, or came too late."""
        trial = QuantizationConfig(**{**config.model_dump(), **change})
        known = next((outcome for outcome in self.outcomes if outcome.config == trial), None)
        if known is not None:
            return None
        if self._late():
            self.not_tried += 1
            return None
        outcome = self._try(trial)
        return outcome if outcome.refused is None else None

    def _try(self, config: QuantizationConfig, *, required: bool = False) -> Outcome:
        self._tell(describe_settings(config.model_dump(exclude_defaults=True)))
        try:
            outcome = self.bench.tried(config, len(self.outcomes))
        except HFPruneError as error:
            if required:
                raise
            outcome = Outcome(config, refused=f"failed: {error}"[:300])
        self.outcomes.append(outcome)
        return outcome

    def _late(self) -> bool:
        return time.monotonic() - self.start > self.seconds

    def _tell(self, what: str) -> None:
        self.progress(min(1.0, (time.monotonic() - self.start) / self.seconds), what)


def _row_numbers(count: int) -> list[int]:
    if count <= MOST_ROWS:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, MOST_ROWS, replace=False).tolist())
