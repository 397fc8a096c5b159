"""What the parts of a reconstruction share: types, and damping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from hfprune.families.blocks import BlockKey

Batch = Mapping[str, Tensor]
BlockCost = Callable[[BlockKey, int], float]
Progress = Callable[[str, int, int], None]
Selection = Literal["obs", "fisher", "kprune"]

# Share of the mean diagonal added to the Hessians: enough for the float64 solves, too little to
# be seen in the weights.
DAMPING_RATIO = 1e-3

# Where float32 products of the moments are off by more than this part of the damping they are made
# again in float64. The measure is a bound: random rounding of d features moves eigenvalues by about
# 2 / sqrt(d) of it.
ROUNDING = 0.05


@dataclass(frozen=True)
class BlockLevels:
    """What one block can become.

    Attributes:
        counts: units kept at each level, descending from all to 0.
        kept: indices of the units kept at each level.
        weights: the repaired output projection ``(outputs, kept * unit_size)`` of each level.
        errors: float64 ``(levels,)``, 0 for the full size. OBS: ||W'X - WX||^2 over the tokens
            that predictions depend on, times how much they do in the mean. Otherwise: the scores
            given up.
    """

    counts: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]
    weights: tuple[Tensor, ...]
    errors: np.ndarray[Any, np.dtype[np.float64]]


def placed(batches: Sequence[Batch], model: nn.Module) -> list[Batch]:
    """The batches where the model is."""
    device = next(model.parameters()).device
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


def silent(step: str, done: int, total: int) -> None:
    pass


def squared(gradient: Tensor, batch: Batch) -> Tensor:
    """Squared norms of the tokens' gradients, 0 for padding; float64 ``(tokens,)``."""
    rows, mask = token_rows(gradient, batch)
    norms = rows.double().square().sum(-1)
    return norms if mask is None else norms * mask.to(norms)


def token_rows(features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Features as ``(tokens, width)``, and the attention mask as their weights."""
    rows = features.reshape(-1, features.shape[-1])
    mask = batch.get("attention_mask")
    # None: an image, or flash attention has taken the padding out beforehand.
    if mask is None or len(rows) % mask.numel():
        return rows, None
    uses = len(rows) // mask.numel()
    return rows, mask.reshape(-1).repeat(uses).to(rows)
