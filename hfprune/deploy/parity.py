"""An exported model against the one that it was made from."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hfprune.core.errors import ExportError
from hfprune.core.kinds import IMAGE_INPUTS, image_shape, takes_images
from hfprune.deploy.files import UNTOUCHED
from hfprune.deploy.limits import InputLimits, attends, limits_beside, limits_of
from hfprune.deploy.runtimes.base import Session
from hfprune.deploy.runtimes.onnx_session import OnnxClassifier
from hfprune.deploy.runtimes.predicting import logits_function

logger = logging.getLogger(__name__)


# Largest difference of logits that rewriting a graph may make, as for :func:`allowed`.
REWRITE_ATOL = 1e-3


def allowed(expected: NDArray[Any], atol: float) -> float:
    """How far logits may be off: ``atol``, or that share of the largest, if it is above 1.

    float32 rounds in proportion: a regression of prices, and logits that were divided by a small
    temperature, differ by more than those of a classifier.

    >>> allowed(np.array([0.5, -0.2]), 1e-4), allowed(np.array([-30.0, 2.0]), 1e-4)
    (0.0001, 0.003)
    """
    return atol * max(1.0, float(np.abs(expected).max(initial=0.0)))


def check_parity(
    model: nn.Module,
    onnx_path: str | Path,
    tokenizer_or_vocab_size: Any,
    *,
    atol: float = 1e-4,
    seed: int = 0,
) -> float:
    """Compare an ONNX file with PyTorch on random batches of several shapes.

    Shapes: one token, one sequence of the greatest length (at most 512), and batches of 2 to 4
    with padding. Images have one size: batches of 1 and 3 of them.

    Args:
        model: float32 classifier, any device; run in eval mode.
        onnx_path: the file.
        tokenizer_or_vocab_size: a tokenizer, or the number of token ids to draw from; not looked
            at for images.
        atol: largest difference of logits, as for :func:`allowed`.
        seed: of the random token ids.

    Returns:
        The largest absolute difference found.

    Raises:
        ExportError: if it is more than is allowed, or a logit is no number; says on which shape.
    """
    runner = OnnxClassifier(onnx_path)
    if "attention_mask" not in runner.input_names and not takes_images(model) and attends(model):
        raise ExportError(
            f"ONNX parity: the graph has the inputs {list(runner.input_names)} and no "
            f"'attention_mask', so padded batches would go wrong. {UNTOUCHED}"
        )
    images = takes_images(model)
    if images:
        batches = _image_batches(model.config, seed)
    else:
        batches = _batches(limits_of(model, tokenizer_or_vocab_size), seed)
    worst = 0.0
    with logits_function(model) as reference:
        for label, batch in batches:
            expected = reference(
                {name: batch[name] for name in runner.input_names if name in batch}
            )
            got = runner.logits(batch)
            if got.shape != expected.shape:
                raise ExportError(
                    f"ONNX parity ({label}): the graph gives logits of shape {got.shape}, PyTorch "
                    f"of {expected.shape}. {UNTOUCHED}"
                )
            expected, got = _read(expected, batch), _read(got, batch)
            for source, values in (("PyTorch", expected), ("ONNX", got)):
                if not np.isfinite(values).all():
                    raise ExportError(
                        f"ONNX parity ({label}): {source} gives logits that are not finite "
                        f"({_count_bad(values)}). {UNTOUCHED}"
                    )
            difference = float(np.abs(got - expected).max())
            limit = allowed(expected, atol)
            if difference > limit:
                raise ExportError(
                    f"ONNX parity ({label}): logits differ from PyTorch by up to "
                    f"{difference:.3e}, allowed is {limit:.0e}. {UNTOUCHED}"
                )
            worst = max(worst, difference)
    return worst


def _read(logits: NDArray[Any], batch: Mapping[str, Any]) -> NDArray[Any]:
    """Logits that are read by somebody: of each token not those of padding."""
    if logits.ndim < 3:
        return logits
    real: NDArray[Any] = logits[np.asarray(batch["attention_mask"]).astype(bool)]
    return real


def _count_bad(values: NDArray[Any]) -> str:
    return f"{int((~np.isfinite(values)).sum())} of {values.size} values"


def _batches(limits: InputLimits, seed: int) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Random batches of several shapes, each with a name for errors."""
    rng = np.random.default_rng(seed)
    shapes = [(1, 1, False), (1, 7, False), (1, limits.length, False)]
    shapes += [(4, 16, True), (2, limits.length, True)]
    for size, wanted, padded in shapes:
        length = min(wanted, limits.length)
        ids = rng.choice(limits.ids, size=(size, length))
        types = rng.integers(0, limits.types, size=(size, length))
        mask = np.ones((size, length), dtype=np.int64)
        if padded:
            # Row 0 is full, the last row holds one token.
            for row, kept in enumerate(np.linspace(length, 1, size).astype(int)):
                hole = slice(0, length - kept) if limits.pad_left else slice(kept, length)
                ids[row, hole], types[row, hole], mask[row, hole] = limits.pad_id, 0, 0
        label = f"batch {size}, length {length}{', padded' if padded else ''}"
        yield label, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def _image_batches(config: Any, seed: int) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Random images, each batch with a name for errors."""
    rng = np.random.default_rng(seed)
    for size in (1, 3):
        shape = (size, *image_shape(config))
        yield f"{size} images", {"pixel_values": rng.normal(size=shape).astype(np.float32)}


def _batches_beside(
    source: Path, input_names: Sequence[str], *, pad_left: bool = False
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Random input of a graph."""
    if set(input_names) & set(IMAGE_INPUTS):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source.parent, trust_remote_code=False)
        return _image_batches(config, seed=0)
    return _batches(limits_beside(source, pad_left=pad_left), seed=0)


