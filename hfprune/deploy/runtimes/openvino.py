"""OpenVINO on the CPU: the lean graph as ``openvino/openvino_model.xml``, in bf16 where it pays.

A file holds float32 weights; in which precision it is computed is for the runtime to say on the
machine at hand: bf16 where the CPU has instructions for it, else float32. Needs the ``openvino``
wheel alone; Optimum Intel loads the result, by ``subfolder="openvino"``.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError, MissingExtraError
from hfprune.core.kinds import output_of
from hfprune.deploy.files import MODEL_FILE, UNTOUCHED, Batch, brief, require
from hfprune.deploy.graph.rewriting import rewrite
from hfprune.deploy.parity import check_finite, check_same
from hfprune.deploy.runtimes.base import (
    Offer,
    Runtime,
    Session,
    feed_of,
    name_of,
    reader_class,
    reading,
    refused,
)
from hfprune.deploy.staging import quietly, save_graph, staged

logger = logging.getLogger(__name__)

OPENVINO_FOLDER = "openvino"
OPENVINO_FILE = "openvino_model.xml"
INSTALL_HINT = 'pip install "hfprune[openvino]"'

# Graphs to write, the first that can be had: attention is fused by patterns that not every
# exporter's graph matches.
GRAPHS = ("lean_attention", "lean", "exported")
HINTS = {"float32": "f32", "bf16": "bf16"}


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingExtraError(
            f"OpenVINO files need the openvino package ({error}): {INSTALL_HINT}"
        ) from error


def native_precision() -> str:
    """What OpenVINO computes in by itself on this machine: ``"bf16"`` or ``"float32"``.

    Raises:
        MissingExtraError: without openvino.
    """
    hint = _openvino().Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return "bf16" if hint == "bf16" else "float32"


class OpenVinoClassifier:
    """An OpenVINO classifier on the CPU; see :class:`~hfprune.deploy.runtimes.base.Session`.

    Args:
        path: the ``.xml`` file, with its ``.bin`` beside it.
        threads: of one request.
        precision: ``"float32"``, ``"bf16"``, or ``None`` for what the runtime takes by itself.

    Raises:
        MissingExtraError: without openvino.
        ExportError: if the file is missing or OpenVINO does not take it.
    """

    def __init__(self, path: str | Path, threads: int = 1, precision: str | None = None) -> None:
        openvino = _openvino()
        self.path, self.threads = Path(path), threads
        if precision not in (None, *HINTS):
            raise ExportError(
                f"OpenVINO computes in {' or '.join(HINTS)} here, not in {precision!r}"
            )
        if not self.path.is_file():
            raise ExportError(f"there is no OpenVINO file at {self.path}; write it first")
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if precision is not None:
            settings["INFERENCE_PRECISION_HINT"] = HINTS[precision]
        try:
            compiled = openvino.Core().compile_model(str(self.path), "CPU", settings)
        except Exception as error:  # OpenVINO raises RuntimeError for all there is
            raise ExportError(f"OpenVINO cannot load {self.path}: {brief(error)}") from error
        self._tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self.input_names = tuple(port.get_any_name() for port in compiled.inputs)
        names = [port.get_any_name() for port in compiled.outputs]
        self._output = names.index("logits") if "logits" in names else 0

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """See :meth:`hfprune.deploy.runtimes.base.Session.logits`."""
        feed = feed_of(self.input_names, batch, self.path)
        try:
            found = self(feed)
        except Exception as error:
            raise refused("OpenVINO", self.path, feed, error) from error
        # The request's own memory, which the next call writes to.
        return np.array(found, dtype=np.float32)

    def __call__(self, batch: Batch) -> object:
        # Inputs are shared with the request, not copied: `infer(dict)` costs 0.3 ms a call.
        held = [
            self._tensor(np.ascontiguousarray(batch[name]), shared_memory=True)
            for name in self.input_names
        ]
        for index, tensor in enumerate(held):
            self._request.set_input_tensor(index, tensor)
        self._request.infer()
        found: object = self._request.get_output_tensor(self._output).data
        return found


class OpenVino(Runtime):
    """OpenVINO on the CPU: ``openvino/openvino_model.xml``."""

    name: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO"
    forms: ClassVar[dict[str, str]] = {"float32": "OpenVINO", "bf16": "OpenVINO-bf16"}

    def missing(self) -> str | None:
        try:
            _openvino()
        except MissingExtraError as error:
            return str(error)
        return None

    def files(self, folder: str | Path) -> dict[str, Path]:
        place = Path(folder)
        places = (place / OPENVINO_FOLDER / OPENVINO_FILE, place / OPENVINO_FILE)
        for file in places:
            if file.is_file():
                return {"float32" if self.missing() else native_precision(): file}
        return {}

    def open(self, path: str | Path, threads: int = 1, precision: str | None = None) -> Session:
        return OpenVinoClassifier(path, threads, precision)

    def offers(self) -> Sequence[Offer]:
        native = native_precision()
        return (
            Offer(native, GRAPHS[0], prior=1 if native == "bf16" else 5),
            Offer(native, "exported", prior=22),
        )

    def place(self, offer: Offer) -> str:
        return f"{OPENVINO_FOLDER}/{OPENVINO_FILE}"

    def write(
        self,
        onnx_dir: str | Path,
        target: str | Path,
        offer: Offer,
        *,
        calibration: Any = None,
        ranges: dict[str, Any] | None = None,
    ) -> Path:
        if offer.precision not in self.forms:
            raise ExportError(
                f"OpenVINO files are computed in {' or '.join(self.forms)}, not {offer.precision}"
            )
        return write_openvino(onnx_dir, target, graph=offer.graph)

    def how_to_load(self, path: str, task: str) -> tuple[str, ...]:
        kind = reader_class(task)
        return (
            f"import openvino; from transformers import {kind}",
            f'model, reader = openvino.compile_model("{path}", "CPU"), {kind}.from_pretrained(".")',
            f"batch = {reading(task, types=True)}; "
            f"{name_of(task)} = model({{i.any_name: batch[i.any_name] for i in model.inputs}})"
            f'["{output_of(task)}"]',
        )


def write_openvino(
    onnx_dir: str | Path,
    target: str | Path,
    *,
    graph: str | None = None,
    half_storage: bool = False,
) -> Path:
    """Write ``openvino_model.xml`` and ``.bin`` of an exported model, checked against the ONNX.

    OpenVINO reads the rewritten float graph as it is, fused attention included. The result computes
    in float32 the same logits as ``model.onnx``; in the precision that this machine takes by itself
    it must give numbers.

    Args:
        onnx_dir: what ``export_onnx`` wrote.
        target: a folder, made if missing; its other files stay.
        graph: one of a recipe's; ``None``: the first of ``GRAPHS`` that can be had.
        half_storage: weights as float16, half the size. Refused where that changes logits by more
            than a rewritten graph may.

    Returns:
        The path of the ``.xml`` file.

    Raises:
        MissingExtraError: without openvino, onnx or onnxruntime.
        ExportError: if the graph cannot be written or says something else. Earlier files are then
            untouched.
    """
    openvino = _openvino()
    require("onnx", "onnxruntime")
    source = Path(onnx_dir) / MODEL_FILE
    if not source.is_file():
        raise ExportError(f"there is no {MODEL_FILE} in {onnx_dir}; call export_onnx first")
    with staged(Path(target)) as staging:
        work = Path(tempfile.mkdtemp(dir=staging))
        file = staging / OPENVINO_FILE
        for name in (graph,) if graph is not None else GRAPHS:
            try:
                lean = _graph_file(source, name, work)
                with quietly():
                    model = openvino.Core().read_model(str(lean))
                    openvino.save_model(model, str(file), compress_to_fp16=half_storage)
                break
            except Exception as error:  # ONNX Runtime's optimizer and OpenVINO raise what they met
                if graph is not None or name == GRAPHS[-1]:
                    raise ExportError(
                        f"OpenVINO cannot take the {name} graph of {source}: {brief(error)}. "
                        f"{UNTOUCHED}"
                    ) from error
                logger.info("OpenVINO: no %s graph of %s: %s", name, source, brief(error))
        del model  # it holds the ONNX file open
        shutil.rmtree(work)
        what = f"OpenVINO{', weights in float16' if half_storage else ''} (graph {name})"
        check_same(OpenVinoClassifier(file, precision="float32"), source, what)
        check_finite(OpenVinoClassifier(file), source, what)
    return Path(target) / OPENVINO_FILE


def _graph_file(source: Path, graph: str, work: Path) -> Path:
    if graph == "exported":
        return source
    place = work / f"{graph}.onnx"
    with quietly():
        save_graph(rewrite(source, graph), place)
    return place
