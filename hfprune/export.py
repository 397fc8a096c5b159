"""From a PyTorch classifier to checked ONNX files.

``export_onnx`` writes ``model.onnx`` with its ``config.json`` and tokenizer, ``quantize_onnx`` adds
``model_quantized.onnx`` beside it. Both build in a temporary directory, check what they built
against what it was built from, and only then move it into place: a failure leaves earlier files
as they were. ONNX Runtime and Optimum are imported inside the functions that need them.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib
import inspect
import io
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from numpy.typing import NDArray
from torch import nn

from hfprune.errors import DataError, ExportError, MissingExtraError
from hfprune.graph import rewrite, store_embeddings
from hfprune.images import IMAGE_COLUMN, ImageCollator
from hfprune.machine import detect_instruction_set, open_session
from hfprune.structure import block_views, position_limit
from hfprune.tasks import IMAGE_INPUTS, TEXT_INPUTS, image_shape, kind_of_model, takes_images

if TYPE_CHECKING:
    import datasets

    from hfprune.recipe import QuantizationConfig

logger = logging.getLogger(__name__)

MODEL_FILE = "model.onnx"
QUANTIZED_FILE = "model_quantized.onnx"
INSTRUCTION_SETS = ("avx2", "avx512", "avx512_vnni", "arm64")
BACKENDS = ("auto", "optimum", "transformers")
INSTALL_HINT = 'pip install "hfprune[onnx]"'
# Optimum's ONNX package and transformers 5 exclude each other; transformers 5 has its own exporter.
INSTALL_HINT_5 = "pip install onnx onnxruntime onnxscript"
MODEL_INPUTS = (*TEXT_INPUTS, *IMAGE_INPUTS)
UNTOUCHED = "Nothing was replaced: earlier files are untouched."

# Parity is checked up to this length even where the model takes more: the cost of attention grows
# with the square of the length, and a graph that is right at 512 does not go wrong later.
LONGEST_CHECK = 512

# Largest difference of logits that rewriting a graph may make.
REWRITE_ATOL = 1e-3

# Protobuf ends at 2 GiB; the rest is for the graph itself.
MOST_WEIGHT_BYTES = 2**31 - 2**26

Batch = Mapping[str, NDArray[Any]]


# -- running ---------------------------------------------------------------------------------------


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
        ort = _require("onnxruntime")
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
                feed[name] = np.asarray(batch[name]).astype(_dtype_of(name), copy=False)
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


def onnx_files(directory: str | Path) -> dict[str, Path]:
    """The ONNX files of a run's output (in its ``onnx/``), or of a directory that holds them.

    Returns:
        ``"float32"`` and ``"int8"`` to those that are there, in this order.
    """
    place = Path(directory)
    place = place / "onnx" if (place / "onnx").is_dir() else place
    files = {"float32": place / MODEL_FILE, "int8": place / QUANTIZED_FILE}
    return {name: file for name, file in files.items() if file.is_file()}


def _dtype_of(name: str) -> type[np.generic]:
    """The type of one of a model's inputs."""
    return np.float32 if name in IMAGE_INPUTS else np.int64


