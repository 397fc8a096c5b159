"""Several teachers as one: the mean of what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hfprune.core.errors import TrainingError
from hfprune.training.distillation.losses import MULTI_LABEL, REGRESSION
from hfprune.training.distillation.teaching import problem_type, takes


class Ensemble(nn.Module):
    """Models of one task that read the same rows, as a teacher.

    Logits are those of the mean probability (of regression the mean prediction); hidden states are
    the first model's, whose layers the student's are compared with.

    Args:
        models: at least one; the first is the model that is pruned.
        first_counts: whether what the first predicts is in the mean too.

    Raises:
        TrainingError: for models of other labels than the first.
    """

    first_counts: Tensor

    def __init__(self, models: Sequence[Any], *, first_counts: bool = True) -> None:
        super().__init__()
        first = models[0]
        if len(models) == 1 and not first_counts:
            raise TrainingError("one model alone is given to learn from, and it is not to count")
        for number, model in enumerate(models[1:], 2):
            if model.config.num_labels != first.config.num_labels:
                raise TrainingError(
                    f"teacher {number} has {model.config.num_labels} labels, the first "
                    f"{first.config.num_labels}; they must be for the same task"
                )
        self.models = nn.ModuleList(models)
        self.config = first.config
        self._problem = problem_type(first)
        # Part of the state, so that outputs kept from one run to the next are of this mean.
        self.register_buffer("first_counts", torch.tensor(first_counts))

    @property
    def takes_as(self) -> Any:
        """The model whose inputs are the ensemble's."""
        return self.models[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the first model's, with the mean's logits.

        Where neither its logits nor its hidden states are wanted, it is not asked.
        """
        wants_first = bool(self.first_counts) or bool(kwargs.get("output_hidden_states"))
        first: Any = self.models[0](*args, **kwargs) if wants_first else None
        given = {name: v for name, v in kwargs.items() if name != "output_hidden_states"}
        others = [
            model(*args, **{name: v for name, v in given.items() if takes(model, name)})
            for model in list(self.models)[1:]
        ]
        counted = ([first] if self.first_counts else []) + others
        found = others[0] if first is None else first
        found.logits = mean_logits([one.logits for one in counted], self._problem)
        return found


def mean_logits(logits: Sequence[Tensor], problem: str) -> Tensor:
    """Logits whose probabilities are the mean of those of several; float32, shaped as each.

    Of multi-label the mean of each label's probability, of regression the mean itself.

    Args:
        logits: float ``(..., labels)``, at least one.
        problem: ``config.problem_type``.

    Worked value: probabilities 0.9 and 0.5 of one label have the mean 0.7, logit 0.847.
    """
    every = torch.stack([some.float() for some in logits])
    if problem == REGRESSION:
        return every.mean(0)
    if problem == MULTI_LABEL:
        yes, no = (
            torch.logsumexp(nn.functional.logsigmoid(sign * every), 0) for sign in (1.0, -1.0)
        )
        return yes - no
    return torch.logsumexp(torch.log_softmax(every, -1), 0) - torch.tensor(len(every)).log()
