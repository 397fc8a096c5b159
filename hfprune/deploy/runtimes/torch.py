"""PyTorch itself: the saved model as it is, or compiled and in bf16."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.core.kinds import EMBEDDING, IMAGE_INPUTS, takes_images
from hfprune.core.machine import bfloat16_pays
from hfprune.deploy.files import MODEL_INPUTS, Batch
from hfprune.deploy.runtimes.base import (
    Offer,
    Runtime,
    Session,
    feed_of,
    reader_class,
    reading,
    refused,
)
from hfprune.measure.runners import TorchRunner
from hfprune.models.saved import load_saved_classifier

WEIGHTS = "model.safetensors"


class TorchClassifier:
    """A saved classifier in PyTorch; see :class:`~hfprune.deploy.runtimes.base.Session`.

    Args:
        path: the folder, or its ``model.safetensors``.
        threads: of one call; set for it and set back after it.
        precision: ``"float32"``, in eager mode; ``"bf16"``: weights and activations, and the model
            compiled for changing shapes, which takes a minute at the first call.

    Raises:
        CheckpointError: if there is no classifier.
        ExportError: for another precision.
    """

    def __init__(self, path: str | Path, threads: int = 1, precision: str | None = None) -> None:
        self.path, self.threads = Path(path), threads
        folder = self.path.parent if self.path.name == WEIGHTS else self.path
        if precision not in (None, "float32", "bf16"):
            raise ExportError(f"PyTorch computes in float32 or bf16 here, not in {precision!r}")
        model: Any = load_saved_classifier(str(folder)).eval().float()
        accepted = inspect.signature(model.forward).parameters
        # A ViT of transformers 5 takes a mask too, which no image has.
        names = IMAGE_INPUTS if takes_images(model) else MODEL_INPUTS
        self.input_names = tuple(name for name in names if name in accepted)
        if precision == "bf16":
            model = torch.compile(model.to(torch.bfloat16), dynamic=True)
        self._half = precision == "bf16"
        self._run = TorchRunner(model, threads, names=self.input_names)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """See :meth:`hfprune.deploy.runtimes.base.Session.logits`."""
        needed = [n for n in self.input_names if n in batch or n != "token_type_ids"]
        feed = feed_of(needed, batch, self.path)
        try:
            found: Any = self(feed)
        except RuntimeError as error:
            raise refused("PyTorch", self.path, feed, error) from error
        logits: NDArray[np.float32] = found.logits.float().numpy()
        return logits

    def __call__(self, batch: Batch) -> object:
        if self._half and "pixel_values" in batch:
            pixels = torch.from_numpy(np.asarray(batch["pixel_values"])).to(torch.bfloat16)
            return self._run({**batch, "pixel_values": pixels})
        return self._run(batch)


class Torch(Runtime):
    """PyTorch: ``model.safetensors``, eager in float32 or compiled in bf16."""

    name: ClassVar[str] = "torch"
    title: ClassVar[str] = "PyTorch"
    forms: ClassVar[dict[str, str]] = {"float32": "PyTorch", "bf16": "PyTorch-bf16"}
    keeps: ClassVar[bool] = True

    def missing(self) -> str | None:
        return None

    def files(self, folder: str | Path) -> dict[str, Path]:
        file = Path(folder) / WEIGHTS
        return {"float32": file, "bf16": file} if file.is_file() else {}

    def open(self, path: str | Path, threads: int = 1, precision: str | None = None) -> Session:
        return TorchClassifier(path, threads, precision)

    def offers(self) -> Sequence[Offer]:
        # bf16 is offered where it was measured to pay: compiling takes minutes.
        half = (Offer("bf16", "exported", prior=31),) if bfloat16_pays() else ()
        return (Offer("float32", "exported", prior=30), *half)

    def place(self, offer: Offer) -> str:
        return WEIGHTS

    def write(
        self,
        onnx_dir: str | Path,
        target: str | Path,
        offer: Offer,
        *,
        calibration: Any = None,
        ranges: dict[str, Any] | None = None,
    ) -> Path:
        """The saved model itself, which lies beside the folder of the ONNX files."""
        file = Path(onnx_dir).parent / WEIGHTS
        if not file.is_file():
            raise ExportError(f"there is no {WEIGHTS} in {file.parent}; save the model first")
        return file

    def how_to_load(self, path: str, task: str) -> tuple[str, ...]:
        reader = reader_class(task)
        if task == EMBEDDING.export_task:
            return ("import hfprune", 'encoder = hfprune.load_encoder(".")',
                    'embeddings = encoder.encode(["a text"])')  # fmt: skip
        return (
            f"import hfprune; from transformers import {reader}",
            f'model, reader = hfprune.from_pretrained("."), {reader}.from_pretrained(".")',
            f"logits = model(**{reading(task, 'pt')}).logits",
        )
