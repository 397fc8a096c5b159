"""Latency, parameters, multiply-accumulates and bytes, measured so that they can be compared.

Runners are timed in turn within each round, in a shuffled order, so that a machine that slows down
for a second slows all of them; ratios are taken within a round and come with an interval.
"""

from __future__ import annotations

import gc
import importlib.metadata
import inspect
import math
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hfprune.errors import HFPruneError, MissingExtraError
from hfprune.machine import CPUINFO, instruction_set, open_session, read_cpu, usable_cpus
from hfprune.structure import block_views
from hfprune.tasks import image_shape, takes_images

Batch = dict[str, NDArray[Any]]
Runner = Callable[[Batch], object]

# One timing lasts at least this long: far above the clock's resolution and the cost of a call.
MIN_SAMPLE_NS = 2_000_000
MAX_INNER_LOOPS = 10_000
LIBRARIES = (
    "hfprune",
    "transformers",
    "torch",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "accelerate",
    "datasets",
    "evaluate",
)


# -- latency ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatencyRow:
    """Times of one runner on one shape.

    Attributes:
        name: of the runner.
        batch_size, sequence_length: of the batch, no padding in it.
        threads: of the runner.
        repeats: number of timings.
        inner_loops: calls in one timing; times below are for one call.
        median_ms, p95_ms, mean_ms, std_ms: milliseconds a batch; ``std_ms`` is the sample
            standard deviation, 0 for a single timing.
        throughput: samples a second at the median.
        times_ms: the timings, one a round, in the order of the rounds.
    """

    name: str
    batch_size: int
    sequence_length: int
    threads: int
    repeats: int
    inner_loops: int
    median_ms: float
    p95_ms: float
    mean_ms: float
    std_ms: float
    throughput: float
    times_ms: tuple[float, ...] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """``(batch_size, sequence_length)``."""
        return (self.batch_size, self.sequence_length)


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline: above 1 is faster.

    Attributes:
        value: median over the rounds of baseline time / own time.
        low, high: order statistics around the median.
        coverage: the chance that such an interval holds the true median, at least 0.95 where
            there are 6 rounds or more; with fewer the interval is the whole range.
        rounds: number of paired rounds.
    """

    value: float
    low: float
    high: float
    coverage: float
    rounds: int


def measure_latency(
    runners: Mapping[str, Runner],
    shapes: Sequence[tuple[int, int]],
    *,
    repeats: int,
    warmup: int,
    make_batch: Callable[[int, int], Batch],
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[LatencyRow]:
    """Time all runners on all shapes, interleaved.

    For each shape: one batch is made for all runners; each runner is called ``warmup`` times; then
    come ``repeats`` rounds, in each of which every runner is timed once, in an order shuffled anew.
    A runner that needs less than about 2 ms a call is called several times in one timing (the
    number is set from one timed call after the warm-up, and is ``inner_loops`` of its row).
    Python's garbage collector is off while timing.

    Args:
        runners: name to callable; a ``threads`` attribute is copied to the rows (1 without).
        shapes: pairs ``(batch_size, sequence_length)``.
        repeats: rounds a shape, at least 1.
        warmup: untimed calls, 0 or more.
        make_batch: gives the inputs for a batch size and a sequence length.
        progress: called after each round with the rounds done and the rounds in all.
        seed: of the orders.
        clock: nanoseconds.

    Returns:
        One row a shape and runner, in the order given.

    Raises:
        HFPruneError: for an empty set of runners or shapes, or impossible counts.
    """
    if not runners or not shapes:
        raise HFPruneError(
            f"nothing to measure: {len(runners)} runners and {len(shapes)} shapes, expected at "
            "least one of each"
        )
    if repeats < 1 or warmup < 0:
        raise HFPruneError(
            f"expected repeats >= 1 and warmup >= 0, got repeats={repeats} and warmup={warmup}"
        )
    shuffle = random.Random(seed).shuffle
    rows = []
    for index, (batch_size, length) in enumerate(shapes):
        batch = make_batch(batch_size, length)
        loops = {}
        for name, run in runners.items():
            for _ in range(warmup):
                run(batch)
            loops[name] = _inner_loops(_time(run, batch, 1, clock))
        times: dict[str, list[float]] = {name: [] for name in runners}
        order = list(runners)
        for done in range(repeats):
            shuffle(order)
            with _no_garbage_collection():
                for name in order:
                    elapsed = _time(runners[name], batch, loops[name], clock)
                    times[name].append(elapsed / loops[name] / 1e6)
            if progress is not None:
                progress(index * repeats + done + 1, len(shapes) * repeats)
        rows += [
            _row(name, batch_size, length, getattr(run, "threads", 1), loops[name], times[name])
            for name, run in runners.items()
        ]
    return rows


def latency_facts(
    files: Mapping[str, Path],
    shapes: Sequence[tuple[int, int]],
    *,
    threads: int,
    baseline: str,
    make_batch: Callable[[int, int], Batch],
    repeats: int = 7,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Median latency and speed-up of ONNX files over many shapes: JSON-ready rows.

    Args:
        files: name to ONNX file.
        shapes, make_batch, repeats, progress: as :func:`measure_latency`.
        threads: of each session.
        baseline: the name of the file that the others are compared with.
    """
    rows = measure_latency(
        {name: onnx_runner(file, threads) for name, file in files.items()},
        shapes,
        repeats=repeats,
        warmup=1,
        make_batch=make_batch,
        progress=progress,
    )
    ratio = ratios(rows, baseline)
    return [
        {
            "name": row.name,
            "threads": row.threads,
            "batch_size": row.batch_size,
            "sequence_length": row.sequence_length,
            "median_ms": row.median_ms,
            "speedup": ratio[(row.name, row.shape)].value,
        }
        for row in rows
    ]


