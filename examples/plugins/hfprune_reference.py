"""A runtime from outside: the ONNX file, run by the reference implementation of the onnx package.

Slow, and right by definition: what a faster runtime can be compared with. Its package says, in
pyproject.toml::

    [project.entry-points."hfprune.runtimes"]
    reference = "hfprune_reference:REFERENCE"
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.deploy.files import Batch
from hfprune.deploy.runtimes.base import Runtime, feed_of, reader_class, reading, refused


class ReferenceSession:
    """An ONNX file, opened; see :class:`hfprune.deploy.runtimes.base.Session`."""

    def __init__(self, path: str | Path) -> None:
        from onnx.reference import ReferenceEvaluator

        self.path, self.threads = Path(path), 1
        if not self.path.is_file():
            raise ExportError(f"there is no ONNX file at {self.path}; export the model first")
        try:
            self._model = ReferenceEvaluator(str(self.path))
        except Exception as error:  # whatever the package raises for a file that is none
            raise ExportError(f"onnx cannot load {self.path}: {error}") from error
        self.input_names = tuple(self._model.input_names)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        feed = feed_of(self.input_names, batch, self.path)
        try:
            (found,) = self._model.run(["logits"], feed)
        except Exception as error:
            raise refused("onnx", self.path, feed, error) from error
        return np.asarray(found, dtype=np.float32)

    def __call__(self, batch: Batch) -> object:
        return self._model.run(None, {name: batch[name] for name in self.input_names})


class Reference(Runtime):
    name: ClassVar[str] = "reference"
    title: ClassVar[str] = "ONNX reference"
    forms: ClassVar[dict[str, str]] = {"float32": "ONNX-reference"}

    def missing(self) -> str | None:
        there = importlib.util.find_spec("onnx") is not None
        return None if there else "the ONNX reference needs onnx: pip install onnx"

    def files(self, folder: str | Path) -> dict[str, Path]:
        file = Path(folder) / "onnx" / "model.onnx"
        return {"float32": file} if file.is_file() else {}

    def open(
        self, path: str | Path, threads: int = 1, precision: str | None = None
    ) -> ReferenceSession:
        if precision not in (None, "float32"):
            raise ExportError(f"the ONNX reference computes in float32, not in {precision}")
        return ReferenceSession(path)

    def how_to_load(self, path: str, task: str) -> tuple[str, ...]:
        kind = reader_class(task)
        return (
            f"from onnx.reference import ReferenceEvaluator; from transformers import {kind}",
            f'model, reader = ReferenceEvaluator("{path}"), {kind}.from_pretrained(".")',
            f'logits = model.run(["logits"], dict({reading(task)}))[0]',
        )


REFERENCE: Any = Reference()
