"""A given mask improved by the Fisher information of pairs (Kwon et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from hfprune.core.errors import DataError, PlanError


@torch.no_grad()
def rearrange_mask(gradients: Tensor, kept: Tensor, *, max_swaps: int | None = None) -> Tensor:
    """Swap pruned and kept units while that lowers the loss the whole Fisher matrix predicts.

    Mask rearrangement (Kwon et al. 2022). To second order, closing the gates of the pruned units
    costs ``1_P^T (G^T G) 1_P = ||sum of the pruned columns of G||^2``: units whose gradients
    cancel are cheap together. Each step takes the best of all swaps of one pruned and one kept
    unit; the number of kept units stays the same.

    Args:
        gradients: (batches, units), gradient of the loss by each gate at gate = 1.
        kept: (units,) bool.
        max_swaps: at most this many; None: the size of the smaller of the two sets. With many
            more units than batches the sum can be driven to nothing by chance, which the bound
            keeps in check.

    Returns:
        (units,) bool, a new mask.

    Raises:
        PlanError: on shapes that do not fit or a negative bound.
        DataError: on gradients that are not finite.
    """
    if gradients.ndim != 2:
        raise PlanError(f"gradients has shape {tuple(gradients.shape)}; expected (batches, units)")
    if tuple(kept.shape) != (gradients.shape[1],) or kept.dtype != torch.bool:
        raise PlanError(
            f"kept is {kept.dtype} of shape {tuple(kept.shape)}; expected torch.bool of shape"
            f" ({gradients.shape[1]},), one entry a unit"
        )
    if max_swaps is not None and max_swaps < 0:
        raise PlanError(f"max_swaps is {max_swaps}; expected None or a number >= 0")
    if not bool(gradients.isfinite().all()):
        raise DataError("gradients holds values that are not finite")
    values = gradients.detach().to(torch.float64)
    fisher = values.T @ values
    pruned_units = (~kept).nonzero().flatten().to(fisher.device)
    kept_units = kept.nonzero().flatten().to(fisher.device)
    swaps = min(len(pruned_units), len(kept_units))
    if max_swaps is not None:
        swaps = min(swaps, max_swaps)
    mask = kept.clone()
    if swaps == 0:
        return mask
    diagonal = fisher.diagonal()
    # Gains below rounding could swap back and forth for ever.
    least = 1e-12 * float(diagonal.sum())
    pairs = fisher[pruned_units[:, None], kept_units]  # (pruned, kept), follows the swaps
    total = fisher[:, pruned_units].sum(1)  # F 1_P
    for _ in range(swaps):
        back = diagonal[pruned_units] - 2.0 * total[pruned_units]
        out = diagonal[kept_units] + 2.0 * total[kept_units]
        change = back[:, None] + out - 2.0 * pairs
        best = int(change.argmin())
        i, j = divmod(best, len(kept_units))
        if float(change[i, j]) >= -least:
            break
        returned, closed = pruned_units[i].clone(), kept_units[j].clone()
        total += fisher[closed] - fisher[returned]
        pruned_units[i], kept_units[j] = closed, returned
        pairs[i] = fisher[closed, kept_units]
        pairs[:, j] = fisher[pruned_units, returned]
    mask[pruned_units.to(mask.device)] = False
    mask[kept_units.to(mask.device)] = True
    return mask