def ratios(rows: Sequence[LatencyRow], baseline: str) -> dict[tuple[str, tuple[int, int]], Ratio]:
    """Speed relative to a baseline, for each runner and shape, the baseline (1) included.

    Timings of the same round are divided by one another first, so what slows a whole round cancels
    out; the value is the median of these ratios. The interval is made of order statistics (sign
    test): it assumes nothing of their distribution.

    Raises:
        HFPruneError: if a shape has no row of the baseline, or rows have unlike numbers of rounds.
    """
    base = {row.shape: row for row in rows if row.name == baseline}
    found = {}
    for row in rows:
        if row.shape not in base:
            raise HFPruneError(
                f"no row of the baseline {baseline!r} for batch size {row.batch_size}, length "
                f"{row.sequence_length}; the rows are of {sorted({r.name for r in rows})}"
            )
        reference = base[row.shape].times_ms
        if len(reference) != len(row.times_ms):
            raise HFPruneError(
                f"{row.name!r} has {len(row.times_ms)} rounds, the baseline {baseline!r} has "
                f"{len(reference)}; ratios need rows of one measurement"
            )
        pairs = sorted(b / t for b, t in zip(reference, row.times_ms, strict=True))
        low, coverage = _order_statistic(len(pairs))
        found[(row.name, row.shape)] = Ratio(
            value=float(np.median(pairs)),
            low=pairs[low],
            high=pairs[-1 - low],
            coverage=coverage,
            rounds=len(pairs),
        )
    return found


