"""How long a run may take: a guess from sizes, told as a range because it is one.

The rates come from the demonstration (MiniLM, 3,200 sentences, two cores: its teacher computes
about 110 GFLOP a second) and hold within a factor of two on like machines. The run itself tells
what is left from its own pace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hfprune.recipe.sections.whole import Recipe

# Floating-point operations a second of one core, in training.
RATE: Final = 55e9
# The guess, less and more than it.
RANGE: Final = (0.6, 1.9)
# MiniLM's blocks, of which the fixed times below are.
_MINILM: Final = 10.6e6
# Seconds: loading and fixed work of all stages; timing of blocks; reconstruction of MiniLM's
# blocks; the search for int8 settings of two models; benchmark and evaluation.
_FIXED, _BLOCKS, _PRUNING, _INT8, _BENCHMARK = 45.0, 110.0, 110.0, 2 * 120.0, 90.0
# Candidates that are tried before one goes on, and steps of a search for a drop.
_TRIALS, _STEPS = 3, 6
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
        fine_tunes: whether the teacher is trained.
        keep: fraction of the weights that stays, about.
        searches: whether speeds are stepped up to a drop.
        times_blocks: whether the target is a speed.
        reconstructs, pruning_epochs: whether pruning goes without training, or for so long.
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


def stage_seconds(work: Work) -> dict[str, float]:
    """Seconds of each kind of stage, as the run names them; training costs 6 operations a weight
    and token, a forward pass 2.

    >>> work = Work(3200, 2114, 27.0, 10_600_000, 2, 2, 3, 1, 0, True, 0.35, False, True)
    >>> {name: round(value) for name, value in stage_seconds(work).items()}["teacher"]
    100
    """
    weights = work.weights or UNKNOWN
    size = weights / _MINILM
    epoch = work.rows * work.tokens * weights / (RATE * work.cores)
    small = (6 * work.keep + 2) * epoch  # the teacher's answers once more
    tests = 8 * work.test_rows * work.tokens * weights / (RATE * work.cores)
    return {
        "data": 5.0,
        "teacher": 6 * epoch * work.teacher_epochs if work.fine_tunes else 1.0,
        "baseline": 10.0,
        "latency": _BLOCKS * max(1.0, size**0.5) if work.times_blocks else 0.0,
        "reconstruct": _PRUNING * size if work.reconstructs else 0.0,
        "prune": 0.0 if work.reconstructs else 8 * epoch * work.pruning_epochs,
        "trial": _TRIALS * small * work.trial_epochs if work.reconstructs else 0.0,
        "recover": small * work.recovery_epochs * (1 + work.augmentation),
        "export": _INT8,
        "evaluate": 15.0 + tests,
        "benchmark": _BENCHMARK,
    }


def seconds_of(work: Work) -> tuple[float, float]:
    """Seconds that the run may take, at least and at most."""
    stages = stage_seconds(work)
    once = sum(stages[name] for name in _PER_MODEL)
    found = _FIXED + sum(stages.values()) + once * (_STEPS - 1 if work.searches else 0)
    return RANGE[0] * found, RANGE[1] * found


def planned_stages(recipe: Recipe, work: Work) -> list[tuple[str, float]]:
    """The stages of a run in order, with the seconds that are expected of each.

    Of a search for a drop, whose number of steps nobody knows, the first few.
    """
    pruning, seconds = recipe.pruning, stage_seconds(work)
    plan = [("data", seconds["data"]), ("teacher", seconds["teacher"])]
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
        if recipe.recovery.num_train_epochs > 0:
            plan.append((f"recover{suffix}", seconds["recover"]))
        if pruning.max_metric_drop is not None:
            plan.append((f"validate{suffix}", seconds["export"] / 2))
    plan.append(("export", seconds["export"] * (1 + len(suffixes)) / 2))
    if recipe.deploy is not None:
        plan.append(("deploy", seconds["export"]))
    return [*plan, ("evaluate", seconds["evaluate"]), ("benchmark", seconds["benchmark"])]


def work_of(
    recipe: Recipe, *, rows: int, test_rows: int, tokens: float, weights: int | None, cores: int
) -> Work:
    """What a recipe has to do with these rows and this model; arguments as of :class:`Work`."""
    distillation, pruning = recipe.distillation, recipe.pruning
    return Work(
        rows=rows,
        test_rows=test_rows,
        tokens=tokens,
        weights=weights,
        cores=cores,
        teacher_epochs=recipe.teacher.num_train_epochs or recipe.training.num_train_epochs,
        recovery_epochs=recipe.recovery.num_train_epochs,
        trial_epochs=1.0 if pruning.trial_epochs is None else pruning.trial_epochs,
        augmentation=0 if distillation is None else distillation.augmentation,
        fine_tunes=recipe.teacher.name_or_path is None,
        keep=0.35 if pruning.sparsity is None else 1 - pruning.sparsity,
        searches=pruning.max_metric_drop is not None,
        times_blocks=pruning.speedup is not None or pruning.max_metric_drop is not None,
        reconstructs=pruning.method == "reconstruction",
        pruning_epochs=recipe.training.num_train_epochs,
    )


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
