"""A teacher, and what a model learns from it in one batch."""

from __future__ import annotations

import functools
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
    gives_embeddings,
    image_tokens,
    kind_of_model,
    outputs_of,
)
from hfprune.data.candidates import QUERY_ROW
from hfprune.data.task_data import TEXT_ROW
from hfprune.data.words import IGNORED
from hfprune.models.configs import plain_outputs_
from hfprune.models.embedding import embedding_loss, matryoshka_of
from hfprune.models.saved import load_alike
from hfprune.recipe.sections.training import DistillationConfig
from hfprune.training.checks import require_head
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.losses import (
    EMBEDDING,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    compared_layers,
    hidden_loss,
    logits_loss,
    query_loss,
)

# Column that is added to the training rows, to look the teacher's outputs up.
ROW_COLUMN = "teacher_row"

# Columns that say which row it is, and are no input of a model.
ROW_NUMBERS = (ROW_COLUMN, TEXT_ROW, QUERY_ROW)


def without_rows(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
    """A batch without the numbers of its rows, and those numbers, if they are known."""
    kept = {name: value for name, value in inputs.items() if name not in ROW_NUMBERS}
    return kept, inputs.get(ROW_COLUMN)


def load_teacher(
    teacher: nn.Module | str | Path,
    student: Any,
    device: Any,
    other: Callable[[Any, str], Any] | None = None,
) -> Any:
    """A teacher that fits the student, on the device.

    Args:
        teacher: a module, which is moved but else left as it is; a folder or a name on the Hub.
        other: makes a teacher of a loaded model of another vocabulary and its name.

    Raises:
        TrainingError: for the student itself, an encoder without a head, and a model of other
            labels, of the same in another order, or of another vocabulary.
    """
    given = isinstance(teacher, nn.Module)
    loaded: Any = teacher if given else load_alike(str(teacher), student, "teacher")
    require_head(loaded, "teacher")
    plain_outputs_(loaded.config)  # flags of old configs, with which it would answer in tuples
    if loaded is student:
        raise TrainingError(
            "the teacher is the very model that is trained; pass a copy of it, or its path"
        )
    config: Any = loaded.config
    if outputs_of(loaded) != outputs_of(student):
        what = "numbers in an embedding" if gives_embeddings(student) else "labels"
        raise TrainingError(
            f"the teacher has {outputs_of(loaded)} {what}, the student {outputs_of(student)}; "
            "they must be for the same task"
        )
    _check_order(*(_names(one) for one in (config, student.config)))
    if isinstance(loaded, PreTrainedModel):
        theirs, mine = (getattr(c, "vocab_size", None) for c in (config, student.config))
        if theirs != mine:
            if not given and other is not None:
                return other(loaded, str(teacher)).to(device)
            raise TrainingError(
                f"the teacher's vocabulary has {theirs} tokens, the student's {mine}; "
                "they read the same token ids, so both must use one tokenizer: give the teacher's "
                "folder, with its tokenizer in it, and the student's as processing_class"
            )
    return loaded.to(device)


def _names(config: Any) -> list[str]:
    """Labels in order, as far as a config names them."""
    names = getattr(config, "id2label", None) or {}
    return [str(names[number]) for number in sorted(names)]


def _check_order(theirs: Sequence[str], mine: Sequence[str]) -> None:
    """Refuse labels of the same names with other numbers: every answer would mean another."""
    lower = [[name.lower() for name in names] for names in (theirs, mine)]
    if lower[0] != lower[1] and sorted(lower[0]) == sorted(lower[1]):
        raise TrainingError(
            f"the teacher numbers its labels {list(theirs)}, the student {list(mine)}: its answers "
            "would be taken for others; give both the same order (id2label of their configs, and "
            "of the student the numbers in the rows)"
        )


def problem_type(model: Any) -> str:
    """What a model predicts, of its config; one class where that does not say."""
    if gives_embeddings(model):
        return EMBEDDING
    config: Any = model.config
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
        problem, kind: what the student predicts, and of what.
        lessons: how often the losses were computed.

    Args:
        teacher: as of :func:`load_teacher`.
        settings: weights of the losses.
        student: the model that learns; its config says what is predicted.
        sizes: tells ``(heads, neurons)`` that the student has now of each layer, in the order in
            which they run.
        sized: tells whether nothing more of the student is chosen to be removed.
    """

    def __init__(
        self,
        teacher: Any,
        settings: DistillationConfig,
        student: Any,
        sizes: Callable[[], Sequence[tuple[int, int]]],
        sized: Callable[[], bool] = lambda: True,
    ) -> None:
        self._sized = sized
        self.teacher = teacher
        self.settings = settings
        self.cache: TeacherCache | None = None
        self.problem = problem_type(student)
        self.kind = kind_of_model(student)
        self._sizes = sizes
        self._watches = False
        self._watched: Tensor | None = None  # rows of the batch that another loss computes
        self.lessons = 0
        self._accepted = _accepted(teacher)
        for model, name in ((student, "model that is trained"), (teacher, "teacher")):
            if self.wants_hidden and not takes(model, "output_hidden_states"):
                raise TrainingError(
                    f"the forward method of the {name} ({type(model).__name__}) takes no "
                    "output_hidden_states, so its hidden states cannot be compared: accept it and "
                    "return them, or set distillation.hidden_weight to 0"
                )

    @property
    def wants_hidden(self) -> bool:
        return self.settings.hidden_weight > 0

    @property
    def asks(self) -> dict[str, bool]:
        """What both models are asked for besides their logits."""
        return {"output_hidden_states": True} if self.wants_hidden else {}

    def learns(self, model: nn.Module) -> bool:
        """Whether a loss of the model now is one to learn from; else it is being evaluated."""
        return model.training or self._watches

    def stop_dropout_(self, model: nn.Module) -> None:
        """:func:`stop_dropout_`, if the settings or the kind of outputs say so.

        An embedding is a vector to meet, and chance moves each of its numbers. While gates are
        chosen it has a use: without it a model that begins as its teacher has no gradients.
        """
        dropout = self.settings.dropout
        if dropout is False or (dropout is None and self.problem == EMBEDDING and self._sized()):
            stop_dropout_(model)

    def completing(
        self, own: Callable[..., Any], student: Callable[[], nn.Module]
    ) -> Callable[..., Any]:
        """A subclass's ``compute_loss``, with what the teacher adds where it does not call ours.

        Args:
            own: the subclass's, bound.
            student: gives the model that learns, unwrapped.
        """

        @functools.wraps(own)
        def compute_loss(
            model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
        ) -> Any:
            queries = inputs.get(QUERY_ROW)
            inputs, rows = without_rows(inputs)
            if not self.learns(model):
                return own(model, inputs, *args, **kwargs)
            self.stop_dropout_(model)
            lessons = self.lessons
            with self._watching(student(), rows) as seen:
                found = own(model, dict(inputs), *args, **kwargs)
            if self.lessons > lessons:
                return found
            if not seen:
                raise TrainingError(
                    f"{own.__qualname__} does not call the model, so there is nothing to compare "
                    "with the teacher: leave the teacher out"
                )
            whole = found if isinstance(found, tuple) else (found,)
            loss = self.settings.label_weight * whole[0] + self.loss(seen[0], inputs, rows, queries)
            return (loss, *whole[1:]) if isinstance(found, tuple) else loss

        return compute_loss

    @contextmanager
    def _watching(self, model: nn.Module, rows: Tensor | None) -> Iterator[list[Any]]:
        """The outputs of each call of the model within, with what is compared of them.

        For a loss that calls the model itself; one that calls the Trainer's is taught there.
        """
        seen: list[Any] = []

        def ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**self.asks, **kwargs}

        handles = [
            model.register_forward_pre_hook(ask, with_kwargs=True),
            model.register_forward_hook(lambda module, args, output: seen.append(output)),
        ]
        self._watches, self._watched = True, rows
        try:
            yield seen
        finally:
            self._watches, self._watched = False, None
            for handle in handles:
                handle.remove()

    def loss(
        self,
        outputs: Any,
        inputs: Mapping[str, Any],
        rows: Tensor | None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """What the teacher adds to the task's loss. A scalar.

        Args:
            outputs: the student's, with ``hidden_states`` where they are compared.
            inputs: that they follow from, labels included.
            rows: int64 ``(batch,)``, which training rows they are, if that is known.
            queries: int64 ``(batch,)``, of reranking the number of each row's query.
        """
        settings = self.settings
        self.lessons += 1
        guess = _output(outputs, "logits", "leave the teacher out")
        logits, hidden, mask = self._taught(inputs, self._watched if rows is None else rows)
        labels = inputs.get("labels")
        # Of tokens those count that carry a label: what the teacher says of others was not taught.
        counted = inputs.get("attention_mask") if labels is None else labels != IGNORED
        mask_of_tokens = None if guess.dim() < 3 or counted is None else counted.bool()
        extra = settings.logits_weight * self._outputs_loss(guess, logits, mask_of_tokens, queries)
        if self.wants_hidden:
            mine = _output(outputs, "hidden_states", "set distillation.hidden_weight to 0")[1:]
            layers = compared_layers(_by_state(self._sizes(), len(mine)))
            if len(hidden) == len(mine) and layers:
                hidden = [hidden[layer] for layer in layers]
                mine = [mine[layer] for layer in layers]
            extra = extra + settings.hidden_weight * hidden_loss(mine, hidden, mask)
        return extra

    def _outputs_loss(
        self, guess: Tensor, taught: Tensor, mask: Tensor | None, queries: Tensor | None
    ) -> Tensor:
        """Of embeddings and a query's texts as the settings say; else by the kind of labels."""
        settings = self.settings
        if self.problem == EMBEDDING:
            return embedding_loss(
                guess,
                taught,
                matryoshka_of(self.teacher.config),
                measure=settings.embedding_loss,
                similarity_weight=settings.similarity_weight,
            )
        if settings.ranking_loss == "pointwise":
            return logits_loss(guess, taught, settings.temperature, self.problem, mask)
        if queries is None or guess.shape[-1] != 1:
            raise TrainingError(
                f"distillation.ranking_loss {settings.ranking_loss} compares the texts of a query: "
                f"it needs a model of one output (this has {guess.shape[-1]}) and rows with the "
                f"column {QUERY_ROW!r}, the number of each row's query"
            )
        kind, temperature = settings.ranking_loss, settings.temperature
        return query_loss(guess, taught, queries.reshape(-1), kind, temperature)

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
            target = self.teacher(**given, **self.asks)
        return target.logits, (target.hidden_states or ())[1:], mask


def _output(outputs: Any, name: str, instead: str) -> Any:
    """One of a model's outputs, which may be a class of the user's own."""
    found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if found is None:
        raise TrainingError(
            f"the model that is trained returns no {name}, which the teacher's are compared with "
            f"(it returned a {type(outputs).__name__}): return a ModelOutput with {name}, or "
            f"{instead}"
        )
    return found


def _by_state(sizes: Sequence[tuple[int, int]], states: int) -> list[tuple[int, int]]:
    """Sizes of layers, in order, put together where a hidden state is that of several of them."""
    together = max(len(sizes) // states, 1) if states else 1
    parts = [sizes[at : at + together] for at in range(0, len(sizes), together)]
    return [(sum(h for h, _ in part), sum(n for _, n in part)) for part in parts]


def takes(model: Any, name: str) -> bool:
    """Whether the forward method of a model has an input of this name."""
    parameters = inspect.signature(getattr(model, "takes_as", model).forward).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _accepted(model: Any) -> Callable[[str], bool]:
    """Which of a student's inputs a teacher takes: the student may be a class of the user's own."""
    parameters = inspect.signature(getattr(model, "takes_as", model).forward).parameters.values()
    named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if takes_any and named:
        named |= {*TEXT_INPUTS, *IMAGE_INPUTS}
    return lambda name: name != "labels" and (name in named or (takes_any and not named))
