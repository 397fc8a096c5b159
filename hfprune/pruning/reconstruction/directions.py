"""Which way predictions are likely to err: what sensitivities are measured along.

The Fisher information of a model's outputs is the covariance of the gradient of the loss by the
logits, over labels that the model itself would draw. Drawing a label is one way to sample it, and
a bad one: where a model is sure, the whole weight rests on the few rows whose label is drawn
against the odds (of 26,820 tokens an effective 96 to 195). A root of the covariance times random
signs has the same expectation with nothing rare in it, and of two labels, or one output, it is the
expectation itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fisher_directions(logits: Tensor, problem: str | None, generator: torch.Generator) -> Tensor:
    """Directions ``d`` in the space of the logits whose mean of ``d d^T`` is the Fisher matrix.

    * regression, and embeddings (a likelihood of unit variance): the identity;
    * multi-label: ``diag(p (1 - p))``;
    * single label: ``diag(p) - p p^T``. Of two labels its root is one vector, ``sqrt(p_0 p_1)
      (1, -1)``; of more ``sqrt(p) s - p (sqrt(p) . s)`` with random signs ``s``.

    The sign of each row is random, so that rows of one sample (tokens) do not add up.

    Args:
        logits: float ``(rows, outputs)``.
        problem: ``config.problem_type``; one output is a regression whatever it says.
        generator: of the signs, on the CPU.

    Returns:
        As the logits, without gradient.

    Worked value: logits ``(0, 0)`` of a single label give ``(0.5, -0.5)`` or its opposite.
    """
    logits = logits.detach()
    draw = torch.randint(0, 2, logits.shape, generator=generator)
    signs = (2 * draw - 1).to(logits)
    if problem in ("regression", "sentence_embedding") or logits.shape[-1] == 1:
        return signs
    if problem == "multi_label_classification":
        spread = torch.nn.functional.logsigmoid(logits) + torch.nn.functional.logsigmoid(-logits)
        return signs * (0.5 * spread).exp()
    odds = torch.log_softmax(logits, -1)
    if logits.shape[-1] == 2:
        size = (0.5 * odds.sum(-1, keepdim=True)).exp()
        return signs[:, :1] * size * torch.tensor([1.0, -1.0]).to(logits)
    root = (0.5 * odds).exp()
    return root * signs - odds.exp() * (root * signs).sum(-1, keepdim=True)
