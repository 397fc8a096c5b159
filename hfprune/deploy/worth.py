"""What probabilities are worth and what loads a model, in words: report and card say it alike."""

from __future__ import annotations

from hfprune.core.model_ref import REFERENCE, ModelRef
from hfprune.core.results import Kept, RunResults


def probabilities_in_words(results: RunResults, ref: ModelRef) -> str | None:
    """How far a file's probabilities are off, beside the dense model's; ``None`` if not measured.

    Args:
        results: of a run.
        ref: one of its evaluated models.
    """
    after, before = (results.quality(each).probabilities for each in (ref, REFERENCE))
    if not after or "ece" not in after or "brier" not in after:
        return None
    error, brier = f"{after['ece']:.4f}", f"{after['brier']:.4f}"
    if before and "ece" in before and "brier" in before:
        error += f" (dense {before['ece']:.4f}{_scaled(before, 'ece')})"
        brier += f" (dense {before['brier']:.4f}{_scaled(before, 'brier')})"
    said = (
        f"Probabilities are off by {100 * after['ece']:.1f} points on average: expected "
        f"calibration error {error}, Brier score {brier}; less is better."
    )
    kept = results.members.get(ref.label)
    if kept is not None and kept.temperature is not None:
        said += (
            f" The logits are divided by a temperature of {kept.temperature:.3f}, fitted on the "
            "validation rows; the files have it."
        )
    return said


def _scaled(dense: dict[str, float], name: str) -> str:
    value = dense.get(f"scaled_{name}")
    return "" if value is None else f", with a temperature of its own {value:.4f}"


def layout_in_words(kept: Kept) -> str | None:
    """What sizes the layers have and who loads the model; ``None`` where that was not recorded."""
    if kept.layout is None and kept.stock is None:
        return None
    said = {
        "uniform": "All layers that stay have one size (pruning.layout: uniform)",
        "uneven": "Layers have sizes of their own (pruning.layout: uneven)",
    }.get(kept.layout or "", "Layers were pruned")
    if kept.stock is None:
        return f"{said}."
    if kept.stock:
        return f"{said}; from_pretrained of transformers loads the model without hfprune."
    return f"{said}; hfprune.from_pretrained loads the model, its ONNX files need no hfprune."
