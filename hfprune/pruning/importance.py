"""Scores of heads and neurons: float32, one a unit, higher = keep.

A score estimates what the loss would lose with the unit. Data-driven scores are read off the
gradient of the loss with respect to each unit's gate at gate = 1, which an ordinary backward pass
leaves behind at no cost worth naming. Others add scores of their own by
:func:`hfprune.core.scores.register_score`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hfprune.core.errors import ExtensionError, PlanError
from hfprune.core.scores import SCORES, GradientScore, Score, WeightScore, score_names
from hfprune.families import block_views
from hfprune.families.blocks import BlockKey

Scores = dict[BlockKey, Tensor]


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


_OWN: Mapping[str, Score] = {
    "random": WeightScore(random_scores),
    "magnitude": WeightScore(lambda model, seed: magnitude_scores(model)),
    "taylor": GradientScore(lambda gradient: gradient.abs()),
    "fisher": GradientScore(lambda gradient: gradient.square()),
}


def score_named(name: str) -> Score:
    """A score by its name, hfprune's own or one that was added.

    Raises:
        PlanError: naming all.
    """
    if name not in _OWN and name not in SCORES:
        raise PlanError(f"unknown score {name!r}; there are: {', '.join(score_names())}")
    return _OWN[name] if name in _OWN else SCORES.get(name)


def is_gradient_score(name: str) -> bool:
    """Whether a score is summed up while training; errors as :func:`score_named`."""
    return isinstance(score_named(name), GradientScore)


def weight_scores(name: str, model: nn.Module, seed: int) -> Scores:
    """What a score says of a model now.

    Args:
        name: of a score that is read off the weights.
        model: the one to be pruned.
        seed: for scores that draw lots.

    Returns:
        float32 ``(units,)`` for every block, on the CPU.

    Raises:
        PlanError: for an unknown score, or one that needs gradients.
        ExtensionError: if an added score leaves a block out, or gives it another number of values
            than it has units, or values that are not finite.
    """
    score = score_named(name)
    if not isinstance(score, WeightScore):
        raise PlanError(f"the score {name!r} is of gradients: it is summed up while training")
    found = score.function(model, seed)
    if name in _OWN:
        return dict(found)
    return {
        key: _checked(name, f"{key}", found.get(key), view.units)
        for key, view in block_views(model).items()
    }


def _checked(name: str, block: str, values: object, units: int) -> Tensor:
    """What an added score gives for one block, if it can be used."""
    if not isinstance(values, Tensor) or values.shape != (units,):
        came = tuple(values.shape) if isinstance(values, Tensor) else repr(values)
        raise ExtensionError(
            f"the score {name!r} gives {came} for {block}; expected a tensor of the shape "
            f"({units},), one value a unit"
        )
    values = values.detach().float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise ExtensionError(f"the score {name!r} gives values that are not finite for {block}")
    return values


class GradientScores:
    """Running scores from gate gradients, one :meth:`update` an optimizer step.

    * ``fisher``: sum of squared gradients, the diagonal of the empirical Fisher information of the
      gates (Kwon et al. 2022, eq. 7, up to a constant).
    * ``taylor``: sum of absolute gradients, the first-order change of the loss when the gate
      closes (Michel et al. 2019, eq. 2; Molchanov et al. 2017).
    * one that was added: the sum of its terms.

    Args:
        method: which of them.
        decay: factor on the old sum at each update, in [0, 1]; below 1 the scores follow the
            model as it trains.

    Example: with decay 1, gradients 3 and then -1 of a gate give Fisher 10 and Taylor 4.
    """

    def __init__(self, method: str, decay: float = 1.0) -> None:
        names = [name for name in score_names() if is_gradient_score(name)]
        if method not in names:
            raise PlanError(f"unknown score {method!r}; gradient scores: {', '.join(names)}")
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
            term = self._term(key, gradient)
            old = self.values.get(key)
            self.values[key] = term if old is None else old * self.decay + term
        self.updates += 1
        return True

    def _term(self, key: BlockKey, gradient: Tensor) -> Tensor:
        score = score_named(self.method)
        if not isinstance(score, GradientScore):
            raise PlanError(f"the score {self.method!r} is not of gradients")
        term: Tensor = score.term(gradient)
        if self.method not in _OWN:
            term = _checked(self.method, str(key), term, len(gradient))
        return term

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