def check_rewritten(path: Path, source: Path, graph: str) -> None:
    """The rewritten float graph gives the same logits, whichever side is padded."""
    check_same(OnnxClassifier(path), source, f"graph: {graph}")


def check_same(after: Session, source: Path, what: str) -> None:
    """A file gives the logits of the float graph that it was made from, whichever side is padded.

    Args:
        after: the file, opened.
        source: the graph, with its config beside it.
        what: the file in words, for the error.

    Raises:
        ExportError: if logits differ by more than ``REWRITE_ATOL`` allows; says on which batch.
    """
    before = OnnxClassifier(source)
    for pad_left in (False, True):
        for label, batch in _batches_beside(source, before.input_names, pad_left=pad_left):
            expected, got = before.logits(batch), after.logits(batch)
            difference, limit = math.inf, REWRITE_ATOL
            if got.shape == expected.shape:
                expected, got = _read(expected, batch), _read(got, batch)
                difference = float(np.abs(got - expected).max())
                limit = allowed(expected, REWRITE_ATOL)
            if not difference <= limit:  # NaN is no less either
                raise ExportError(
                    f"{what} changes the logits by up to {difference:.3e} ({label}), "
                    f"allowed is {limit:.0e}. {UNTOUCHED}"
                )


def check_quantized(path: Path, source: Path) -> None:
    check_finite(OnnxClassifier(path), source, "the quantized graph")


def check_finite(after: Session, source: Path, what: str) -> None:
    """A file of less precision gives numbers, as many as the graph that it was made from.

    Arguments as for :func:`check_same`. How well it predicts must be measured on real data.

    Raises:
        ExportError: if it does not; says on which batch.
    """
    before = OnnxClassifier(source)
    worst = 0.0
    for label, batch in _batches_beside(source, before.input_names):
        expected, got = before.logits(batch), after.logits(batch)
        if got.shape != expected.shape or not np.isfinite(got).all():
            raise ExportError(
                f"{what} fails ({label}): logits of shape {got.shape}, expected "
                f"{expected.shape}; not finite: {_count_bad(got)}. {UNTOUCHED}"
            )
        worst = max(worst, float(np.abs(got - expected).max()))
    logger.info("%s: logits differ from float32 by up to %.2e on random input", what, worst)
