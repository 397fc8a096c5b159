"""What every runtime offers: files to find, to write and to open, and one way to run them.

A :class:`Runtime` knows the files of one kind; opened they are a :class:`Session`, which takes
NumPy and gives logits. Evaluation, timing and the choice of what to deploy know these two and no
runtime by name. A new one is a file with a subclass, registered by ``register_runtime`` or by an
entry point of the group ``hfprune.runtimes``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import ExportError
from hfprune.core.kinds import EMBEDDING, IMAGE_INPUTS
from hfprune.deploy.calling import Example
from hfprune.deploy.files import Batch
from hfprune.recipe.sections.export import QuantizationConfig


@runtime_checkable
class Session(Protocol):
    """A deployed file, ready to run.

    Attributes:
        path: of the file.
        threads: that one request may use.
        input_names: inputs that the file has, in its order.
    """

    path: Path
    threads: int
    input_names: tuple[str, ...]

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """The logits of one padded batch.

        Args:
            batch: integer arrays of shape ``[batch, length]``, or ``pixel_values`` of shape
                ``[batch, channels, height, width]``. Keys that the model lacks are left out;
                ``token_type_ids`` may be missing and is then zero, as in PyTorch.

        Returns:
            float32, shape ``[batch, labels]``; of tokens ``[batch, length, labels]``.

        Raises:
            ExportError: if another input of the model is missing, or it refuses the batch.
        """
        ...

    def __call__(self, batch: Batch) -> object:
        """The same for timing: nothing is converted, the keys must be those of the file."""
        ...


@dataclass(frozen=True)
class Offer:
    """A file that a runtime can write of an exported model.

    Attributes:
        precision: in which it computes.
        graph: of the recipe's; ``"exported"`` as it is.
        settings: of int8; ``None`` for others.
        prior: the lower the earlier it is tried, over all runtimes. 0 to 9: what usually wins, and
            is tried however little time there is.
    """

    precision: str
    graph: str
    settings: QuantizationConfig | None = None
    prior: int = 50

    @property
    def usual(self) -> bool:
        """Whether it is tried in any case."""
        return self.prior < 10


class Runtime(ABC):
    """What executes deployed files of one kind."""

    name: ClassVar[str]
    """As recipes and results spell it."""

    title: ClassVar[str]
    """For people."""

    forms: ClassVar[dict[str, str]]
    """By precision the word of :data:`hfprune.core.model_ref.FORMS` for such a model."""

    keeps: ClassVar[bool] = False
    """Whether its file is the saved model itself, and so is never removed."""

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot be used here, and what to install; ``None`` where it can."""

    @abstractmethod
    def files(self, folder: str | Path) -> dict[str, Path]:
        """By precision, the files of this kind that a run's output holds.

        The precision is that in which this machine would compute.
        """

    @abstractmethod
    def open(self, path: str | Path, threads: int = 1, precision: str | None = None) -> Session:
        """Open a file.

        Args:
            path: as :meth:`files` gives it.
            threads: of one request.
            precision: to compute in, where a file leaves that open; ``None``: the runtime's choice.

        Raises:
            MissingExtraError: without the runtime's packages.
            ExportError: if the file is missing, cannot be read, or not be run in that precision.
        """

    def offers(self) -> Sequence[Offer]:
        """What is worth trying on this machine; nothing for a runtime that writes no files."""
        return ()

    def place(self, offer: Offer) -> str:
        """Where such a file lies in a run's output: a relative path.

        Raises:
            ExportError: if it writes none.
        """
        raise ExportError(f"{self.title} writes no {offer.precision} files")

    def write(
        self,
        onnx_dir: str | Path,
        target: str | Path,
        offer: Offer,
        *,
        calibration: Any = None,
        ranges: dict[str, Any] | None = None,
    ) -> Path:
        """Write a file of an exported model, checked against it.

        Args:
            onnx_dir: what ``export_onnx`` wrote.
            target: a folder; the file gets its name of :meth:`place` in it.
            offer: which.
            calibration: rows, for settings that need them.
            ranges: as for :func:`~hfprune.deploy.quantize.quantizing.quantize_onnx`.

        Returns:
            Its path.

        Raises:
            ExportError: if that fails; earlier files are then untouched.
        """
        raise ExportError(f"{self.title} writes no {offer.precision} files")

    @abstractmethod
    def how_to_load(self, path: str, task: str) -> tuple[str, ...]:
        """Three lines of Python that load a file, read an input and give its logits.

        They are run in the run's output, and need hfprune only where a file cannot be read without.

        Args:
            path: of the file, relative to the run's output.
            task: the name of a pipeline, such as ``"text-classification"``.
        """


def feed_of(input_names: Sequence[str], batch: Batch, file: Path) -> dict[str, NDArray[Any]]:
    """What a file reads of a batch, in its types; see :meth:`Session.logits`."""
    feed: dict[str, NDArray[Any]] = {}
    for name in input_names:
        if name in batch:
            feed[name] = np.asarray(batch[name]).astype(dtype_of(name), copy=False)
        elif name == "token_type_ids" and "input_ids" in batch:
            feed[name] = np.zeros(np.shape(batch["input_ids"]), dtype=np.int64)
        else:
            raise ExportError(
                f"{file.name} needs the input {name!r}, the batch has {sorted(batch)}"
            )
    return feed


def dtype_of(name: str) -> type[np.generic]:
    """The type of one of a model's inputs."""
    return np.float32 if name in IMAGE_INPUTS else np.int64


def name_of(task: str) -> str:
    """What a file's outputs are called in examples, by the name of a pipeline's task."""
    return "embeddings" if task == EMBEDDING.export_task else "logits"


def reader_class(task: str) -> str:
    """The class of transformers that reads the inputs of a pipeline's task."""
    return "AutoImageProcessor" if task.startswith("image") else "AutoTokenizer"


def reading(task: str, tensors: str = "np", *, types: bool = False) -> str:
    """An expression that reads an example with ``reader``, for :meth:`Runtime.how_to_load`.

    Args:
        task: of a pipeline.
        tensors: what it gives, as transformers calls it.
        types: with ``token_type_ids``, which a file may need and not every tokenizer gives unasked.
    """
    if task.startswith("image"):
        return f'reader(image, return_tensors="{tensors}")'
    more = ", return_token_type_ids=True" if types else ""
    return f'reader(["a text"], padding=True{more}, return_tensors="{tensors}")'


def loading(runtime: Runtime, path: str, task: str, example: Example) -> tuple[str, ...]:
    """:meth:`Runtime.how_to_load`, with an example read as this model's texts are."""
    read = f"reader({example.texts}, padding=True, {example.cut}"
    lines = runtime.how_to_load(path, task)
    return tuple(line.replace('reader(["a text"], padding=True', read) for line in lines)


def refused(title: str, file: Path, batch: Batch, error: Exception) -> ExportError:
    """The error of a runtime that does not take a batch."""
    shapes = {name: tuple(np.shape(value)) for name, value in batch.items()}
    return ExportError(f"{title} fails on {file.name} with inputs of shapes {shapes}: {error}")
