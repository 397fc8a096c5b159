"""Scores of heads and neurons: float32, one a unit, higher = keep.

A score estimates what the loss would lose with the unit. Data-driven scores are read off the
gradient of the loss with respect to each unit's gate at gate = 1, which an ordinary backward pass
leaves behind at no cost worth naming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from hfprune.core.errors import PlanError
from hfprune.families import block_views
from hfprune.families.blocks import BlockKey

Scores = dict[BlockKey, Tensor]
GradientMethod = Literal["taylor", "fisher"]
GRADIENT_METHODS: tuple[GradientMethod, ...] = ("taylor", "fisher")


def random_scores(model: nn.Module, seed: int) -> Scores:
    """Uniform in [0, 1), the same for the same seed: the baseline that any score must beat."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(view.units, generator=generator) for key, view in block_views(model).items()
    }


def magnitude_scores(model: nn.Module) -> Scores:
    """Squared L2 norm of all weights that leave with the unit (producer rows, consumer columns)."""
    scores: Scores = {}
    with torch.no_grad():
        for key, view in block_views(model).items():
            columns = view.weight.float().square().sum(0)
            total = columns.view(view.units, view.unit_size).sum(1)
            for producer in view.producers:
                rows = producer.weight.float().square().sum(1)
                total = total + rows.view(producer.parts, view.units, producer.unit_size).sum(
                    (0, 2)
                )
            scores[key] = total.cpu()
    return scores


class GradientScores:
    """Running scores from gate gradients, one :meth:`update` an optimizer step.

    * ``fisher``: sum of squared gradients, the diagonal of the empirical Fisher information of the
      gates (Kwon et al. 2022, eq. 7, up to a constant).
    * ``taylor``: sum of absolute gradients, the first-order change of the loss when the gate
      closes (Michel et al. 2019, eq. 2; Molchanov et al. 2017).

    Args:
        method: which of the two.
        decay: factor on the old sum at each update, in [0, 1]; below 1 the scores follow the
            model as it trains.

    Example: with decay 1, gradients 3 and then -1 of a gate give Fisher 10 and Taylor 4.
    """

    def __init__(self, method: GradientMethod, decay: float = 1.0) -> None:
        if method not in GRADIENT_METHODS:
            raise PlanError(
                f"unknown score {method!r}; gradient scores: {', '.join(GRADIENT_METHODS)}"
            )
        if not 0.0 <= decay <= 1.0:
            raise PlanError(f"score decay must be in [0, 1], got {decay}")
        self.method = method
        self.decay = decay
        self.updates = 0
        self.values: Scores = {}

    def update(self, gradients: Mapping[BlockKey, Tensor]) -> bool:
        """Add one batch's gate gradients; returns false (and adds nothing) if any is not finite."""
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values()):
            return False
        for key, gradient in gradients.items():
            gradient = gradient.detach().float().cpu()
            term = gradient.square() if self.method == "fisher" else gradient.abs()
            old = self.values.get(key)
            self.values[key] = term if old is None else old * self.decay + term
        self.updates += 1
        return True

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors, for safetensors."""
        state = {f"{key.layer}.{key.kind}": value for key, value in self.values.items()}
        return {**state, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.updates = int(state["updates"])
        self.values = {}
        for name, value in state.items():
            layer, _, kind = name.partition(".")
            if name != "updates":
                key = BlockKey(int(layer), "attention" if kind == "attention" else "ffn")
                self.values[key] = value.clone()


def knowledge_scores(
    energies: Mapping[BlockKey, Tensor],
    gradients: Mapping[BlockKey, Tensor],
    *,
    balance: float = 0.5,
) -> Scores:
    """Scores of K-prune (Park et al. 2024): representation and prediction that a unit carries.

    ``balance * E_u / sum(E) + (1 - balance) * F_u / sum(F)``, the sums over all units of the model.
    ``E_u`` is the mean squared output of the unit alone. ``F_u`` is half the second derivative by
    the unit's gate of the divergence from the dense predictions (its first derivative is zero),
    which is half the mean squared gradient of the log-likelihood of labels drawn from the
    predictions. The paper's two weights are tuned for each task; here each kind of knowledge adds
    up to 1, so that ``balance`` means the same for every model.

    Args:
        energies: float ``(units,)`` a block: mean over tokens of ``||W_u x_u||^2``.
        gradients: float ``(samples, units)`` a block, of each sample's log-likelihood.
        balance: in [0, 1], the share of representation.

    Example: one block, energies ``[1, 3]``, gradients ``[[2, 0], [0, 4]]``: half of ``[1/4, 3/4]``
    plus half of ``[4/20, 16/20]``, so ``[0.225, 0.775]``.

    Raises:
        PlanError: if ``balance`` is out of range, or the two do not speak of the same units.
    """
    if not 0.0 <= balance <= 1.0:
        raise PlanError(f"balance must be in [0, 1], got {balance}")
    squares = {key: value.double().square().mean(0) / 2 for key, value in gradients.items()}
    if {k: v.shape for k, v in squares.items()} != {k: v.shape for k, v in energies.items()}:
        raise PlanError("energies and gradients must be of the same blocks and units")
    totals = [
        max(sum(float(value.double().sum()) for value in part.values()), 1e-300)
        for part in (energies, squares)
    ]
    return {
        key: (
            balance * energies[key].double() / totals[0]
            + (1.0 - balance) * squares[key] / totals[1]
        ).float()
        for key in energies
    }
