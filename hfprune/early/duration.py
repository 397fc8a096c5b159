"""How long a run may take: a guess from sizes, told as a range because it is one.

The rates come from the demonstration (MiniLM, 3,200 sentences, two cores: its teacher computes
about 110 GFLOP a second) and hold within a factor of two on like machines;
``scripts/cost_model.py`` measures them where a run is to be. The run itself tells what is left from
its own pace. What memory and disk it takes is in :mod:`hfprune.early.cost`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hfprune.recipe.sections.whole import Recipe

# The guess, less and more than it.
RANGE: Final = (0.6, 1.9)
# MiniLM's blocks, of which the fixed times below are.
_MINILM: Final = 10.6e6
# Seconds to write one model's files, and to open and check those that are chosen among.
_EXPORT, _OPENED = 2.5, 30.0
# Models that a table of times takes.
_PROBES: Final = 30


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second, and what does not shrink with the work.

    Attributes:
        flops: floating-point operations a second of one core, in training in float32.
        bf16: so many times as fast are trainings where the recipe allows bfloat16.
        moments: the same of second moments and their solutions, all cores together.
        probes: seconds for a model that is exported and timed (MiniLM's size).
        rows: rows a second that are read, checked, split and tokenized, of 64 tokens.
        fixed: seconds of loading and the fixed work of all stages.
        export: seconds of the search for int8 settings of one model.
        benchmark: seconds of the benchmark at the end.
    """

    flops: float = 55e9
    bf16: float = 1.0
    moments: float = 40e9
    probes: float = 2.0
    rows: float = 5300.0
    fixed: float = 45.0
    export: float = 120.0
    benchmark: float = 90.0


USUAL: Final = Rates()
# What int8 alone brings.
_INT8: Final = 2.8
# Candidates that are tried before one goes on, and steps of a search for a drop.
_TRIALS, _STEPS = 3, 6
# Trials in all, of the recipe's length: of two of these candidates, every other time, twice more.
_TRIED: Final = _TRIALS + 2
# Rows that a search judges by, and their tokens: as many as give the first of these.
JUDGED: Final = (256, 32_768)
# What is done for each model that is tried.
_PER_MODEL: Final = ("reconstruct", "prune", "trial", "recover")
# Weights where a model is not here yet: as if it were one of the base size.
UNKNOWN: Final = 85e6


@dataclass(frozen=True)
class Work:
    """What a run has to do.

    Attributes:
        rows, test_rows: to learn from and to report on.
        tokens: of a row on average, cut.
        weights: of all blocks; ``None`` where they are not known.
        cores: that train.
        teacher_epochs, recovery_epochs, trial_epochs, augmentation: of the recipe.
        unlabeled: rows that are learned from besides, as the teacher labels them.
        fine_tunes: whether the teacher is trained.
        embeds: whether the teacher's embeddings of all rows are their labels.
        keep: fraction of the weights that stays, about.
        searches: whether speeds are stepped up to a drop.
        times_blocks: whether the target is a speed.
        reconstructs, pruning_epochs: whether pruning goes without training, or for so long.
        layers, width: of the model, for the work of attention, which grows with the length;
            0: left out.
        scored: rows that a reconstruction looks at.
        search_rounds: of its search.
        memory: bytes that moments of blocks may take; it looks once at the rows for as many blocks
            as find room.
        bf16: whether trainings may compute in bfloat16.
        recomputes: whether trainings go forward once more to save memory.
    """

    rows: int
    test_rows: int
    tokens: float
    weights: int | None
    cores: int
    teacher_epochs: float
    recovery_epochs: float
    trial_epochs: float
    augmentation: int
    fine_tunes: bool
    keep: float
    searches: bool
    times_blocks: bool
    reconstructs: bool = True
    pruning_epochs: float = 3.0
    layers: int = 0
    width: int = 0
    scored: int = 1024
    search_rounds: int = 60
    memory: float = 2e9
    bf16: bool = False
    recomputes: bool = False
    unlabeled: int = 0
    embeds: bool = False

    @property
    def taught(self) -> float:
        """Rows that are learned from a teacher in an epoch, over the training rows."""
        return (1 + self.unlabeled / max(1, self.rows)) * (1 + self.augmentation)

    @property
    def per_token(self) -> float:
        """Multiplications a token: weights of blocks, and attention to the row's other tokens."""
        weights = UNKNOWN if self.weights is None else self.weights
        return weights + 2.0 * self.layers * self.tokens * self.width


