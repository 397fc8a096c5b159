"""The trackers that transformers' Trainer can log to, and the packages that they need."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from hfprune.core.errors import MissingExtraError, RecipeError
from hfprune.core.text import one_line

# Tracker -> packages that it needs, all of one of the alternatives.
TRACKERS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "azure_ml": (("azureml",),),
    "clearml": (("clearml",),),
    "codecarbon": (("codecarbon",),),
    "comet_ml": (("comet_ml",),),
    "dagshub": (("dagshub", "mlflow"),),
    "dvclive": (("dvclive",),),
    "flyte": (("flytekit",),),
    "mlflow": (("mlflow",),),
    "neptune": (("neptune",),),
    "swanlab": (("swanlab",),),
    "tensorboard": (("tensorboard",), ("tensorboardX",)),
    "trackio": (("trackio",),),
    "wandb": (("wandb",),),
}
# Those that are installed; none.
_WORDS: Final = ("all", "none")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be logged to here, before a training starts.

    Args:
        names: of ``training.report_to``.

    Raises:
        RecipeError: transformers knows no such tracker.
        MissingExtraError: a package is not installed; names it.
    """
    for name in names:
        if name in _WORDS and len(names) == 1:
            continue
        if name not in TRACKERS:
            near = difflib.get_close_matches(name, TRACKERS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RecipeError(
                f"training.report_to names {one_line(repr(name), 80)}, which is no tracker of "
                f"transformers' Trainer; expected some of {', '.join(TRACKERS)}, or [].{hint}"
            )
        choices = TRACKERS[name]
        if not any(all(map(_installed, packages)) for packages in choices):
            missing = [package for package in choices[0] if not _installed(package)]
            raise MissingExtraError(
                f"training.report_to names {name}, which needs {' and '.join(missing)}, not "
                f"installed here: pip install {' '.join(missing)}, or take {name} out of the list"
            )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
