"""Whether a speed can be reached at all, from sizes alone: a bound, not a promise."""

from __future__ import annotations

from typing import Final

from hfprune.core.errors import RecipeError
from hfprune.early.model import ModelFacts

# Multiplications that take as long as what no pruning removes. Deliberately too few, so that
# nothing is refused that can be reached: of one token (its embedding, the first norm) for each
# number of the residual stream, and of one call of a runtime. all-MiniLM-L6-v2 without any block
# was measured 138 to 193 times as fast (batch 1 and 32, 16 to 128 tokens); this says 250 to 420.
TOKEN_WORK: Final = 64
CALL_WORK: Final = 250_000
# Blocks of fewer weights say nothing: the runtime's own work decides.
SMALLEST: Final = 1_000_000
# What was measured (docs/benchmark.md): beyond this speed, how much is lost is anybody's guess.
MEASURED: Final = 16.0


def fastest(facts: ModelFacts, batch: int, length: int) -> float | None:
    """A speed-up that no pruned model can exceed, over the dense float32 ONNX model.

    That of a model all of whose blocks are gone. ``None`` where the sizes are not known, or are so
    small that the runtime's own work decides.

    Args:
        facts: of the dense model.
        batch, length: rows and tokens of what is timed.
    """
    weights = facts.block_weights
    if weights is None or facts.width is None or weights < SMALLEST:
        return None
    tokens = batch * length
    # Attention over the row's tokens: scores and mixture.
    attention = 2 * (facts.layers or 0) * length * facts.width
    dense = tokens * (weights + attention)
    rest = tokens * TOKEN_WORK * facts.width + batch * facts.width**2 / 4 + CALL_WORK
    return dense / rest


def check_speed(speeds: list[float], facts: ModelFacts, batch: int, length: int, key: str) -> None:
    """Refuse a speed beyond :func:`fastest`.

    Args:
        speeds: what is asked for.
        facts: of the dense model.
        batch, length: the shape at which it is timed.
        key: what asks for it, for the error.

    Raises:
        RecipeError: a speed cannot be reached.
    """
    bound = fastest(facts, batch, length)
    if bound is None or not speeds or max(speeds) <= bound:
        return
    raise RecipeError(
        f"{key} is {max(speeds):g}, but {facts.name} cannot get that fast: with all its "
        f"{facts.layers} layers gone, what is left (embeddings, classifier, the runtime's own "
        f"work) takes more than 1/{bound:.0f} of its time at batch {batch}, {length} tokens. Ask "
        f"for less: 4 to {MEASURED:g} has been measured"
    )


def daring(speeds: list[float]) -> str | None:
    """What to tell of speeds that can perhaps be reached, but were never measured."""
    if not speeds or max(speeds) <= MEASURED:
        return None
    return (
        f"a speed of {max(speeds):g}x is beyond what hfprune's benchmark has measured "
        f"({MEASURED:g}x cost 1.4 points there): expect to lose more, and look at the report "
        "before you deploy it"
    )
