"""An ONNX classifier on the CPU: NumPy in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.core.kinds import IMAGE_INPUTS
from hfprune.core.machine import open_session
from hfprune.deploy.files import Batch, require


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
        self.path = Path(path)
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
        """The logits of one padded batch.

        Args:
            batch: integer arrays of shape ``[batch, length]``, or ``pixel_values`` of shape
                ``[batch, channels, height, width]``. Keys that the graph lacks are left out;
                ``token_type_ids`` may be missing and is then zero, as in PyTorch.

        Returns:
            float32, shape ``[batch, labels]``; of tokens ``[batch, length, labels]``.

        Raises:
            ExportError: if another input of the graph is missing, or the graph refuses the batch.
        """
        feed: dict[str, NDArray[Any]] = {}
        for name in self.input_names:
            if name in batch:
                feed[name] = np.asarray(batch[name]).astype(dtype_of(name), copy=False)
            elif name == "token_type_ids" and "input_ids" in batch:
                feed[name] = np.zeros(np.shape(batch["input_ids"]), dtype=np.int64)
            else:
                raise ExportError(
                    f"{self.path.name} needs the input {name!r}, the batch has {sorted(batch)}"
                )
        try:
            (found,) = self._session.run([self._output], feed)
        except Exception as error:
            shapes = {name: tuple(value.shape) for name, value in feed.items()}
            raise ExportError(
                f"ONNX Runtime fails on {self.path.name} with inputs of shapes {shapes}: {error}"
            ) from error
        return np.asarray(found, dtype=np.float32)


def dtype_of(name: str) -> type[np.generic]:
    """The type of one of a model's inputs."""
    return np.float32 if name in IMAGE_INPUTS else np.int64
