"""A teacher, and what a model learns from it in one batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfprune.core.errors import TrainingError
from hfprune.core.kinds import (
    IMAGE_INPUTS,
    TEXT_INPUTS,
    auto_class,
    image_tokens,
    kind_of_model,
)
from hfprune.data.words import IGNORED
from hfprune.recipe.sections.training import DistillationConfig
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.losses import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    compared_layers,
    hidden_loss,
    logits_loss,
)


def load_teacher(teacher: nn.Module | str | Path, student: Any, device: Any) -> Any:
    """A teacher that fits the student, on the device.

    Args:
        teacher: a module, which is moved but else left as it is; a folder or a name on the Hub.

    Raises:
        TrainingError: for the student itself, and a model of other labels or another vocabulary.
    """
    loaded: Any = (
        teacher
        if isinstance(teacher, nn.Module)
        else auto_class(kind_of_model(student)).from_pretrained(
            str(teacher), trust_remote_code=False
        )
    )
    if loaded is student:
        raise TrainingError(
            "the teacher is the very model that is trained; pass a copy of it, or its path"
        )
    config: Any = loaded.config
    if config.num_labels != student.config.num_labels:
        raise TrainingError(
            f"the teacher has {config.num_labels} labels, the student "
            f"{student.config.num_labels}; they must be for the same task"
        )
    if isinstance(loaded, PreTrainedModel):
        theirs, mine = (getattr(c, "vocab_size", None) for c in (config, student.config))
        if theirs != mine:
            raise TrainingError(
                f"the teacher's vocabulary has {theirs} tokens, the student's {mine}; "
                "they read the same token ids, so both must use one tokenizer"
            )
    return loaded.to(device)


def problem_type(config: Any) -> str:
    """What a model predicts, of its config; one class where that does not say."""
    if config.problem_type in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        return str(config.problem_type)
    return REGRESSION if config.num_labels == 1 else SINGLE_LABEL


def stop_dropout_(model: nn.Module) -> None:
    """Until the next ``model.train()``; gradients are computed, and recomputed, as before.

    Encoders differ in training mode by their dropout alone, which each family keeps elsewhere; but
    gradient checkpointing asks for it too.
    """
    for module in model.modules():
        if not getattr(module, "gradient_checkpointing", False):
            module.training = False


@contextmanager
def asked(teacher: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards the teacher is as it was."""
    training = [module for module in teacher.modules() if module.training]
    teacher.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


class Teaching:
    """The losses against a teacher.

    Attributes:
        cache: where the teacher's outputs on the training rows are looked up; ``None``: they are
            computed at every step.

    Args:
        teacher: as of :func:`load_teacher`.
        settings: weights of the losses.
        student: the model that learns; its config says what is predicted.
    """

    def __init__(self, teacher: Any, settings: DistillationConfig, student: Any) -> None:
        self.teacher = teacher
        self.settings = settings
        self.cache: TeacherCache | None = None
        self._problem = problem_type(student.config)
        self._accepted = _accepted(teacher)

    @property
    def wants_hidden(self) -> bool:
        return self.settings.hidden_weight > 0

    def loss(
        self,
        outputs: Any,
        inputs: Mapping[str, Any],
        rows: Tensor | None,
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """What the teacher adds to the task's loss. A scalar.

        Args:
            outputs: the student's, with ``hidden_states`` where they are compared.
            inputs: that they follow from, labels included.
            rows: int64 ``(batch,)``, which training rows they are, if that is known.
            sizes: ``(heads, neurons)`` that each layer of the student has now.
        """
        settings = self.settings
        logits, hidden, mask = self._taught(inputs, rows)
        labels = inputs.get("labels")
        # Of tokens those count that carry a label: what the teacher says of others was not taught.
        counted = inputs.get("attention_mask") if labels is None else labels != IGNORED
        extra = settings.logits_weight * logits_loss(
            outputs.logits,
            logits,
            settings.temperature,
            self._problem,
            None if outputs.logits.dim() < 3 or counted is None else counted.bool(),
        )
        if self.wants_hidden:
            mine = outputs.hidden_states[1:]
            layers = compared_layers(sizes)
            if len(hidden) == len(mine) and layers:
                hidden = [hidden[layer] for layer in layers]
                mine = [mine[layer] for layer in layers]
            extra = extra + settings.hidden_weight * hidden_loss(mine, hidden, mask)
        return extra

    def _taught(
        self, inputs: Mapping[str, Any], rows: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """The teacher's logits, hidden states without embeddings, and the tokens they are of."""
        mask = inputs.get("attention_mask")
        if self.cache is not None and rows is not None:
            device, rows = rows.device, rows.cpu()
            hidden: Sequence[Tensor] = ()
            length = (
                inputs["input_ids"].shape[1]
                if "input_ids" in inputs
                else image_tokens(self.teacher.config)
            )
            if self.wants_hidden:
                hidden = [h.to(device) for h in self.cache.hidden_states(rows, length)]
                kept = self.cache.has_hidden(rows).to(device)[:, None]
                mask = kept.expand(-1, length) if mask is None else mask * kept
            return self.cache.logits(rows, length).to(device), hidden, mask
        given = {name: value for name, value in inputs.items() if self._accepted(name)}
        with asked(self.teacher):
            target = self.teacher(**given, output_hidden_states=self.wants_hidden)
        return target.logits, (target.hidden_states or ())[1:], mask


def _accepted(model: Any) -> Callable[[str], bool]:
    """Which of a student's inputs a teacher takes: the student may be a class of the user's own."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if takes_any and named:
        named |= {*TEXT_INPUTS, *IMAGE_INPUTS}
    return lambda name: name != "labels" and (name in named or (takes_any and not named))
