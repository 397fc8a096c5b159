"""Candidates for deployment: written, opened, run as they will be served, and judged."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.arrays import all_finite
from hfprune.core.errors import ExportError, HFPruneError
from hfprune.core.memory import release_memory
from hfprune.data.task_data import whole_queries
from hfprune.deploy.choose.differences import depends_on_batch
from hfprune.deploy.choose.judge import (
    Counted,
    Evidence,
    Metric,
    Verdict,
    calibrated_temperature,
    gather,
    judge,
)
from hfprune.deploy.files import MODEL_FILE
from hfprune.deploy.quantize.quantizing import cut_values
from hfprune.deploy.quantize.ranges import RULES
from hfprune.deploy.runtimes.base import Offer, Runtime, Session
from hfprune.deploy.runtimes.onnx_session import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.deploy.staging import staged
from hfprune.measure.sizes import file_size
from hfprune.recipe.sections.export import QuantizationConfig

logger = logging.getLogger(__name__)

# Rows that are also run one by one: how many of them change shows on these.
MOST_ALONE = 300


@dataclass(frozen=True)
class Judging:
    """The rows to judge on.

    Attributes:
        rows: tokenised, or images, that the model has not learned from.
        labels: one entry a row, or whatever ``metric`` takes beside logits.
        metric: of logits and labels.
        collator: pads rows to a batch.
        greater_is_better: whether more of the metric is better.
        several: whether a row may have several labels.
        ranked: whether labels are ``[rows, 2]``, the second the number of the row's query; texts
            of a query are then kept together.
        vectors: whether the outputs are embeddings.
        max_drop: what the metric may lose against float32.
        counted: makes of logits and labels the metric as a function of row numbers, where that
            takes less than ``metric`` of many choices of rows.
    """

    rows: Any
    labels: NDArray[Any]
    metric: Metric
    collator: Any
    greater_is_better: bool = True
    several: bool = False
    ranked: bool = False
    vectors: bool = False
    max_drop: float = 0.002
    counted: Counted | None = None


@dataclass
class Candidate:
    """A runtime's offer and what has been found of it.

    Attributes:
        runtime, offer: which; ``name`` is unique among the candidates.
        file, session: once it is written and opened.
        evidence, verdict: once it is judged.
        depends: rows whose prediction is another alone than in a batch.
        saturated: the greatest fraction of an activation's values that a constant scale cuts.
        file_bytes: of the file.
        failure: why it could not be written, run or judged; ``None`` where it could.
        slower: by use, from the race.
        asked: whether these very settings are the recipe's: the file is written in any case.
    """

    runtime: Runtime
    offer: Offer
    name: str
    file: Path | None = None
    session: Session | None = None
    evidence: tuple[Evidence, ...] = ()
    verdict: Verdict | None = None
    depends: int | None = None
    saturated: float | None = None
    file_bytes: int | None = None
    failure: str | None = None
    slower: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    asked: bool = False

    @property
    def eligible(self) -> bool:
        """Whether it may be deployed."""
        return self.verdict is not None and self.verdict.eligible


def list_candidates(runtimes: Sequence[Runtime], quantization: Any = "auto") -> list[Candidate]:
    """What to try, that which usually wins first.

    Args:
        runtimes: whose offers.
        quantization: of a recipe: ``"auto"``; ``None``: nothing in int8; settings: int8 with these
            and no others.
    """
    found = []
    for each in runtimes:
        for offer in each.offers():
            if offer.settings is None or quantization == "auto":
                found.append(Candidate(each, offer, _name(each, offer)))
            elif quantization is not None and offer.prior == 0:
                given = replace(offer, settings=quantization, graph=quantization.graph)
                found.append(Candidate(each, given, _name(each, given), asked=True))
    return sorted(found, key=lambda candidate: candidate.offer.prior)


def _name(each: Runtime, offer: Offer) -> str:
    scales = f" {offer.settings.activations}" if offer.settings is not None else ""
    return f"{each.name} {offer.precision}{scales} {offer.graph}"


def _some(judging: Judging, most: int | None) -> Judging:
    """At most so many of the rows, drawn at random."""
    count = len(judging.rows)
    if most is None or count <= most:
        return judging
    chosen = sorted(np.random.default_rng(1).choice(count, most, replace=False).tolist())
    if judging.ranked:
        chosen = whole_queries(judging.labels[:, 1], most)
    return replace(judging, rows=judging.rows.select(chosen), labels=judging.labels[chosen])


class Trials:
    """Tries candidates against one exported model.

    Args:
        onnx_dir: what ``export_onnx`` wrote.
        work: an empty folder for candidates.
        judging: the rows.
        calibration: training rows.
        batch_size, threads: of the deployment.
        most_rows: that candidates are judged on, a quarter of them also one by one; what these do
            not decide may be deployed.

    Attributes:
        ms: of float32, milliseconds of processor time a text in batches.

    Raises:
        HFPruneError: if ``model.onnx`` itself does not run on the rows.
    """

    def __init__(
        self,
        onnx_dir: Path,
        work: Path,
        judging: Judging,
        calibration: Any,
        batch_size: int,
        threads: int,
        most_rows: int | None = None,
    ) -> None:
        self._onnx_dir, self._work = onnx_dir, work
        self._judging = judging = _some(judging, most_rows)
        self._calibration = calibration
        self._batch_size, self._threads = batch_size, threads
        self._in_doubt = most_rows is not None  # few rows are for what others are compared with
        self.ranges: dict[str, Any] = {}
        self._rule: str | None = None
        rng = np.random.default_rng(0)
        self._order = rng.permutation(len(judging.rows)).tolist()
        few = MOST_ALONE if most_rows is None else most_rows // 4
        self._alone = sorted(self._order[:few])
        if judging.ranked:
            self._alone = whole_queries(judging.labels[:, 1], len(self._alone))
        session = OnnxClassifier(onnx_dir / MODEL_FILE, threads)
        start = time.process_time()
        self._float = self._together(session)
        self.ms = 1e3 * (time.process_time() - start) / len(judging.rows)
        self._temperature = 1.0
        labels = np.asarray(judging.labels)
        one_label = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if one_label and self._float.ndim == 2 and self._float.shape[1] > 1 and not judging.several:
            self._temperature = calibrated_temperature(self._float, labels)

    def try_all(
        self,
        candidates: Sequence[Candidate],
        late: Callable[[], bool],
        tell: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Try them in turn; when it is late those that are not usual are passed over.

        So is then another graph in int8, where there is one that may be deployed.
        """
        for number, candidate in enumerate(candidates):
            int8 = candidate.offer.settings is not None
            have = int8 and any(c.eligible and c.offer.settings is not None for c in candidates)
            if late() and (have or not candidate.offer.usual):
                continue
            tell(candidate.name)
            try:
                self._try(candidate, self._work / str(number), late)
            except HFPruneError as error:
                # Published with the results: without places of this machine.
                said = str(error).replace(f"{self._work}/", "").replace(f"{self._onnx_dir}/", "")
                candidate.failure = said[:300]
                logger.info("%s: %s", candidate.name, error)
            release_memory()  # what writing it has left

    def write(self, candidate: Candidate, folder: Path) -> Path:
        """Write a candidate's file into a folder, to be tried."""
        return candidate.runtime.write(
            self._onnx_dir,
            folder,
            candidate.offer,
            calibration=self._calibration,
            ranges=self.ranges,
        )

    def place(self, candidate: Candidate, folder: Path) -> None:
        """Put the very file that was tried, with its weights, into a folder.

        Raises:
            ExportError: if it was not tried.
        """
        if candidate.file is None:
            raise ExportError(f"{candidate.name} was not tried, so there is no file of it")
        if candidate.runtime.keeps:  # the saved model, which is where it belongs
            return
        file = candidate.file
        beside = (file.with_suffix(".bin"), Path(f"{file}_data"), Path(f"{file}.data"))
        with staged(folder) as staging:
            for part in (file, *beside):
                if part.is_file():
                    shutil.copy2(part, staging / part.name)

    def _try(self, candidate: Candidate, folder: Path, late: Callable[[], bool]) -> None:
        rules = [candidate]
        settings = candidate.offer.settings
        constant = settings is not None and settings.activations == "constant"
        if settings is not None and constant and not candidate.asked:
            # The rule is about the activations, which all graphs have alike. Its first usually
            # comes nearest to float32, and will do where it is late.
            order = RULES if self._rule is None else (self._rule,)
            rules = [self._with_rule(candidate, settings, rule) for rule in order]
        tried: list[Candidate] = []
        for number, one in enumerate(rules):
            if tried and late() and any(other.eligible for other in tried):
                break
            one.file = self.write(one, folder / str(number))
            one.session = one.runtime.open(one.file, self._threads, one.offer.precision)
            self._judge(one)
            tried.append(one)
        rules = tried
        best = min(rules, key=lambda one: (not one.eligible, one.verdict.divergence))  # type: ignore[union-attr]
        for key in ("offer", "file", "session", "evidence", "verdict", "depends"):
            setattr(candidate, key, getattr(best, key))
        if constant and best.offer.settings is not None and candidate.eligible:
            self._rule = best.offer.settings.activation_range
        if candidate.file is not None:
            candidate.file_bytes = file_size(candidate.file)
            if settings is not None:
                candidate.saturated = max(cut_values(candidate.file).values(), default=None)
        if not candidate.eligible:
            candidate.session = None  # it will not race: its memory is for others

    @staticmethod
    def _with_rule(candidate: Candidate, settings: QuantizationConfig, rule: str) -> Candidate:
        given = settings.model_copy(update={"activation_range": rule})
        return replace(candidate, offer=replace(candidate.offer, settings=given))

    def _judge(self, candidate: Candidate) -> None:
        session, judging = candidate.session, self._judging
        if session is None:
            raise ExportError(f"{candidate.name} was not opened")
        together = self._together(session)
        rows = judging.rows.select(self._alone)
        alone = predict_logits(session, rows, judging.collator, batch_size=1)
        if not (all_finite(together) and all_finite(alone)):
            raise ExportError("logits that are not finite on the validation rows")
        same = (
            together[self._alone][:, : alone.shape[1]] if alone.ndim == 3 else together[self._alone]
        )
        candidate.depends = depends_on_batch(
            alone, same, several=judging.several, vectors=judging.vectors
        )
        before = (
            self._float[self._alone][:, : alone.shape[1]]
            if alone.ndim == 3
            else (self._float[self._alone])
        )
        labels = np.asarray(judging.labels)
        found = [self._evidence(self._float, together, labels, f"batches of {self._batch_size}")]
        if candidate.depends:  # else it says the same, and on fewer rows
            found.append(self._evidence(before, alone, labels[self._alone], "one by one"))
        candidate.evidence = tuple(found)
        candidate.verdict = judge(found, judging.max_drop, in_doubt=self._in_doubt)

    def _evidence(
        self, before: NDArray[Any], after: NDArray[Any], labels: NDArray[Any], served: str
    ) -> Evidence:
        return gather(
            before,
            after,
            labels,
            self._judging.metric,
            several=self._judging.several,
            vectors=self._judging.vectors,
            greater_is_better=self._judging.greater_is_better,
            temperature=self._temperature,
            served=served,
            units=labels[:, 1] if self._judging.ranked else None,
            counted=self._judging.counted,
        )

    def _together(self, session: Session) -> NDArray[np.float32]:
        """Logits of all rows as they come in: batches in random order."""
        return predict_logits(
            session,
            self._judging.rows,
            self._judging.collator,
            batch_size=self._batch_size,
            order=self._order,
        )
