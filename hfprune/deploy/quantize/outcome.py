"""What a search for int8 settings found, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfprune.recipe.sections.export import QuantizationConfig

PLAIN = QuantizationConfig()

# Constant scales are what usually wins; they take calibration rows.
CONSTANT = QuantizationConfig(
    activations="constant",
    graph="lean_attention",
    per_channel=True,
    matmul_const_b_only=True,
    embeddings="int8",
)

# The fastest without calibration rows.
USUAL = QuantizationConfig(
    graph="lean_multihead", per_channel=True, matmul_const_b_only=True, embeddings="int8"
)


@dataclass(frozen=True)
class Outcome:
    """What was found of one candidate.

    Attributes:
        config: its settings.
        ms: median milliseconds of each shape, keyed ``"batch x length"`` (``"1x32"``).
        speedup: over plain dynamic int8 of the same model, geometric mean over the shapes.
        metric: on the validation rows.
        drop: what the metric lost against the float32 graph; below 0 it gained.
        agreement: fraction of rows (or tokens) on which the prediction is that of the float32 graph
            (for regression: correlation of the two).
        file_bytes: of the file.
        within: whether the judge lets it be deployed (:mod:`hfprune.deploy.choose.judge`).
        state, why: its verdict: ``kept``, ``undecided`` or ``refused``, and in words.
        divergence: from float32, see :class:`hfprune.deploy.choose.judge.Evidence`.
        depends_on_batch: rows, of those that were tried so, whose prediction is another alone than
            in a batch.
        saturated: the greatest fraction of an activation's values that its constant scale cuts;
            ``None`` where scales are not constant.
        refused: why it was not chosen; ``None`` for the chosen one.
    """

    config: QuantizationConfig
    ms: dict[str, float] = field(default_factory=dict)
    speedup: float = math.nan
    metric: float = math.nan
    drop: float = math.nan
    agreement: float = math.nan
    file_bytes: int = 0
    within: bool = False
    state: str = "undecided"
    why: str = ""
    divergence: float = math.nan
    depends_on_batch: int = 0
    saturated: float | None = None
    refused: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the defaults of a recipe."""
        return self.config.model_dump(exclude_defaults=True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that were not measured are ``None``."""

        def known(value: float) -> float | None:
            return round(value, 6) if math.isfinite(value) else None

        return {
            "settings": self.settings,
            "ms": {shape: round(value, 4) for shape, value in self.ms.items()},
            "speedup": known(self.speedup),
            "metric": known(self.metric),
            "drop": known(self.drop),
            "agreement": known(self.agreement),
            "file_bytes": self.file_bytes or None,
            "state": self.state,
            "why": self.why,
            "divergence": known(self.divergence),
            "depends_on_batch": self.depends_on_batch,
            "saturated": self.saturated,
            "refused": self.refused,
        }


@dataclass(frozen=True)
class SearchRecord:
    """The search and its end.

    Attributes:
        path: the file that was written.
        chosen: its settings.
        within: whether the judge let it be deployed; if not, it let none.
        float_metric: of the float32 graph.
        outcomes: all candidates in the order in which they were tried.
        not_tried: how many the time was too short for.
        seconds: what the search took.
    """

    path: Path
    chosen: QuantizationConfig
    within: bool
    float_metric: float
    outcomes: tuple[Outcome, ...]
    not_tried: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the path."""
        return {
            "chosen": self.chosen.model_dump(exclude_defaults=True),
            "within": self.within,
            "float_metric": self.float_metric,
            "not_tried": self.not_tried,
            "seconds": round(self.seconds, 1),
            "candidates": [outcome.to_dict() for outcome in self.outcomes],
        }


def describe_settings(settings: dict[str, Any]) -> str:
    """Settings of a candidate in one line, as one would write them into a recipe."""
    return ", ".join(f"{key}: {value}" for key, value in settings.items()) or "plain dynamic"
