"""The scores of heads and neurons by name, so that recipes know them without PyTorch.

How hfprune's own are computed is told in :mod:`hfprune.pruning.importance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from hfprune.core.errors import ExtensionError
from hfprune.core.registry import Registry

OWN_SCORES: Final = ("random", "magnitude", "taylor", "fisher")


@dataclass(frozen=True)
class WeightScore:
    """A score that is read off the model whenever it is pruned.

    Attributes:
        function: takes the model and the seed of the run; returns for every block (a key of
            :func:`hfprune.families.block_views`) a float tensor ``(units,)``, higher = keep. In a
            run of several processes each computes its own, so it must depend on nothing else.
    """

    function: Callable[[Any, int], Any]


@dataclass(frozen=True)
class GradientScore:
    """A score that is summed up while training, from gradients of the loss by the gates.

    Attributes:
        term: takes one optimizer step's gradients of a block, float32 ``(units,)`` on the CPU;
            returns what is added to its running sum, of the same shape. Higher = keep.
    """

    term: Callable[[Any], Any]


Score: TypeAlias = WeightScore | GradientScore


def _check(name: str, score: Any) -> None:
    if name in OWN_SCORES:
        raise ExtensionError(f"the score {name!r} is hfprune's own: choose another name")
    if not isinstance(score, WeightScore | GradientScore):
        raise ExtensionError(
            f"the score {name!r} is given {score!r}; expected a WeightScore or a GradientScore of "
            "hfprune.core.scores"
        )
    function = score.function if isinstance(score, WeightScore) else score.term
    if not callable(function):
        raise ExtensionError(f"the score {name!r} holds {function!r}; expected a function")


SCORES: Final = Registry[Score]("score", "scores", check=_check)
"""Scores that others have added."""


def score_names() -> tuple[str, ...]:
    """All that ``pruning.score`` may be: hfprune's own, then what others have added."""
    return (*OWN_SCORES, *SCORES.names())


def register_score(name: str, score: Score, *, replace: bool = False) -> None:
    """Add a score for ``pruning.score`` (method: gates).

    Args:
        name: as recipes spell it.
        score: a :class:`WeightScore` or a :class:`GradientScore`.
        replace: whether it may take the place of another that was added.

    Raises:
        ExtensionError: for another kind of value, and for a name that is taken.

    Example:
        >>> register_score("cubed", GradientScore(lambda gradient: gradient.abs() ** 3))
    """
    SCORES.register(name, score, replace=replace)