def stage_seconds(work: Work, rates: Rates = USUAL) -> dict[str, float]:
    """Seconds of each kind of stage, as the run names them; training costs 6 operations a weight
    and token, a forward pass 2.

    No term grows faster than the number of rows.

    >>> work = Work(3200, 2114, 27.0, 10_600_000, 2, 2, 3, 1, 0, True, 0.35, False, True)
    >>> {name: round(value) for name, value in stage_seconds(work).items()}["teacher"]
    100
    """
    size = (work.weights or UNKNOWN) / _MINILM
    pace = rates.flops * work.cores
    forward = work.rows * work.tokens * work.per_token / pace
    epoch = forward / rates.bf16 if work.bf16 else forward
    # Forward, and twice that back.
    step = 8 if work.recomputes else 6
    small = work.taught * (step * work.keep * epoch + 2 * forward)  # the teacher's answers too
    gated = (step + 2) * epoch
    embedded = 2 * (work.rows + work.test_rows) * work.tokens * work.per_token / pace
    tests = 8 * work.test_rows * work.tokens * work.per_token / pace
    rows = work.rows + work.test_rows + work.unlabeled
    # Probes of four layers: time goes with their weights, and much of it does not.
    timed = _PROBES * rates.probes * (0.5 + 0.5 * size)
    return {
        "data": 5.0 + rows / rates.rows * max(0.3, work.tokens / 64),
        "embeddings": embedded if work.embeds else 0.0,
        "teacher": step * epoch * work.teacher_epochs if work.fine_tunes else 1.0,
        "baseline": 10.0,
        "latency": timed if work.times_blocks else 0.0,
        "reconstruct": _reconstruction(work, rates) if work.reconstructs else 0.0,
        "prune": 0.0 if work.reconstructs else work.taught * gated * work.pruning_epochs,
        "trial": _TRIED * small * work.trial_epochs if work.reconstructs else 0.0,
        "recover": small * work.recovery_epochs,
        "export": 2 * rates.export,
        "evaluate": 15.0 + tests,
        "benchmark": rates.benchmark,
    }


def _reconstruction(work: Work, rates: Rates) -> float:
    """Seconds of moments, levels, a search over some rows, landing, refits.

    Moments take ``d^2`` operations a token and block, levels about ``6 d^3`` a block.
    """
    layers, width = work.layers or 12, work.width or 768
    scored = max(1, min(work.scored, work.rows))
    tokens = scored * work.tokens
    inner = max(1.0, ((work.weights or UNKNOWN) / layers - 4 * width**2) / (2 * width))
    squares, cubes = inner**2 + width**2, inner**3 + width**3
    # Forward and back for each group of blocks; a search on some of the rows and refits of both
    # blocks of each layer, of small models at twice training's pace.
    looks = 6 * max(1, math.ceil(16.0 * layers * squares / work.memory))
    judged = min(1.0, JUDGED[0] / scored, max(1.0, JUDGED[1] / max(1.0, work.tokens)) / scored)
    passes = looks + ((work.search_rounds + 1) * judged + 2 * _TRIALS) * work.keep
    forward = passes * tokens * work.per_token / (rates.flops * work.cores)
    moments = layers * (2 * tokens * squares * (1 + _TRIALS) + 6 * cubes) / rates.moments
    landings = _TRIALS * 4 * rates.probes * (work.weights or UNKNOWN) / _MINILM
    return float(forward + moments + (landings if work.times_blocks else 0.0))


def seconds_of(work: Work, rates: Rates = USUAL) -> tuple[float, float]:
    """Seconds that the run may take, at least and at most."""
    stages = stage_seconds(work, rates)
    once = sum(stages[name] for name in _PER_MODEL)
    found = rates.fixed + sum(stages.values()) + once * (_STEPS - 1 if work.searches else 0)
    return RANGE[0] * found, RANGE[1] * found


