"""What is timed: a model behind one function, and the batches it gets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hfprune.core.errors import HFPruneError, MissingExtraError
from hfprune.core.kinds import image_shape
from hfprune.core.machine import open_session
from hfprune.core.text import one_line

Batch = dict[str, NDArray[Any]]
Runner = Callable[[Batch], object]


def random_batches(vocab_size: int, *, first_id: int = 0, seed: int = 0) -> Callable[..., Batch]:
    """A ``make_batch`` of random token ids without padding.

    Args:
        vocab_size: ids are below it.
        first_id: and not below this; set it above the padding id, which some families count
            positions by.
        seed: the same shape gives the same batch.

    Returns:
        A function of batch size and sequence length; int64 arrays of shape ``[batch, length]``.

    Raises:
        HFPruneError: if no id is left.
    """
    if not 0 <= first_id < vocab_size:
        raise HFPruneError(f"no token id from {first_id} to below {vocab_size}")

    def make(batch_size: int, sequence_length: int) -> Batch:
        rng = np.random.default_rng((seed, batch_size, sequence_length))
        shape = (batch_size, sequence_length)
        return {
            "input_ids": rng.integers(first_id, vocab_size, size=shape, dtype=np.int64),
            "attention_mask": np.ones(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }

    return make


def config_beside(file: Path) -> Any:
    """The config of an exported model, which lies beside it.

    Raises:
        HFPruneError: if there is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise HFPruneError(
            f"{file} has no config.json beside it that can be read: {error}"
        ) from error


def batches_for(*configs: Any, seed: int = 0) -> Callable[..., Batch]:
    """A ``make_batch`` for models of these configs: tokens by :func:`random_batches`, or images.

    Token ids are such as all of the models know: one may have a smaller vocabulary. Images have the
    one size that the first config names, whatever length is asked for; float32 arrays
    ``pixel_values`` of shape ``[batch, channels, height, width]``.
    """
    sizes = [c.vocab_size for c in configs if getattr(c, "vocab_size", None) is not None]
    if sizes:
        return random_batches(min(sizes), first_id=min(10, min(sizes) - 1), seed=seed)
    shape = image_shape(configs[0])

    def make(batch_size: int, length: int) -> Batch:
        rng = np.random.default_rng((seed, batch_size))
        return {"pixel_values": rng.normal(size=(batch_size, *shape)).astype(np.float32)}

    return make


class TorchRunner:
    """Calls a PyTorch model on NumPy batches; see :func:`torch_runner`."""

    def __init__(
        self, model: nn.Module, threads: int, *, names: Sequence[str] | None = None
    ) -> None:
        self.threads = threads
        self._model = model
        # A compiled model hides what its forward takes; the names are then given.
        self._accepted = set(
            inspect.signature(model.forward).parameters if names is None else names
        )
        self._device = next(model.parameters()).device

    def __call__(self, batch: Mapping[str, Any]) -> object:
        tensors = {
            name: torch.as_tensor(value).to(self._device)
            for name, value in batch.items()
            if name in self._accepted
        }
        before = torch.get_num_threads()
        if before != self.threads:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                found: object = self._model(**tensors)
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                return found
        finally:
            if before != self.threads:
                torch.set_num_threads(before)


class OnnxRunner:
    """Calls an ONNX Runtime session on NumPy batches; see :func:`onnx_runner`."""

    def __init__(self, session: Any, threads: int) -> None:
        self.threads = threads
        self._session = session
        self._inputs = tuple(node.name for node in session.get_inputs())

    def __call__(self, batch: Batch) -> object:
        found: object = self._session.run(None, {name: batch[name] for name in self._inputs})
        return found


def torch_runner(model: nn.Module, threads: int = 1) -> TorchRunner:
    """A runner of a PyTorch model, in inference mode, on the device where the model is.

    The number of threads is set for the call and set back after it. Inputs that ``forward`` does
    not take are left out.

    Raises:
        HFPruneError: if the model is in training mode (dropout would be timed), or for
            ``threads < 1``.
    """
    _check_threads(threads)
    if model.training:
        raise HFPruneError("the model is in training mode; call model.eval() before timing it")
    return TorchRunner(model, threads)


def onnx_runner(path: str | Path, threads: int = 1) -> OnnxRunner:
    """A runner of an ONNX file on the CPU: operators in sequence, ``threads`` inside each.

    Raises:
        MissingExtraError: without onnxruntime.
        HFPruneError: if the file is missing or no graph that ONNX Runtime takes, or for
            ``threads < 1``.
    """
    _check_threads(threads)
    if not Path(path).is_file():
        raise HFPruneError(f"there is no ONNX file at {path}; export the model first")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError(
            f'timing ONNX files needs onnxruntime: pip install "hfprune[onnx]" ({error})'
        ) from error
    try:
        session = open_session(ort, Path(path), threads)
    except HFPruneError:
        raise
    except Exception as error:  # ONNX Runtime has no common base of its own
        raise HFPruneError(
            f"ONNX Runtime cannot load {path}: {one_line(str(error))}; export the model anew"
        ) from error
    return OnnxRunner(session, threads)


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise HFPruneError(f"threads must be at least 1, got {threads}")
