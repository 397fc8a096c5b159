"""What a run may take in all: minutes, memory and disk, from sizes alone.

Time is :mod:`hfprune.early.duration`'s. Memory is that of the run's process at the peak of each
stage, float32 on a CPU; the constants are of BERT shapes. ``scripts/make_scale.py`` writes what
this says, beside what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hfprune.core.errors import HFPruneError
from hfprune.core.machine import usable_cpus
from hfprune.data.readers.paths import listed
from hfprune.early.duration import RANGE, USUAL, Rates, in_words, planned_stages, work_of
from hfprune.early.model import look_at
from hfprune.early.rows import read_head
from hfprune.early.shape import labels_of, shape_of
from hfprune.recipe.sections.whole import Recipe

# Bytes: a process with PyTorch, transformers and ONNX Runtime loaded; of a row of text as read, and
# of one of its token ids as kept (ids in 32 bits, the mask in 8, and a copy in passing).
PROCESS: Final = 0.8e9
ROW: Final = 400.0
TOKEN: Final = 10.0
# Of a token in training: activations that are kept for the way back, for each layer and feature
# (34 bytes of float16, Korthikanti et al. 2022), in float32 and without scores of attention.
ACTIVATION: Final = 68.0
# Weights, their gradients, and two moments of Adam.
TRAINED: Final = 16.0
# A teacher's answers of up to so many bytes are kept in float32.
_EXACT: Final = 2**28
# Texts of a file's head whose tokens are counted.
_MEASURED: Final = 500


@dataclass(frozen=True)
class Sizes:
    """What decides over memory and disk.

    Attributes:
        rows: of all splits, read and tokenized; texts of ``tokens`` tokens on average.
        longest: tokens of the longest row.
        layers, width, inner, vocabulary, labels: of the model.
        batch: rows of a training batch.
        memory: bytes of ``pruning.memory_gb``.
        cache: bytes of ``distillation.cache_limit_gb``.
        keep: fraction of the blocks' weights that stays.
        candidates: models that are tried.
        training_rows: rows to learn from, variations included; what the teacher answers on.
        hidden_rows: those of them whose hidden states are kept; ``None``: all.
        read: texts as read, which a limit may leave out; ``None``: as many as rows.
        recomputes: whether activations are computed once more on the way back, not kept.
        fine_tunes: whether the dense model is trained.
        scored: rows that a reconstruction looks at.
        in_groups: whether it looks at as many blocks at a time as ``memory`` allows.
    """

    rows: int
    tokens: float
    longest: int
    layers: int
    width: int
    inner: int
    vocabulary: int
    labels: int
    batch: int = 32
    memory: float = 2e9
    cache: float = 4e9
    keep: float = 0.35
    candidates: int = 3
    training_rows: int = 0
    reconstructs: bool = True
    times_blocks: bool = True
    hidden_rows: int | None = None
    read: int | None = None
    recomputes: bool = False
    fine_tunes: bool = True
    scored: int = 1024
    in_groups: bool = True

    @property
    def blocks(self) -> float:
        """Weights of all blocks."""
        return float(self.layers * (4 * self.width**2 + 2 * self.width * self.inner))

    @property
    def weights(self) -> float:
        """All weights: blocks, embeddings, head."""
        return self.blocks + self.width * (self.vocabulary + self.labels + self.width)


def stage_memory(sizes: Sizes) -> dict[str, float]:
    """Bytes that the process holds at the peak of each stage, about.

    >>> bert = Sizes(20_000, 128.0, 128, 12, 768, 3072, 30522, 2, training_rows=16_000)
    >>> {name: round(value / 1e8) for name, value in stage_memory(bert).items()}["teacher"]
    51
    """
    model = 4 * sizes.weights
    rows = PROCESS + sizes.rows * (ROW / 10 + TOKEN * sizes.tokens)
    # Recomputed: what goes into each layer is kept, and all of one layer at a time.
    kept = ACTIVATION / sizes.layers + 4.0 if sizes.recomputes else ACTIVATION
    batch = sizes.batch * sizes.longest * sizes.layers * sizes.width * kept
    training = TRAINED * sizes.weights + batch
    answers = 4.0 * sizes.training_rows * sizes.labels
    answers /= 2 if answers > _EXACT else 1  # many are kept in half of the bytes
    looked_at = sizes.training_rows if sizes.hidden_rows is None else sizes.hidden_rows
    states = looked_at * sizes.tokens * sizes.layers * sizes.width * 2
    learned = answers + (states if states <= sizes.cache else 0.0)
    small = sizes.weights - (1 - sizes.keep) * sizes.blocks
    distilled = model + TRAINED * small + batch * (sizes.keep + 0.3) + learned
    # Moments (twice while a level is made), levels, targets and a scoring batch, each within the
    # budget. Rows are read while levels of earlier blocks are held.
    square = 16.0 * (sizes.inner**2 + sizes.width**2)
    every = sizes.layers * square
    moments = min(sizes.memory, every) if sizes.in_groups else every / 2 + square
    gathered = min(sizes.memory, every) / 2 if sizes.in_groups else every / 2
    levels = min(sizes.memory, sizes.layers * 4.0 * sizes.width * (sizes.inner + sizes.width) * 7)
    earlier = levels * max(0.0, 1 - sizes.memory / every) if sizes.in_groups else 0.0
    scoring = min(sizes.memory, 64 * sizes.longest * sizes.layers * sizes.width * 90.0)
    # What enters a layer of the model, and where not all targets find room, of the teacher's.
    entering = min(sizes.memory, sizes.scored * sizes.tokens * sizes.width * 4.0)
    targets = sizes.scored * sizes.tokens * sizes.width * 8.0 * sizes.layers
    refit = entering + (
        targets if targets <= sizes.memory else max(sizes.memory - entering, entering)
    )
    pruned = max(earlier + gathered + scoring, levels + max(moments, refit))
    # Probes of four layers, int8, thirty of them; the dense file beside them.
    probes = 30 * 4 * (sizes.blocks / sizes.layers) * 0.6
    return {
        "data": rows + (sizes.rows if sizes.read is None else sizes.read) * ROW,
        "embeddings": rows + 2 * model,
        "teacher": rows + (training if sizes.fine_tunes else 2 * model),
        "latency": rows + 3 * model + (probes if sizes.times_blocks else 0.0),
        "reconstruct": rows + 3 * model + pruned if sizes.reconstructs else 0.0,
        "prune": 0.0 if sizes.reconstructs else rows + training + model + learned,
        "trial": rows + distilled,
        "recover": rows + distilled,
        "export": rows + 4 * model,
        "evaluate": rows + 3 * model,
        "benchmark": rows + 3 * model,
    }


def disk(sizes: Sizes) -> float:
    """Bytes that the work folder and what a run leaves take at most, about.

    The teacher with a checkpoint to resume from, the dense file, each candidate, the pruned model
    as PyTorch, ONNX and int8; prepared rows; levels beyond the budget.
    """
    model = 4 * sizes.weights
    small = 4 * (sizes.weights - (1 - sizes.keep) * sizes.blocks)
    rows = sizes.rows * (ROW + TOKEN * sizes.tokens)
    levels = sizes.layers * 4.0 * sizes.width * (sizes.inner + sizes.width) * 7
    beyond = max(0.0, levels - sizes.memory) if sizes.reconstructs else 0.0
    return (1 + 3 + 1.25) * model + (sizes.candidates + 3 + 2.25) * small + rows + beyond


@dataclass(frozen=True)
class Cost:
    """What a run may take.

    Attributes:
        seconds: at least and at most.
        memory, disk: bytes, at the peak.
        stages: name, seconds that are expected, and bytes of memory at its peak, in order.
    """

    seconds: tuple[float, float]
    memory: float
    disk: float
    stages: tuple[tuple[str, float, float], ...]

    def in_words(self) -> str:
        """For a person.

        >>> Cost((1500.0, 4700.0), 6.2e9, 2.1e9, ()).in_words()
        'about 25 to 78 minutes, 6.2 GB of memory, 2.1 GB of disk'
        """
        time = in_words(self.seconds)
        time = time if time.startswith("about") else f"about {time}"
        return f"{time}, {self.memory / 1e9:.1f} GB of memory, {self.disk / 1e9:.1f} GB of disk"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "seconds": list(map(round, self.seconds)),
            "memory_bytes": round(self.memory),
            "disk_bytes": round(self.disk),
            "stages": [
                {"stage": name, "seconds": round(seconds, 1), "memory_bytes": round(memory)}
                for name, seconds, memory in self.stages
            ],
        }


def cost_of(recipe: Recipe, rates: Rates = USUAL, cores: int | None = None) -> Cost | None:
    """What a run of a recipe may take here, from its files' heads and the model's small files.

    Returns:
        ``None`` where rows or sizes are not known beforehand: names on the Hub, images.
    """
    files = listed(recipe.data.train_file)
    if not files or recipe.task == "image_classification":
        return None
    name = recipe.teacher.name_or_path or recipe.model.name_or_path
    try:
        facts = look_at(name, "model.name_or_path")
        heads = [
            read_head(
                file, format=recipe.data.format, encoding=recipe.data.encoding, most=_MEASURED
            )
            for file in files
        ]
    except (HFPruneError, OSError):  # what is wrong is told by the checks
        return None
    if facts.block_weights is None:
        return None
    data = recipe.data
    shape = shape_of(recipe, heads[0].columns, facts)
    whole = sum(head.total for head in heads)
    tested, validated, more = (
        sum(_rows(file, recipe) for file in listed(files))
        for files in (data.test_file, data.validation_file, data.unlabeled_file)
    )
    test_rows = tested or round(data.test_fraction * whole)
    held = validated or round(data.validation_fraction * whole)
    train = whole - (0 if tested else test_rows) - (0 if validated else held)
    # Of texts; a model reads windows of them.
    rows, test_rows, held = (
        round(shape.rows_a_text * min(count, limit or count))
        for count, limit in (
            (train, data.max_train_samples),
            (test_rows, data.max_test_samples),
            (held, data.max_validation_samples),
        )
    )
    unlabeled = 0 if recipe.distillation is None else more + round(rows * shape.rest_a_text)
    work = work_of(
        recipe,
        rows=rows,
        test_rows=test_rows,
        tokens=shape.tokens,
        weights=facts.block_weights,
        cores=cores or usable_cpus(),
        layers=facts.layers,
        width=facts.width,
        unlabeled=unlabeled,
    )
    distillation = recipe.distillation
    width = facts.width or 768
    sizes = Sizes(
        rows=rows + test_rows + held + unlabeled,
        tokens=shape.tokens,
        longest=max(shape.lengths),
        layers=facts.layers or 12,
        width=width,
        inner=facts.inner or 4 * width,
        vocabulary=facts.vocabulary or 30_000,
        labels=labels_of(recipe, heads[0].columns, facts),
        batch=recipe.training.per_device_train_batch_size,
        memory=1e9 * recipe.pruning.memory_gb,
        cache=0.0
        if distillation is None or not distillation.hidden_weight
        else 1e9 * distillation.cache_limit_gb,
        keep=work.keep,
        training_rows=0 if distillation is None else round(rows * work.taught),
        hidden_rows=rows + unlabeled,
        read=whole + tested + validated + more,
        recomputes=work.recomputes,
        fine_tunes=work.fine_tunes,
        reconstructs=work.reconstructs,
        times_blocks=work.times_blocks,
        scored=min(rows, work.scored),
        in_groups=recipe.pruning.selection == "obs",
    )
    planned = planned_stages(recipe, work, rates)
    expected = rates.fixed + sum(seconds for _, seconds in planned)
    memory = stage_memory(sizes)
    stages = tuple(
        (stage, seconds, memory.get(stage.split()[0], PROCESS)) for stage, seconds in planned
    )
    return Cost(
        seconds=(RANGE[0] * expected, RANGE[1] * expected),
        memory=max(peak for _, _, peak in stages),
        disk=disk(sizes),
        stages=stages,
    )


def _rows(file: str, recipe: Recipe) -> int:
    try:
        found = read_head(
            file, format=recipe.data.format, encoding=recipe.data.encoding, most=_MEASURED
        )
    except (HFPruneError, OSError):
        return 0
    return found.total
