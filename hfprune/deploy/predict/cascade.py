"""A cascade of two models of a family: the fast one answers when it is sure, else the slow one.

:func:`choose_threshold` is a pure function of measured numbers; :class:`Cascade` is
``cascade.json``, which ``hfprune predict`` serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hfprune.core.errors import DataError, OutputError
from hfprune.core.files import atomic_write_json
from hfprune.core.reading import read_json
from hfprune.deploy.predict.answers import softmax

CASCADE_FILE: Final = "cascade.json"
MOST_THRESHOLDS: Final = 200
# What a cascade may lose where nobody says it, as a quantized file may: no drop at all would ask
# that the two members agree on all that the fast one answers.
MAX_DROP: Final = 0.002
# Tasks whose answers say by one probability how sure a model is.
TASKS: Final = ("single_label_classification", "image_classification")


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(_Plain):
    """One model, or the cascade, on the test rows, one text at a time.

    Attributes:
        metric: of the cascade's name, and its 95 % interval.
        mean_ms, p95_ms: milliseconds a text.
        slow_share: fraction of texts that the slow model is asked about, in [0, 1].
    """

    metric: float
    interval: tuple[float, float]
    mean_ms: float
    p95_ms: float
    slow_share: float


class BesideDense(_Plain):
    """The dense model that the family was made from, and how many times as fast each answers.

    Attributes:
        metric: of the cascade's name, on the test rows, and its 95 % interval.
        speedup: of ``fast``, ``slow`` and ``cascade`` over the dense float32 ONNX file, one text at
            a time, by mean times: what the run measured of the slow member, times what each saves
            against that.
    """

    metric: float
    interval: tuple[float, float]
    speedup: dict[str, float]


class Cascade(_Plain):
    """All of ``cascade.json``.

    Attributes:
        fast, slow: folders of the two models, relative to it.
        threshold: the fast one's answer is taken if its probability is at least so much.
        metric: by which it was chosen, on the validation rows.
        wanted: the least that the cascade was to have there, and ``reached``, what it is expected
            to have.
        rows: test rows of ``measured``: ``fast``, ``slow`` and ``cascade``.
        dense: the dense model beside them; ``None`` where the run's results do not say.
    """

    format_version: Literal[1] = 1
    fast: str
    slow: str
    threshold: float = Field(ge=0, le=1)
    metric: str
    wanted: float
    reached: float
    rows: int
    measured: dict[str, Measured]
    dense: BesideDense | None = None


@dataclass(frozen=True)
class Point:
    """A threshold and what the cascade does with it.

    Attributes:
        threshold: probability from which the fast model's answer is taken.
        metric: of the cascade.
        slow_share: fraction of rows that the slow model answers.
        mean_ms: a row.
    """

    threshold: float
    metric: float
    slow_share: float
    mean_ms: float


def mixed(
    fast: NDArray[Any], slow: NDArray[Any], threshold: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The logits of a cascade ``(rows, labels)``, and which rows the slow model answers."""
    asked = softmax(fast).max(axis=1) < threshold
    return np.where(asked[:, None], slow, fast), asked


def choose_threshold(
    fast: NDArray[Any],
    slow: NDArray[Any],
    metric: Callable[[NDArray[Any]], float],
    wanted: float,
    fast_ms: float,
    slow_ms: float,
    *,
    greater_is_better: bool = True,
) -> Point | None:
    """The threshold of least mean time among those whose metric is good enough.

    Args:
        fast, slow: logits of both models on the same rows, ``(rows, labels)``.
        metric: of logits of these rows.
        wanted: the least (or most) that it may be.
        fast_ms, slow_ms: milliseconds a row of each model.

    Returns:
        ``None`` where no threshold is good enough, or none saves time against the slow model.

    Raises:
        DataError: the logits are not of the same rows.
    """
    if fast.shape != slow.shape or fast.ndim != 2 or not len(fast):
        raise DataError(
            f"the fast model's logits have the shape {fast.shape}, the slow one's {slow.shape}: "
            "both must be of the same rows, (rows, labels)"
        )
    confidence = np.unique(softmax(fast).max(axis=1))
    places = np.linspace(0, len(confidence) - 1, min(len(confidence), MOST_THRESHOLDS))
    best: Point | None = None
    # From asking the slow model about nothing upwards.
    for threshold in [0.0, *confidence[places.round().astype(int)][1:].tolist()]:
        logits, asked = mixed(fast, slow, threshold)
        found, share = metric(logits), float(asked.mean())
        point = Point(float(threshold), found, share, fast_ms + share * slow_ms)
        enough = found >= wanted if greater_is_better else found <= wanted
        if enough and point.mean_ms < slow_ms:
            best = point
            break  # time only grows from here on
    return best


def write_cascade(found: Cascade, folder: str | Path) -> Path:
    """Write ``cascade.json`` into a family's folder; returns its path."""
    place = Path(folder) / CASCADE_FILE
    atomic_write_json(place, found.model_dump(mode="json"))
    return place


def read_cascade(folder: str | Path) -> Cascade:
    """Read it back.

    Raises:
        OutputError: it is missing or damaged, or names a folder that is not below, or one twice.
    """
    place = Path(folder) / CASCADE_FILE
    try:
        found = Cascade.model_validate(read_json(place, OutputError))
    except ValidationError as error:
        first = str(error).splitlines()[0]
        raise OutputError(f"{place} is no record of a cascade: {first}") from error
    for name in (found.fast, found.slow):
        if name == ".." or Path(name).name != name or not (Path(folder) / name).is_dir():
            raise OutputError(
                f"{place} names the model {name!r}, and there is no such folder beside it: choose "
                f"again (`hfprune cascade {folder}`)"
            )
    if found.fast == found.slow:
        raise OutputError(
            f"{place} names {found.fast!r} as the fast and as the slow model: choose again "
            f"(`hfprune cascade {folder}`)"
        )
    return found


def check_alike(folder: str | Path, members: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Refuse a cascade whose members do not answer alike.

    Args:
        folder: of the family.
        members: task and labels of each.

    Raises:
        OutputError: they do not give the same labels, one a row.
    """
    if members[0][0] not in TASKS or any(one != members[0] for one in members):
        told = " and ".join(f"{task} {list(labels)!r:.80}" for task, labels in members)
        raise OutputError(
            f"the models of {Path(folder) / CASCADE_FILE} must give the same labels, one a row "
            f"({' or '.join(TASKS)}), got {told}: choose again (`hfprune cascade {folder}`)"
        )