def planned_stages(recipe: Recipe, work: Work, rates: Rates = USUAL) -> list[tuple[str, float]]:
    """The stages of a run in order, with the seconds that are expected of each.

    Of a search for a drop, whose number of steps nobody knows, the first few.
    """
    pruning, seconds = recipe.pruning, stage_seconds(work, rates)
    plan = [("data", seconds["data"])]
    if work.embeds:
        plan.append(("embeddings", seconds["embeddings"]))
    plan.append(("teacher", seconds["teacher"]))
    if pruning.vocabulary is not None:
        plan += [("vocabulary", 5.0), ("tokens", 5.0)]
    suffixes = [""]
    if isinstance(pruning.speedup, list):
        suffixes = [f" {speed:g}x" for speed in pruning.speedup]
    elif pruning.max_metric_drop is not None:
        plan.append(("validate dense", seconds["export"] / 2))
        suffixes = [f" {speed:g}x" for speed in (3.0, 3.9, 5.07)]
    timed = pruning.speedup is not None or pruning.max_metric_drop is not None
    if timed:
        plan.append(("baseline", seconds["baseline"]))
    for suffix in suffixes:
        if timed:
            first = suffix == suffixes[0]
            plan.append((f"latency{suffix}", seconds["latency"] if first else 5.0))
        if pruning.method == "reconstruction":
            plan.append((f"reconstruct{suffix}", seconds["reconstruct"]))
            plan.append((f"trial{suffix}", seconds["trial"]))
        else:
            plan.append((f"prune{suffix}", seconds["prune"]))
        if recipe.recovery.trains:
            plan.append((f"recover{suffix}", seconds["recover"]))
        if pruning.max_metric_drop is not None:
            plan.append((f"validate{suffix}", seconds["export"] / 2))
    models = 1 + len(suffixes)
    if recipe.deploy is None:
        plan.append(("export", seconds["export"] * models / 2))
    else:  # settings are chosen there
        plan.append(("export", _EXPORT * models))
        plan.append(("deploy", (recipe.deploy.seconds + _OPENED) * models))
    return [*plan, ("evaluate", seconds["evaluate"]), ("benchmark", seconds["benchmark"])]


def work_of(
    recipe: Recipe,
    *,
    rows: int,
    test_rows: int,
    tokens: float,
    weights: int | None,
    cores: int,
    layers: int | None = None,
    width: int | None = None,
    unlabeled: int = 0,
) -> Work:
    """What a recipe has to do with these rows and this model; arguments as of :class:`Work`."""
    distillation, pruning = recipe.distillation, recipe.pruning
    embeds = recipe.task == "sentence_embedding"
    return Work(
        rows=rows,
        test_rows=test_rows,
        tokens=tokens,
        weights=weights,
        cores=cores,
        teacher_epochs=recipe.teacher.num_train_epochs or recipe.training.num_train_epochs,
        # Of rounds two, as often as not: the second one helps a little, the third one no more.
        recovery_epochs=min(2, recipe.recovery.most_rounds) * recipe.recovery.round_epochs,
        trial_epochs=pruning.epochs_of_trial,
        augmentation=0 if distillation is None else distillation.augmentation,
        fine_tunes=recipe.teacher.name_or_path is None and not embeds,
        embeds=embeds,
        keep=_kept(recipe),
        searches=pruning.max_metric_drop is not None,
        times_blocks=pruning.speedup is not None or pruning.max_metric_drop is not None,
        reconstructs=pruning.method == "reconstruction",
        pruning_epochs=recipe.training.num_train_epochs,
        layers=layers or 0,
        width=width or 0,
        scored=pruning.scoring_samples,
        search_rounds=pruning.search_rounds,
        # Other scores compare all blocks, which are then looked at together.
        memory=1e9 * pruning.memory_gb if pruning.selection == "obs" else math.inf,
        bf16=recipe.training.bf16 in (True, "auto"),
        recomputes=recipe.training.gradient_checkpointing,
        unlabeled=0 if distillation is None else unlabeled,
    )


def _kept(recipe: Recipe) -> float:
    pruning = recipe.pruning
    if pruning.sparsity is not None:
        return 1 - pruning.sparsity
    speeds = pruning.speedup if isinstance(pruning.speedup, list) else [pruning.speedup]
    known = [speed for speed in speeds if speed is not None]
    eight_bit = recipe.export.quantization is not None
    return sum(kept_at(speed, eight_bit) for speed in known) / len(known) if known else 0.35


def kept_at(speedup: float, eight_bit: bool = True) -> float:
    """About what fraction of the blocks' weights a speed leaves.

    int8 gives a part of it; the rest is the price of blocks whose fixed costs stay. MiniLM with
    VNNI kept 37, 17 and 11 % at 6, 10 and 16 times.

    >>> [round(kept_at(speed), 2) for speed in (2, 6, 10, 16)]
    [1.0, 0.34, 0.17, 0.09]
    """
    alone = speedup / (_INT8 if eight_bit else 1.0)
    return float(min(1.0, alone**-1.4))


def in_words(seconds: tuple[float, float]) -> str:
    """A range for a person.

    >>> in_words((500.0, 1500.0)), in_words((5000.0, 16000.0)), in_words((10.0, 50.0))
    ('8 to 25 minutes', '1.4 to 4.4 hours', 'about a minute')
    """
    low, high = seconds
    if high < 90:
        return "about a minute"
    if high < 5400:
        return f"{max(1, round(low / 60))} to {round(high / 60)} minutes"
    return f"{low / 3600:.1f} to {high / 3600:.1f} hours"
