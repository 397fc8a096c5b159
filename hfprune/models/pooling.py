"""From hidden states to one vector a text, as the modules of sentence-transformers do it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.models.folders import check_files
from hfprune.models.layout import LaterModule, SentenceLayout, cut_of

# What a Dense layer may do to its outputs. A name is looked up here and never imported.
ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "torch.nn.modules.linear.Identity": lambda values: values,
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.activation.ReLU": F.relu,
    "torch.nn.modules.activation.GELU": F.gelu,
    "torch.nn.modules.activation.SiLU": F.silu,
    "torch.nn.modules.activation.Sigmoid": torch.sigmoid,
}


class DenseLayer(nn.Module):
    """A Dense module of sentence-transformers: a projection, its activation, perhaps a residual.

    Its weights are buffers that no training changes, and that stay in their own file.

    Args:
        module: its folder and config.

    Attributes:
        kind: ``Dense``.
        activation: its name, one of :data:`ACTIVATIONS`.
        out_features: how many numbers it gives.

    Raises:
        CheckpointError: its weights cannot be read, or do not fit its config.
        UnsupportedModelError: an activation that is not in :data:`ACTIVATIONS`, or inputs and
            outputs other than the embedding.
    """

    kind: Final = "Dense"
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None

    def __init__(self, module: LaterModule) -> None:
        super().__init__()
        config = module.config
        name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        if name not in ACTIVATIONS or not _of_embedding(module):
            raise UnsupportedModelError(
                f"{module.folder} holds a Dense layer with the activation {name!r:.80} between "
                f"{_places(module)}; hfprune runs those of the embedding with one of "
                + ", ".join(known.rpartition(".")[2] for known in ACTIVATIONS)
            )
        self.activation = str(name)
        file = module.folder / "model.safetensors"
        if not file.is_file():
            raise CheckpointError(
                f"{module.folder} holds no model.safetensors; save the encoder with a newer "
                "sentence-transformers (pickled weights are not read)"
            )
        check_files(module.folder)
        tensors = load_file(file)
        sizes = (config.get("in_features"), config.get("out_features"))
        weight = tensors.get("linear.weight")
        if weight is None or tuple(weight.shape) != sizes[::-1]:
            raise CheckpointError(f"{file} does not fit the sizes {sizes!r:.80} of its config.json")
        self.out_features = len(weight)
        self.has_residual = config.get("use_residual") is True
        for key, value in (
            ("weight", weight),
            ("bias", tensors.get("linear.bias")),
            ("residual", tensors.get("residual.weight")),
        ):
            self.register_buffer(key, value, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(texts, in)`` to ``(texts, out)``, in the dtype of the embeddings."""
        # Weights may be stored, or turned with the whole model, in half precision.
        weight, bias, residual = (
            None if value is None else value.to(embeddings.dtype)
            for value in (self.weight, self.bias, self.residual)
        )
        found = ACTIVATIONS[self.activation](F.linear(embeddings, cast(Tensor, weight), bias))
        if not self.has_residual:
            return found
        return found + (embeddings if residual is None else F.linear(embeddings, residual))


def _places(module: LaterModule) -> list[str]:
    """What a module reads and gives, as its config names it."""
    return sorted({str(module.config.get(f"module_{end}_name")) for end in ("input", "output")})


def _of_embedding(module: LaterModule) -> bool:
    return set(_places(module)) <= {"None", "sentence_embedding"}


class Normalize(nn.Module):
    """To length 1.

    Args:
        module: its folder and config.

    Raises:
        UnsupportedModelError: it scales something else than the embedding, such as each token.
    """

    kind: Final = "Normalize"

    def __init__(self, module: LaterModule) -> None:
        super().__init__()
        if not _of_embedding(module):
            raise UnsupportedModelError(
                f"{module.folder} scales {' and '.join(_places(module))} to length 1; hfprune "
                "scales embeddings alone: leave the module out, if nothing reads what it gives"
            )

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(texts, width)``."""
        return F.normalize(embeddings, dim=1)


class Cut(nn.Module):
    """To the first numbers of an embedding, whose length is then not 1 any more."""

    kind: Final = "Cut"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(texts, width)`` to ``(texts, at most size)``."""
        return embeddings[:, : self.size]


def later_modules(layout: SentenceLayout) -> nn.ModuleList:
    """What follows the pooling; errors as of its modules and of :func:`cut_of`.

    sentence-transformers cuts (``truncate_dim``) after its last module, so after normalising.
    """
    found: list[nn.Module] = [
        DenseLayer(module) if module.kind == "Dense" else Normalize(module)
        for module in layout.later
    ]
    size = cut_of(layout)
    return nn.ModuleList(found if size is None else [*found, Cut(size)])


def width_after(later: Iterable[nn.Module], hidden: int) -> int:
    """How many numbers an embedding has.

    Args:
        later: what follows the pooling.
        hidden: the size of hidden states.
    """
    width = hidden
    for module in later:
        if isinstance(module, DenseLayer):
            width = module.out_features
        elif isinstance(module, Cut):
            width = min(width, module.size)
    return width


def pooled(states: Tensor, mask: Tensor, pooling: str, later: Iterable[nn.Module]) -> Tensor:
    """One vector a text.

    Args:
        states: ``(batch, length, hidden)``.
        mask: ``(batch, length)``, 1 = real token.
        pooling: one of :data:`hfprune.models.layout.POOLING_MODES`.
        later: what follows.
    """
    real = mask[:, :, None].to(states)
    if pooling == "cls_token":
        first = mask.argmax(1)  # with padding on the left it is not the token 0
        found = states[torch.arange(len(states), device=states.device), first]
    elif pooling == "max_tokens":
        found = states.masked_fill(real == 0, torch.finfo(states.dtype).min).amax(1)
    else:
        found = (states * real).sum(1) / real.sum(1).clamp(min=1e-9)
    for module in later:
        found = module(found.float())
    return found
