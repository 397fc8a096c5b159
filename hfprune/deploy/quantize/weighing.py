"""Which int8 settings to take, from what was measured of each: decisions, no measuring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.deploy.quantize.outcome import Outcome

# What a smaller file is worth in speed: half the size, 2 ** 0.25 (19 %). Embeddings are most of the
# file of a pruned model, and next to nothing of its time.
SIZE_WORTH = 0.25

# What it is worth that a prediction does not depend on the rest of its batch.
INVARIANCE_WORTH = math.log(1.03)


def worth(outcome: Outcome) -> float:
    """Speed weighed against the size of the file: the more the better."""
    invariant = INVARIANCE_WORTH if outcome.config.activations == "constant" else 0.0
    return math.log(outcome.speedup) - SIZE_WORTH * math.log(outcome.file_bytes) + invariant


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The best speed for its file of those that may be taken; else the one that loses least."""
    within = [outcome for outcome in outcomes if outcome.within]
    if not within:
        least = min(outcome.drop for outcome in outcomes)
        within = [outcome for outcome in outcomes if outcome.drop <= least + 1e-9]
    return max(within, key=worth)


def nearest(outcomes: Sequence[Outcome]) -> Outcome:
    """The one that says what float32 says, of settings that are equally fast by their nature."""
    return min(outcomes, key=lambda outcome: (not outcome.within, outcome.divergence))


def finalists(outcomes: Sequence[Outcome], best: Outcome, most: int) -> list[Outcome]:
    """Those to time once more beside the best, which is the first of them."""
    rivals = [outcome for outcome in outcomes if outcome.within == best.within]
    if not best.within:
        rivals = [outcome for outcome in rivals if outcome.drop <= best.drop]
    rivals.sort(key=lambda outcome: (outcome.config != best.config, -worth(outcome)))
    return rivals[:most]


def with_refusals(outcomes: Sequence[Outcome], chosen: Outcome) -> Iterator[Outcome]:
    """All outcomes, those that were not chosen with the reason."""
    for outcome in outcomes:
        if outcome.refused is not None or outcome.config == chosen.config:
            yield outcome
            continue
        if not outcome.within and (chosen.within or outcome.drop > chosen.drop):
            why = outcome.why
        elif outcome.speedup < chosen.speedup:
            why = f"slower than the chosen one ({outcome.speedup:.2f}x to {chosen.speedup:.2f}x)"
        elif outcome.file_bytes > chosen.file_bytes:
            why = (
                f"{outcome.speedup / chosen.speedup:.2f}x as fast as the chosen one, and "
                f"{outcome.file_bytes / chosen.file_bytes:.2f} times its file"
            )
        else:
            why = "not faster than the chosen one when both were timed together"
        yield replace(outcome, refused=why)


def agreement(logits: NDArray[Any], reference: NDArray[Any]) -> float:
    """The fraction of equal predictions; of regression the correlation."""
    if logits.shape[-1] == 1:
        return float(np.corrcoef(logits[:, 0], reference[:, 0])[0, 1])
    if logits.ndim == 3:  # where a row has no more tokens, logits are zero
        real = reference.any(axis=-1)
        logits, reference = logits[real], reference[real]
    return float((logits.argmax(axis=-1) == reference.argmax(axis=-1)).mean())
