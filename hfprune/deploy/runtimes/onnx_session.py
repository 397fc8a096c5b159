"""One ONNX file on the CPU: NumPy in, logits out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.core.machine import open_session
from hfprune.deploy.files import Batch, require
from hfprune.deploy.runtimes.base import feed_of, refused


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