def _order_statistic(count: int, confidence: float = 0.95) -> tuple[int, float]:
    """The greatest k for which the k-th from either end hold the median with this confidence.

    Of ``count`` values each lies below the median with chance 1/2, so the chance that the interval
    misses is twice P(Binomial(count, 1/2) <= k).

    >>> _order_statistic(6)
    (0, 0.96875)
    """
    best = (0, 1.0 - 2.0 * 0.5**count)
    tail = 0.0
    for k in range((count - 1) // 2 + 1):
        tail += math.comb(count, k) * 0.5**count
        if 1.0 - 2.0 * tail < confidence:
            break
        best = (k, 1.0 - 2.0 * tail)
    return best


def _time(run: Runner, batch: Batch, loops: int, clock: Callable[[], int]) -> int:
    start = clock()
    for _ in range(loops):
        run(batch)
    return max(1, clock() - start)  # a coarse clock may not have moved


def _inner_loops(elapsed_ns: int) -> int:
    return min(MAX_INNER_LOOPS, max(1, math.ceil(MIN_SAMPLE_NS / elapsed_ns)))


def _row(
    name: str, batch_size: int, length: int, threads: int, loops: int, times: Sequence[float]
) -> LatencyRow:
    values = np.asarray(times)
    median = float(np.median(values))
    return LatencyRow(
        name=name,
        batch_size=batch_size,
        sequence_length=length,
        threads=threads,
        repeats=len(times),
        inner_loops=loops,
        median_ms=median,
        p95_ms=float(np.percentile(values, 95)),
        mean_ms=float(values.mean()),
        std_ms=float(values.std(ddof=1)) if len(times) > 1 else 0.0,
        throughput=1000.0 * batch_size / median,
        times_ms=tuple(times),
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# -- runners ---------------------------------------------------------------------------------------


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

    def __init__(self, model: nn.Module, threads: int) -> None:
        self.threads = threads
        self._model = model
        self._accepted = set(inspect.signature(model.forward).parameters)
        self._device = next(model.parameters()).device

    def __call__(self, batch: Batch) -> object:
        tensors = {
            name: torch.from_numpy(value).to(self._device)
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
        HFPruneError: if the file is missing, or for ``threads < 1``.
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
    return OnnxRunner(open_session(ort, Path(path), threads), threads)


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise HFPruneError(f"threads must be at least 1, got {threads}")


# -- sizes -----------------------------------------------------------------------------------------


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters of a classifier, each shared one counted once.

    Returns:
        ``total``: all. ``embeddings``: the weights of all ``nn.Embedding`` modules (tokens,
        positions, types, relative positions). ``encoder``: what is inside ``model.base_model`` and
        is no embedding, so layers, normalisations, and a pooler that belongs to the base model.
        The classifier's head is what is missing to the total.
    """
    base = getattr(model, "base_model", model)
    embeddings = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    encoder = sum(p.numel() for p in base.parameters() if id(p) not in embeddings)
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "encoder": encoder,
        "embeddings": sum(embeddings.values()),
    }


def count_macs(model: nn.Module, sequence_length: int | None = None) -> int:
    """Multiply-accumulates of one sequence, or one image, in one forward pass.

    Counted: every ``nn.Linear`` (and transformers' ``Conv1D``), as often and on as many positions
    as a real forward calls it, and the two matrix products of each attention block, from the width
    that its heads have left: ``2 * length^2 * heads * head_size``. Not counted: embeddings (of
    patches too), biases, normalisations, activations, softmax, and the products with positions in
    DeBERTa's attention. Attention with a local window or a causal mask counts as if it were full,
    which is how it is computed on CPUs.

    Args:
        model: a classifier of a supported family, dense or shrunk.
        sequence_length: tokens, all of them attended to. Left out for images, whose size the
            config names.

    Raises:
        UnsupportedModelError: for an unknown family.
        HFPruneError: if the model does not take sequences of this length.
    """
    views = block_views(model)
    mixers = {view.consumer for key, view in views.items() if key.kind == "attention"}
    total = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight: Any = module.weight
        positions = output.numel() // output.shape[-1]
        total += positions * weight.numel()
        if module in mixers:  # scores, and their product with the values
            total += 2 * positions**2 * inputs[0].shape[-1]

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        inputs = _one_sample(model, sequence_length)
        model.eval()
        with torch.inference_mode():
            model(**inputs)
    except (IndexError, RuntimeError) as error:
        raise HFPruneError(
            f"the model cannot run on a sequence of {sequence_length} tokens: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return total


def _one_sample(model: Any, sequence_length: int | None) -> dict[str, torch.Tensor]:
    """A batch of one, on the model's device."""
    config, parameter = model.config, next(model.parameters())
    if takes_images(model):
        if sequence_length is not None:
            raise HFPruneError(
                f"a {config.model_type!r} model takes images, whose number of patches is fixed; "
                "leave sequence_length out"
            )
        return {"pixel_values": parameter.new_zeros(1, *image_shape(config))}
    if sequence_length is None:
        raise HFPruneError(f"a {config.model_type!r} model needs a sequence_length")
    # Token 0 pads in some families; an explicit mask and a token above it keep them all.
    token = 1 if config.pad_token_id == 0 else 0
    ids = torch.full((1, sequence_length), token, dtype=torch.long, device=parameter.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def file_size(path: str | Path) -> int:
    """Bytes of a model file, with the files beside it that hold an ONNX graph's weights.

    Raises:
        HFPruneError: if the file is missing.
    """
    file = Path(path)
    if not file.is_file():
        raise HFPruneError(f"there is no file at {file}")
    # The names that Optimum and that PyTorch's own exporter give to external data.
    beside = [Path(f"{file}_data"), Path(f"{file}.data")] if file.suffix == ".onnx" else []
    return sum(part.stat().st_size for part in (file, *beside) if part.is_file())


# -- environment -----------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """What a measurement was made on. JSON-ready; holds no host name, user name or path.

    Returns:
        ``python``, ``platform``, ``machine``, ``cpu`` (model name or ``None``), ``cpu_count``
        (logical), ``cpu_usable`` (that this process may run on), ``instruction_set``, and
        ``libraries`` (name to version, ``None`` where not installed).
    """
    cpu, flags = read_cpu(CPUINFO)
    machine = platform.machine()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()}",
        "machine": machine,
        "cpu": cpu,
        "cpu_count": os.cpu_count(),
        "cpu_usable": usable_cpus(),
        "instruction_set": instruction_set(machine, flags),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # hfprune run from its source tree is imported, yet not installed.
        version = getattr(sys.modules.get(name), "__version__", None)
        return version if isinstance(version, str) else None
