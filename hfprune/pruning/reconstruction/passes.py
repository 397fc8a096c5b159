"""Forward passes that stop early or record one module's input; divergence of two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfprune.pruning.reconstruction.common import Batch


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Without dropout inside; afterwards as before."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


class _Reached(Exception):
    """Ends a forward pass that has gone far enough."""


@contextmanager
def stopping(module: nn.Module, uses: int) -> Iterator[None]:
    """Ends the forward pass inside when the module is about to run for the ``uses``-th time."""
    left = uses

    def stop(module: nn.Module, args: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _Reached

    handle = module.register_forward_pre_hook(stop)
    try:
        yield
    except _Reached:
        pass
    finally:
        handle.remove()


@contextmanager
def captured(modules: Mapping[Any, nn.Module]) -> Iterator[dict[Any, Tensor]]:
    """The first input of each module during the forward pass inside; of all its uses, joined."""
    inputs: dict[Any, Tensor] = {}
    handles = []
    for name, module in modules.items():

        def keep(module: nn.Module, args: tuple[Any, ...], name: Any = name) -> None:
            x = args[0].detach()
            inputs[name] = torch.cat([inputs[name], x]) if name in inputs else x

        handles.append(module.register_forward_pre_hook(keep))
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def counted(logits: Tensor, batch: Batch) -> Tensor:
    """Logits as ``(rows, labels)``; of tokens those that are no padding, each a row."""
    if logits.dim() == 2:
        return logits
    mask = batch.get("attention_mask")
    return logits.reshape(-1, logits.shape[-1]) if mask is None else logits[mask.bool()]


def divergence(student: Tensor, teacher: Tensor, problem: str | None) -> float:
    """KL divergence of the student's predictions from the teacher's, in nats, mean over rows.

    Args:
        student, teacher: logits, float ``(rows, labels)``; of tokens, those that are no padding.
        problem: ``config.problem_type``; multi-label adds up over labels, regression is taken as
            a Gaussian of unit variance around the prediction, and so are embeddings, scaled to
            length 1 (which makes it 1 less their cosine); all else is single label.
    """
    return float(divergences(student, teacher, problem).mean())


def divergences(student: Tensor, teacher: Tensor, problem: str | None) -> Tensor:
    """As :func:`divergence`, of each row: float32 ``(rows,)``."""
    student, teacher = student.float(), teacher.float()
    if problem == "sentence_embedding":
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    if problem in ("regression", "sentence_embedding") or student.shape[-1] == 1:
        return 0.5 * (student - teacher).square().sum(-1)
    if problem == "multi_label_classification":
        student, teacher = (torch.stack([x, torch.zeros_like(x)], -1) for x in (student, teacher))
    guess, target = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    apart = F.kl_div(guess, target, reduction="none", log_target=True)
    return apart.flatten(1).sum(1)
