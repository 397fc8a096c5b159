"""How long a run may take: a guess from sizes, told as a range because it is one.

The rates come from the demonstration (MiniLM, 3,200 sentences, two cores: its teacher computes
about 110 GFLOP a second) and hold within a factor of two on like machines. The run itself tells
what is left from its own pace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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


def seconds_of(work: Work) -> tuple[float, float]:
    """Seconds that the run may take, at least and at most.

    Training costs 6 operations a weight and token, a forward pass 2.
    """
    weights = work.weights or UNKNOWN
    rate = RATE * work.cores
    epoch = work.rows * work.tokens * weights / rate
    teacher = 6 * epoch * work.teacher_epochs if work.fine_tunes else 0.0
    small = 6 * work.keep + 2  # the teacher's answers once more
    epochs = work.recovery_epochs * (1 + work.augmentation) + _TRIALS * work.trial_epochs
    one = _PRUNING * weights / _MINILM + small * epoch * epochs
    tests = 8 * work.test_rows * work.tokens * weights / rate
    found = _FIXED + teacher + one * (_STEPS if work.searches else 1) + _INT8 + _BENCHMARK + tests
    found += _BLOCKS * max(1.0, (weights / _MINILM) ** 0.5) if work.times_blocks else 0.0
    return RANGE[0] * found, RANGE[1] * found


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
