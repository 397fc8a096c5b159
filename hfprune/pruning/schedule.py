"""Training progress in [0, 1] -> fraction of the pruning target that is due; pure floats.

>>> fraction("linear", 0.25, start=0.0, end=0.5)
0.5
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

from hfprune.core.errors import RecipeError

ScheduleKind: TypeAlias = Literal["one_shot", "linear", "cubic"]


def fraction(kind: ScheduleKind, progress: float, start: float, end: float) -> float:
    """How much of the sparsity target is due at a point of the training.

    Args:
        kind: ``one_shot`` jumps from 0 to 1 at ``start`` (``end`` is not used); ``linear`` rises
            at a constant rate from ``start`` to ``end``; ``cubic`` is ``1 - (1 - t)^3`` with ``t``
            the linear fraction: fast while much is redundant, slow near the target
            (Zhu & Gupta 2017, "To prune, or not to prune").
        progress: steps done / steps in all, in [0, 1].
        start: progress at which pruning begins, in [0, 1].
        end: progress from which the whole target is due, in [``start``, 1].

    Returns:
        A fraction in [0, 1], never falling as ``progress`` grows: 0 before ``start``, 1 from
        ``end`` on. With ``start == end`` every kind jumps there.

    Raises:
        RecipeError: unknown kind, a value outside [0, 1] (or not a number), ``start > end`` where
            ``end`` is used.
    """
    if kind not in get_args(ScheduleKind):
        known = ", ".join(get_args(ScheduleKind))
        raise RecipeError(f"unknown schedule {kind!r}: choose one of {known}")
    for name, value in (("progress", progress), ("start", start), ("end", end)):
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise RecipeError(f"schedule: {name} must be within [0, 1], got {value!r}")
    if kind != "one_shot" and start > end:
        raise RecipeError(f"schedule: start ({start!r}) must not be after end ({end!r})")

    if progress < start:
        return 0.0
    if kind == "one_shot" or progress >= end:
        return 1.0
    t = (progress - start) / (end - start)
    if kind == "linear":
        return t
    left = 1.0 - t
    # A product, not a power: rounding keeps each product monotone in `left`.
    return 1.0 - left * left * left
