"""ONNX files on the CPU, by ONNX Runtime: NumPy in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError, MissingExtraError
from hfprune.core.machine import open_session
from hfprune.deploy.files import Batch, onnx_files, require
from hfprune.deploy.runtimes.base import Runtime, feed_of, reader_class, reading, refused


class OnnxClassifier:
    """An ONNX classifier on the CPU: NumPy in, logits out.

    Args:
        path: the ``.onnx`` file.
        threads: ONNX Runtime's threads inside one operator.

    Attributes:
        input_names: inputs that the graph has, in its order.

    Raises:
        MissingExtraError: without onnxruntime.
        ExportError: if the file is missing or is not a graph that ONNX Runtime takes.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        ort = require("onnxruntime")
        self.path, self.threads = Path(path), threads
        if not self.path.is_file():
            raise ExportError(f"there is no ONNX file at {self.path}; export the model first")
        try:
            self._session = open_session(ort, self.path, threads)
        except Exception as error:  # ONNX Runtime has no common base of its own
            raise ExportError(f"ONNX Runtime cannot load {self.path}: {error}") from error
        self.input_names = tuple(node.name for node in self._session.get_inputs())
        outputs = [node.name for node in self._session.get_outputs()]
        self._output = "logits" if "logits" in outputs else outputs[0]

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """See :meth:`hfprune.deploy.runtimes.base.Session.logits`."""
        feed = feed_of(self.input_names, batch, self.path)
        try:
            (found,) = self._session.run([self._output], feed)
        except Exception as error:
            raise refused("ONNX Runtime", self.path, feed, error) from error
        return np.asarray(found, dtype=np.float32)

    def __call__(self, batch: Batch) -> object:
        found: object = self._session.run(None, {name: batch[name] for name in self.input_names})
        return found


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU: ``onnx/model.onnx`` and ``onnx/model_quantized.onnx``."""

    name: ClassVar[str] = "onnxruntime"
    title: ClassVar[str] = "ONNX Runtime"
    forms: ClassVar[dict[str, str]] = {"float32": "ONNX", "int8": "int8"}

    def missing(self) -> str | None:
        try:
            require("onnxruntime")
        except MissingExtraError as error:
            return str(error)
        return None

    def files(self, folder: str | Path) -> dict[str, Path]:
        return onnx_files(folder)

    def open(
        self, path: str | Path, threads: int = 1, precision: str | None = None
    ) -> OnnxClassifier:
        if precision not in (None, *self.forms):
            raise ExportError(
                f"ONNX Runtime computes an ONNX file in the precision that it was written in "
                f"({' or '.join(self.forms)}), not in {precision}"
            )
        return OnnxClassifier(path, threads)

    def how_to_load(self, path: str, task: str) -> tuple[str, ...]:
        kind = reader_class(task)
        return (
            f"import onnxruntime; from transformers import {kind}",
            f'model, reader = onnxruntime.InferenceSession("{path}"), {kind}.from_pretrained(".")',
            f'logits = model.run(["logits"], dict({reading(task)}))[0]',
        )