def predict_logits(
    model: nn.Module | OnnxClassifier,
    dataset: datasets.Dataset | Sequence[Mapping[str, Any]],
    collator: Any,
    *,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """The logits of a whole data set, from PyTorch and ONNX alike.

    Batches are made of samples of like length, so that little padding is computed; the rows come
    back in the order of the data set. A PyTorch model runs where it is, in eval mode, and gets its
    mode back.

    Args:
        model: a transformers classifier or an :class:`OnnxClassifier`.
        dataset: tokenised samples, unpadded, with ``input_ids``, or images that the collator
            reads; columns that are no input of the model (labels, text) are left out.
        collator: a tokenizer, or a callable that pads a list of samples to a batch.
        batch_size: samples a batch.

    Returns:
        float32, shape ``[samples, labels]``; of tokens ``[samples, longest, labels]``, zero where
        a row has no more tokens (padding is on the right).

    Raises:
        DataError: if the data set is empty or not tokenised.
    """
    if len(dataset) == 0:
        raise DataError("cannot predict on a data set without samples")
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    columns = getattr(dataset, "column_names", None) or sorted(dataset[0])
    images = isinstance(collator, ImageCollator)
    if not images and "input_ids" not in columns:
        raise DataError(f"expected tokenised samples with 'input_ids', got the columns {columns}")
    pad = _padding(collator)
    names = [IMAGE_COLUMN] if images else [name for name in TEXT_INPUTS if name in columns]
    if images:
        lengths = [1] * len(dataset)
    elif hasattr(dataset, "column_names"):
        lengths = [len(ids) for ids in dataset["input_ids"]]  # type: ignore[call-overload]
    else:
        lengths = [len(sample["input_ids"]) for sample in dataset]
    order = np.argsort(-np.asarray(lengths), kind="stable")

    rows: list[NDArray[np.float32]] = []
    with _logits_function(model) as logits:
        for start in range(0, len(order), batch_size):
            samples = [dataset[int(i)] for i in order[start : start + batch_size]]
            padded = pad([{name: sample[name] for name in names} for sample in samples])
            batch = {name: np.asarray(padded[name]) for name in MODEL_INPUTS if name in padded}
            rows.append(logits(batch))
    if rows[0].ndim == 2:
        by_length = np.concatenate(rows)
        restored = np.empty_like(by_length)
        restored[order] = by_length
        return restored
    restored = np.zeros((len(order), max(lengths), rows[0].shape[-1]), dtype=np.float32)
    place = 0
    for batch_logits in rows:
        for logits_of_row in batch_logits:
            row = int(order[place])
            count = lengths[row]
            # Of what a tokenizer padded on the left, the tokens are at the end.
            kept = logits_of_row[-count:] if _pads_left(collator) else logits_of_row[:count]
            restored[row, :count] = kept
            place += 1
    return restored


def _pads_left(collator: Any) -> bool:
    tokenizer = getattr(collator, "tokenizer", collator)
    return getattr(tokenizer, "padding_side", "right") == "left"


def _padding(collator: Any) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
    if hasattr(collator, "pad"):  # a tokenizer
        from transformers import DataCollatorWithPadding

        padding: Callable[[list[dict[str, Any]]], Mapping[str, Any]] = DataCollatorWithPadding(
            collator, return_tensors="np"
        )
        return padding
    if not callable(collator):
        raise DataError(f"expected a tokenizer or a collator, got {type(collator).__name__}")
    found: Callable[[list[dict[str, Any]]], Mapping[str, Any]] = collator
    return found


@contextlib.contextmanager
def _logits_function(
    model: nn.Module | OnnxClassifier,
) -> Iterator[Callable[[Batch], NDArray[np.float32]]]:
    """One way to call both kinds; a PyTorch model is in eval mode inside."""
    if isinstance(model, OnnxClassifier):
        yield model.logits
        return
    device = next(model.parameters()).device
    accepted = set(inspect.signature(model.forward).parameters)

    def run(batch: Batch) -> NDArray[np.float32]:
        tensors = {
            name: torch.as_tensor(np.asarray(value, dtype=_dtype_of(name)), device=device)
            for name, value in batch.items()
            if name in accepted
        }
        with torch.inference_mode():
            logits = model(**tensors).logits
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield run
    finally:
        for module, training in modes.items():  # a model may have been frozen in parts
            module.training = training


# -- export ----------------------------------------------------------------------------------------


def export_onnx(
    model: nn.Module,
    tokenizer: Any,
    output_dir: str | Path,
    *,
    opset: int | None = None,
    atol: float = 1e-4,
    backend: str = "auto",
) -> Path:
    """Write a classifier as ONNX, with config and tokenizer, and check it against PyTorch.

    Works on a float32 copy on the CPU in eval mode, so the model keeps its mode, device, dtype and
    config (and memory for one more copy is needed). Batch and sequence length stay free in the
    graph. Shrunk models are exported as they are: the graph holds the small matrices, and nothing
    of hfprune is needed to run it.

    Args:
        model: a transformers classifier, dense or shrunk. Gates that are attached are exported as
            multiplications; shrink first to be rid of them.
        tokenizer: its tokenizer or image processor, saved beside the graph.
        output_dir: gets ``model.onnx``, ``config.json`` and the tokenizer's files. Made if missing.
        opset: ONNX operator set; ``None`` is the backend's default for the model type.
        atol: largest absolute difference of logits from PyTorch that is let through.
        backend: ``"optimum"``, ``"transformers"`` (the exporter of transformers 5.23 and later, for
            which onnxscript is needed), or ``"auto"``: Optimum where it is installed.

    Returns:
        The path of ``model.onnx``.

    Raises:
        MissingExtraError: without the packages of the ``onnx`` extra.
        ExportError: if the model cannot be exported or the graph disagrees with PyTorch. Earlier
            files are then untouched.
    """
    write = _backend(backend)
    if not (math.isfinite(atol) and atol > 0):
        raise ExportError(f"atol must be a positive number, got {atol!r}")
    plain = _plain_copy(model)
    with _staged(Path(output_dir)) as staging:
        with _quiet():
            try:
                write(plain, staging, opset)
            except Exception as error:  # exporters raise whatever the tracer met
                kind = getattr(plain.config, "model_type", type(model).__name__)
                raise ExportError(
                    f"exporting the {kind!r} model failed"
                    f"{'' if opset is None else f' with opset={opset}'}: "
                    f"{_brief(error)}. {UNTOUCHED}"
                ) from error
            tokenizer.save_pretrained(staging)
        if not (staging / MODEL_FILE).is_file():
            raise ExportError(
                f"the exporter wrote {sorted(p.name for p in staging.iterdir())}, expected a "
                f"single {MODEL_FILE}. {UNTOUCHED}"
            )
        _check_opset(staging / MODEL_FILE, opset)
        difference = check_parity(plain, staging / MODEL_FILE, tokenizer, atol=atol)
        logger.info("ONNX agrees with PyTorch: largest difference of logits %.2e", difference)
    return Path(output_dir) / MODEL_FILE


def _check_opset(path: Path, wanted: int | None) -> None:
    """Exporters silently take another opset where they cannot write the one asked for."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    found = {entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")}
    if wanted is not None and found != {wanted}:
        raise ExportError(
            f"opset={wanted} was asked for, the exporter wrote {sorted(found)}; leave opset out "
            f"or take that one. {UNTOUCHED}"
        )


def check_backend(name: str = "auto") -> None:
    """Refuse what :func:`export_onnx` would refuse for want of packages, before any work.

    Raises:
        MissingExtraError: without a backend that can export here.
        ExportError: for an unknown one.
    """
    _backend(name)


def _backend(name: str) -> Callable[[Any, Path, int | None], None]:
    if name not in BACKENDS:
        raise ExportError(f"unknown export backend {name!r}, expected one of {list(BACKENDS)}")
    _require("onnx", "onnxruntime")
    if name == "auto":
        name = (
            "optimum"
            if _before_transformers_5() or _has("optimum.exporters.onnx")
            else "transformers"
        )
    if name == "optimum":
        _require("optimum.exporters.onnx")
        return _write_with_optimum
    _require("transformers.exporters", "onnxscript")
    return _write_with_transformers


def _write_with_optimum(model: Any, output: Path, opset: int | None) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    # Optimum's own validation takes one shape and only warns; ours follows.
    onnx_export_from_model(
        model,
        output,
        opset=opset,
        task=kind_of_model(model).export_task,
        device="cpu",
        do_validation=False,
    )


def _write_with_transformers(model: Any, output: Path, opset: int | None) -> None:
    # By name: an environment with Optimum has neither.
    exporters = importlib.import_module("transformers.exporters")
    onnx_ir = importlib.import_module("onnx_ir")

    if takes_images(model):
        inputs = {"pixel_values": torch.zeros(2, *image_shape(model.config))}
        axes = {0: torch.export.Dim.AUTO}
    else:
        limits = _limits_of(model, model.get_input_embeddings().num_embeddings)
        ids = torch.full((2, min(16, limits.length)), int(limits.ids[0]), dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        # As Optimum does: an input of the graph where it makes a difference.
        if limits.types > 1 and "token_type_ids" in inspect.signature(model.forward).parameters:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        # Without a bound of ours: the tracer finds the one that the table of positions sets.
        axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    config = exporters.OnnxConfig(opset_version=opset, dynamic_shapes=dict.fromkeys(inputs, axes))
    program = exporters.OnnxExporter().export(model, inputs, config=config).program
    _save(onnx_ir.to_proto(program), output / MODEL_FILE)
    model.config.save_pretrained(output)


def _plain_copy(model: nn.Module) -> Any:
    """A float32 copy on the CPU in eval mode, whose config says so and names no path."""
    # Mixed-precision training leaves a wrapper on `forward`, which exporters cannot trace.
    bare = extract_model_from_parallel(copy.deepcopy(model), keep_fp32_wrapper=False)
    plain: Any = bare.to(device="cpu", dtype=torch.float32).eval()
    # Optimum would look for a tokenizer under this name, on the Hub too; we save our own.
    plain.config._name_or_path = ""
    plain.config.architectures = [type(model).__name__]
    return plain


# -- parity ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limits:
    """What random inputs of a model may hold."""

    ids: NDArray[np.int64]  # token ids to draw from
    pad_id: int
    types: int  # token types
    length: int  # longest sequence, in tokens
    pad_left: bool = False


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
        atol: largest absolute difference of logits.
        seed: of the random token ids.

    Returns:
        The largest absolute difference found.

    Raises:
        ExportError: if it is above ``atol``, or a logit is not a number; says on which shape.
    """
    runner = OnnxClassifier(onnx_path)
    if "attention_mask" not in runner.input_names and not takes_images(model) and _attends(model):
        raise ExportError(
            f"ONNX parity: the graph has the inputs {list(runner.input_names)} and no "
            f"'attention_mask', so padded batches would go wrong. {UNTOUCHED}"
        )
    images = takes_images(model)
    if images:
        batches = _image_batches(model.config, seed)
    else:
        batches = _batches(_limits_of(model, tokenizer_or_vocab_size), seed)
    worst = 0.0
    with _logits_function(model) as reference:
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
            if got.ndim == 3:  # what stands at padding is read by nobody
                real = np.asarray(batch["attention_mask"]).astype(bool)
                got, expected = got[real], expected[real]
            for source, values in (("PyTorch", expected), ("ONNX", got)):
                if not np.isfinite(values).all():
                    raise ExportError(
                        f"ONNX parity ({label}): {source} gives logits that are not finite "
                        f"({_count_bad(values)}). {UNTOUCHED}"
                    )
            difference = float(np.abs(got - expected).max())
            if difference > atol:
                raise ExportError(
                    f"ONNX parity ({label}): logits differ from PyTorch by up to "
                    f"{difference:.3e}, allowed is {atol:.0e}. {UNTOUCHED}"
                )
            worst = max(worst, difference)
    return worst


def _attends(model: nn.Module) -> bool:
    """Whether any attention block is left; without one, no token sees another or any padding."""
    return any(key.kind == "attention" for key in block_views(model))


def _count_bad(values: NDArray[Any]) -> str:
    return f"{int((~np.isfinite(values)).sum())} of {values.size} values"


def _limits_of(model: Any, tokenizer_or_vocab_size: Any) -> _Limits:
    config = model.config
    embedding = model.get_input_embeddings()
    pad_id = getattr(config, "pad_token_id", None)
    special: set[int] = set()
    longest = LONGEST_CHECK
    left = False
    if isinstance(tokenizer_or_vocab_size, int):
        size = tokenizer_or_vocab_size
    else:
        tokenizer = tokenizer_or_vocab_size
        size = len(tokenizer)
        special = set(tokenizer.all_special_ids)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else pad_id
        longest = min(longest, tokenizer.model_max_length)
        left = tokenizer.padding_side == "left"
    size = min(size, embedding.num_embeddings)
    longest = min(longest, position_limit(model) or longest)
    longest = min(longest, getattr(config, "max_position_embeddings", None) or longest)
    return _limits(size, 0 if pad_id is None else pad_id, special, config, longest, left)


def _limits(
    size: int, pad_id: int, special: set[int], config: Any, longest: int, left: bool
) -> _Limits:
    ids = [i for i in range(size) if i not in special and i != pad_id]
    if not ids:
        raise ExportError(f"no token id below {size} is left to check the graph with")
    return _Limits(
        ids=np.asarray(ids, dtype=np.int64),
        pad_id=pad_id,
        types=max(1, getattr(config, "type_vocab_size", None) or 1),
        length=max(1, longest),
        pad_left=left,
    )


def _batches(limits: _Limits, seed: int) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
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


# -- quantization ----------------------------------------------------------------------------------


def quantize_onnx(
    onnx_dir: str | Path,
    config: QuantizationConfig,
    *,
    calibration: datasets.Dataset | None = None,
    file_name: str = QUANTIZED_FILE,
) -> Path:
    """Write an 8-bit version of ``model.onnx`` beside it.

    Done by Optimum's ``ORTQuantizer``, or by ONNX Runtime's own functions with the same settings
    where Optimum is not to be had (transformers 5) or lacks a setting: another ``graph`` or form of
    ``embeddings``, ``matmul_const_b_only``, the QOperator format.

    Dynamic quantization measures activations while running. Static quantization fixes their ranges
    beforehand, by the smallest and largest value seen on calibration data. The new file is run once
    on random batches before it is kept; how well it predicts must be measured on real data.

    Args:
        onnx_dir: what :func:`export_onnx` wrote.
        config: the recipe's settings. ``reduce_range=None`` means 7-bit weights for CPUs without
            VNNI (``avx2``, ``avx512``), where products of 8-bit numbers can overflow their 16-bit
            sums, and 8-bit weights elsewhere; ``operators_to_quantize=None`` means all that ONNX
            Runtime quantizes in this mode.
        calibration: tokenised, unpadded samples; only static quantization uses them, at most
            ``config.calibration_samples``, drawn with a fixed seed.
        file_name: of the new file. Optimum writes ``ort_config.json`` with its settings too.

    Returns:
        The path of the new file.

    Raises:
        MissingExtraError: without the packages of the ``onnx`` extra.
        ExportError: for settings that do not fit the graph, missing calibration data, or a result
            that does not run. Earlier files are then untouched.
    """
    _require("onnx", "onnxruntime")
    quantize = _quantize_with_onnxruntime
    if _before_transformers_5() or _has("optimum.onnxruntime"):
        _require("optimum.onnxruntime")
        quantize = _quantize_with_optimum
    import onnx

    directory = Path(onnx_dir)
    source = directory / MODEL_FILE
    for needed in (source, directory / "config.json"):
        if not needed.is_file():
            raise ExportError(f"there is no {needed.name} in {directory}; call export_onnx first")
    if Path(file_name).name != file_name or not file_name.endswith(".onnx"):
        raise ExportError(f"file_name must be a bare name that ends in .onnx, got {file_name!r}")
    if file_name == MODEL_FILE:
        raise ExportError(f"file_name must not be {MODEL_FILE!r}, which is what gets quantized")

    samples = None
    if config.is_static:
        inputs = [
            node.name for node in onnx.load(str(source), load_external_data=False).graph.input
        ]
        samples = _calibration_samples(calibration, inputs, config.calibration_samples)

    with _staged(directory) as staging:
        work = Path(tempfile.mkdtemp(dir=staging))
        prepared, untouchable = _prepared(source, config, work)
        if prepared != source or config.matmul_const_b_only or config.static_format != "qdq":
            quantize = _quantize_with_onnxruntime
        graph = onnx.load(str(prepared), load_external_data=False).graph
        _check_nodes(config.nodes_to_exclude, [node.name for node in graph.node])
        present = {node.op_type for node in graph.node}
        _check_operators(config.operators_to_quantize, present, config.is_static)
        settings = _settings(config, graph.node, untouchable)
        with _quiet():
            try:
                written = quantize(prepared, settings, samples, work)
            except Exception as error:  # ONNX Runtime raises whatever it met
                raise ExportError(
                    f"{'static' if config.is_static else 'dynamic'} quantization of {source} "
                    f"failed: {_brief(error)}. {UNTOUCHED}"
                ) from error
        quantized = onnx.load(str(written))
        if not any("Quantize" in n.op_type or "Integer" in n.op_type for n in quantized.graph.node):
            raise ExportError(
                f"nothing was quantized: operators_to_quantize={config.operators_to_quantize} and "
                f"{len(config.nodes_to_exclude)} nodes_to_exclude leave no node. {UNTOUCHED}"
            )
        _save(quantized, staging / file_name)
        if (work / "ort_config.json").is_file():
            os.replace(work / "ort_config.json", staging / "ort_config.json")
        shutil.rmtree(work)
        _check_quantized(staging / file_name, source)
    return directory / file_name


def prepare_graph(source: str | Path, config: QuantizationConfig, work: str | Path) -> Path:
    """The float graph that :func:`quantize_onnx` starts from, with these settings.

    For those who want its names of nodes, or to run it. Written to ``work`` where the settings
    rewrite the graph; else ``source`` itself. Errors as :func:`quantize_onnx`.
    """
    return _prepared(Path(source), config, Path(work))[0]


def _prepared(source: Path, config: QuantizationConfig, work: Path) -> tuple[Path, list[str]]:
    """The graph to quantize, and the nodes of it that are to be left alone."""
    import onnx

    if config.graph == "exported" and config.embeddings == "usual":
        return source, []
    place = work / "prepared.onnx"
    with _quiet():
        try:
            if config.graph == "exported":
                model = onnx.load(str(source))
            else:
                model = rewrite(source, config.graph)
        except Exception as error:  # ONNX Runtime's optimizer raises whatever it met
            raise ExportError(
                f"graph: {config.graph} cannot be made of {source}: {_brief(error)}. {UNTOUCHED}"
            ) from error
    if config.graph != "exported":
        _save(model, place)
        _check_rewritten(place, source, config.graph)
    untouchable = []
    if config.embeddings != "usual":
        untouchable = store_embeddings(model, config.embeddings)
        _save(model, place)
    return place, untouchable


@dataclass(frozen=True)
class _Settings:
    """A :class:`QuantizationConfig` made concrete for one graph and instruction set."""

    instruction_set: str
    is_static: bool
    per_channel: bool
    reduce_range: bool
    operators: tuple[str, ...] | None
    excluded: tuple[str, ...]
    weights_only: bool = False
    format: str = "qdq"


def _settings(
    config: QuantizationConfig, nodes: Sequence[Any], untouchable: Sequence[str] = ()
) -> _Settings:
    wanted = config.instruction_set
    name = detect_instruction_set() if wanted == "auto" else wanted
    excluded = list(config.nodes_to_exclude)
    if not config.is_static:
        # Dynamic quantization turns Gemm into MatMul first and looks for the new names.
        gemms = {node.name for node in nodes if node.op_type == "Gemm"}
        excluded += [f"{node}_MatMul" for node in config.nodes_to_exclude if node in gemms]
    reduce = config.reduce_range
    operators = config.operators_to_quantize
    if operators is None and not config.is_static and any(n.op_type == "Conv" for n in nodes):
        from onnxruntime.quantization.registry import IntegerOpsRegistry

        # ONNX Runtime writes ConvInteger with signed weights, which it cannot run on CPUs.
        operators = [name for name in IntegerOpsRegistry if name != "Conv"]
    return _Settings(
        instruction_set=name,
        is_static=config.is_static,
        per_channel=config.per_channel,
        reduce_range=name in {"avx2", "avx512"} if reduce is None else reduce,
        operators=None if operators is None else tuple(operators),
        excluded=(*excluded, *untouchable),
        weights_only=config.matmul_const_b_only,
        format=config.static_format,
    )


def _quantize_with_optimum(
    source: Path, settings: _Settings, samples: Any | None, work: Path
) -> Path:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

    config = getattr(AutoQuantizationConfig, settings.instruction_set)(
        is_static=settings.is_static,
        per_channel=settings.per_channel,
        nodes_to_exclude=list(settings.excluded),
        operators_to_quantize=None if settings.operators is None else list(settings.operators),
    )
    # Set here because Optimum takes it for two of the four instruction sets only.
    config.reduce_range = settings.reduce_range
    quantizer = ORTQuantizer.from_pretrained(source.parent, file_name=source.name)
    external = len(_data_files(source)) > 0
    ranges = None
    if samples is not None:
        ranges = quantizer.fit(
            samples,
            AutoCalibrationConfig.minmax(samples),
            onnx_augmented_model_name=str(work / "augmented_model.onnx"),
            operators_to_quantize=config.operators_to_quantize,
            batch_size=1,  # samples are unpadded and so of different lengths
            use_external_data_format=external,
        )
    quantizer.quantize(
        config,
        work,
        file_suffix="quantized",
        calibration_tensors_range=ranges,
        use_external_data_format=external,
    )
    return work / f"{source.stem}_quantized.onnx"


def _quantize_with_onnxruntime(
    source: Path, settings: _Settings, samples: Any | None, work: Path
) -> Path:
    import onnx
    from onnxruntime.quantization import (
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.registry import (
        IntegerOpsRegistry,
        QDQRegistry,
        QLinearOpsRegistry,
    )

    written = work / f"{source.stem}_quantized.onnx"
    # Optimum's choices, here and below: weights are unsigned on AVX2 alone, symmetric everywhere.
    weights = QuantType.QUInt8 if settings.instruction_set == "avx2" else QuantType.QInt8
    usual = IntegerOpsRegistry
    if settings.is_static:
        usual = QDQRegistry if settings.format == "qdq" else QLinearOpsRegistry
    common: dict[str, Any] = {
        "op_types_to_quantize": list(settings.operators or usual),
        "per_channel": settings.per_channel,
        "reduce_range": settings.reduce_range,
        "weight_type": weights,
        "nodes_to_exclude": list(settings.excluded),
        "use_external_data_format": len(_data_files(source)) > 0,
        "extra_options": {
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            "MatMulConstBOnly": settings.weights_only,
            # Where shape inference does not know an operator (fused ones), or quantization stops.
            "DefaultTensorType": onnx.TensorProto.FLOAT,
        },
    }
    # A loaded graph and not its path, beside which ONNX Runtime would write a file of its own.
    graph = onnx.load(str(source))
    if samples is None:
        quantize_dynamic(graph, written, **common)
    else:
        quantize_static(
            graph,
            written,
            _reader(samples),
            activation_type=QuantType.QUInt8,
            quant_format=QuantFormat.QDQ if settings.format == "qdq" else QuantFormat.QOperator,
            **common,
        )
    return written


def _reader(samples: Any) -> Any:
    """Gives ONNX Runtime's calibration one sample at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self._rows = iter(samples)

        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            row = next(self._rows, None)
            if row is None:
                return None
            return {name: np.asarray([value], dtype=_dtype_of(name)) for name, value in row.items()}

    return Reader()


def _check_nodes(wanted: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in wanted if name not in set(names)]
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], names, n=5, cutoff=0.0)
    raise ExportError(
        f"nodes_to_exclude names {unknown}, which the graph does not have; among its "
        f"{len(names)} nodes are {close}"
    )


def _check_operators(wanted: Sequence[str] | None, present: set[str], is_static: bool) -> None:
    if wanted is None:
        return
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    # Static quantization can put a scale around any operator; dynamic only around these. Gemm is
    # rewritten to MatMul beforehand.
    possible = set(present) if is_static else present & set(IntegerOpsRegistry)
    if not is_static and "Gemm" in present:
        possible.add("MatMul")
    unknown = [name for name in wanted if name not in possible]
    if unknown or not wanted:
        raise ExportError(
            f"operators_to_quantize={list(wanted)}: {unknown or 'an empty list'} cannot be "
            f"quantized here; this graph and {'static' if is_static else 'dynamic'} quantization "
            f"allow {sorted(possible)}"
        )


def _calibration_samples(calibration: Any, inputs: Sequence[str], limit: int) -> Any:
    """At most ``limit`` samples with just the inputs of the graph, as Optimum reads them."""
    if calibration is None:
        raise ExportError(
            "static quantization needs calibration data: pass calibration= (tokenised samples of "
            "the training split), or set is_static to false"
        )
    if not {"input_ids", *IMAGE_INPUTS} & set(calibration.column_names):
        raise ExportError(
            "calibration data must be tokenised: expected a column 'input_ids', got "
            f"{calibration.column_names}"
        )
    if len(calibration) == 0 or limit < 1:
        raise ExportError(
            f"static quantization needs at least one calibration sample, got {len(calibration)} "
            f"and calibration_samples={limit}"
        )
    from datasets import Dataset

    count = min(limit, len(calibration))
    # Data sets are often sorted by label, so the first rows would not do.
    chosen = sorted(np.random.default_rng(0).choice(len(calibration), count, replace=False))
    plain = calibration.with_format(None)
    columns: dict[str, list[Any]] = {name: [] for name in inputs}
    for index in chosen:
        sample = plain[int(index)]
        # One unpadded sentence: all its tokens count, and they are of type 0.
        fill = {"attention_mask": 1, "token_type_ids": 0}
        for name in inputs:
            if name not in sample and name not in fill:
                raise ExportError(
                    f"the graph needs the input {name!r}, the calibration data has "
                    f"{calibration.column_names}"
                )
            columns[name].append(sample.get(name) or [fill[name]] * len(sample["input_ids"]))
    return Dataset.from_dict(columns)


def _save(proto: Any, path: Path) -> None:
    """Save a graph in one file, or with its weights beside it where protobuf's 2 GB are too few."""
    import onnx

    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    big = weights > MOST_WEIGHT_BYTES
    onnx.save(
        proto,
        str(path),
        save_as_external_data=big,
        location=f"{path.name}_data" if big else None,
    )


def _limits_beside(source: Path, *, pad_left: bool = False) -> _Limits:
    """Of a graph, from the config beside it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.parent)
    # Positions before the first are taken off generously: 128 tokens tell enough here.
    longest = min(128, (getattr(config, "max_position_embeddings", None) or 128) - 8)
    return _limits(config.vocab_size, config.pad_token_id or 0, set(), config, longest, pad_left)


def _batches_beside(
    source: Path, runner: OnnxClassifier, *, pad_left: bool = False
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Random input of a graph."""
    if set(runner.input_names) & set(IMAGE_INPUTS):
        from transformers import AutoConfig

        return _image_batches(AutoConfig.from_pretrained(source.parent), seed=0)
    return _batches(_limits_beside(source, pad_left=pad_left), seed=0)


def _check_rewritten(path: Path, source: Path, graph: str) -> None:
    """The rewritten float graph gives the same logits, whichever side is padded."""
    before, after = OnnxClassifier(source), OnnxClassifier(path)
    for pad_left in (False, True):
        for label, batch in _batches_beside(source, before, pad_left=pad_left):
            expected, got = before.logits(batch), after.logits(batch)
            difference = math.inf
            if got.shape == expected.shape:
                gap = np.abs(got - expected)
                if gap.ndim == 3:  # what stands at padding is read by nobody
                    gap = gap[np.asarray(batch["attention_mask"]).astype(bool)]
                difference = float(gap.max())
            if not difference <= REWRITE_ATOL:  # NaN is no less either
                raise ExportError(
                    f"graph: {graph} changes the logits by up to {difference:.3e} ({label}), "
                    f"allowed is {REWRITE_ATOL:.0e}. {UNTOUCHED}"
                )


def _check_quantized(path: Path, source: Path) -> None:
    before, after = OnnxClassifier(source), OnnxClassifier(path)
    worst = 0.0
    for label, batch in _batches_beside(source, before):
        expected, got = before.logits(batch), after.logits(batch)
        if got.shape != expected.shape or not np.isfinite(got).all():
            raise ExportError(
                f"the quantized graph fails ({label}): logits of shape {got.shape}, expected "
                f"{expected.shape}; not finite: {_count_bad(got)}. {UNTOUCHED}"
            )
        worst = max(worst, float(np.abs(got - expected).max()))
    logger.info("8-bit logits differ from float32 by up to %.2e on random input", worst)


# -- files -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Yield an empty directory whose files replace those of ``target`` if the block succeeds."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that moving is renaming.
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ExportError(f"cannot write to {target.parent}: {error}") from error
    try:
        yield staging
        try:
            _install(staging, target)
        except OSError as error:
            raise ExportError(
                f"cannot move the export to {target}: {error}. {UNTOUCHED}"
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _install(staging: Path, target: Path) -> None:
    """Move all files of ``staging`` to ``target``; on any error put the earlier ones back."""
    files = sorted(
        (path.relative_to(staging) for path in staging.rglob("*") if path.is_file()),
        key=lambda path: path.suffix == ".onnx",  # graphs last: where one is, its files are
    )
    stale = [
        Path(name)
        for path in files
        if path.suffix == ".onnx"
        for name in (f"{path}_data", f"{path}.data")
        if Path(name) not in files and (target / name).is_file()
    ]
    made = not target.exists()
    backup = staging / ".earlier"
    done: list[Path] = []
    try:
        for name in [*files, *stale]:
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_file():
                (backup / name).parent.mkdir(parents=True, exist_ok=True)
                _link(place, backup / name)
            done.append(name)
            if name in stale:  # weights of the graph that goes
                place.unlink()
            else:
                os.replace(staging / name, place)
    except BaseException:
        for name in done:
            if (backup / name).is_file():
                os.replace(backup / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)
        if made:
            shutil.rmtree(target, ignore_errors=True)
        raise


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # a file system without hard links
        shutil.copy2(source, destination)


def _data_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, if any."""
    return [p for p in (Path(f"{path}_data"), Path(f"{path}.data")) if p.is_file()]


# -- helpers ---------------------------------------------------------------------------------------


def _before_transformers_5() -> bool:
    import transformers

    return int(transformers.__version__.split(".")[0]) < 5


def _has(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _require(*modules: str) -> Any:
    """Import optional modules; returns the first."""
    found = []
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            hint = INSTALL_HINT if _before_transformers_5() else INSTALL_HINT_5
            if name == "transformers.exporters":
                hint = 'pip install "transformers>=5.23" onnx onnxruntime onnxscript'
            raise MissingExtraError(
                f"ONNX export needs {name.split('.')[0]}, which cannot be imported ({error}): "
                f"{hint}"
            ) from error
    return found[0]


def _brief(error: Exception) -> str:
    """The kind of an error and its first line: exporters put whole graphs behind it."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}".rstrip(" .:")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what tracers and quantizers say on their way; their errors still come through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        # torch.onnx reports its steps on the standard output.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
