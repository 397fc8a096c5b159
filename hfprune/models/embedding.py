"""A stock encoder that gives one vector a text: what ``task: sentence_embedding`` prunes.

:func:`as_embedder_` lets an encoder pool, and normalise, as its folder's modules say. The vector
stands where a classifier has its logits, so that whatever compares, exports, quantizes or times
logits does so with embeddings. Weights and their names stay those of the encoder: what is saved is
a folder of sentence-transformers that others load as such.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.files import atomic_write_json
from hfprune.core.kinds import POOLING_KEY, gives_embeddings
from hfprune.core.reading import read_json
from hfprune.models.layout import SentenceLayout, cut_before, longest_of, write_modules
from hfprune.models.pooling import later_modules, pooled, width_after

# Key of a model's config: the sizes to which its embeddings may be cut.
MATRYOSHKA_KEY = "matryoshka_dimensions"


@dataclass
class EmbeddingOutput(ModelOutput):
    """What an embedder gives.

    Attributes:
        loss: against the embeddings that were given as labels; a scalar.
        logits: the embeddings, float ``(batch, width)``.
        hidden_states: of all layers, where they are asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


# What a config says of a head.
HEAD_KEYS = {"id2label", "label2id", "problem_type"}


class _Embedder(nn.Module):
    """Mixed into a stock encoder's class; see :func:`as_embedder_`."""

    sentence_layout: SentenceLayout
    later: nn.ModuleList
    takes_types: bool
    config: Any

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **others: Any,
    ) -> EmbeddingOutput:
        """Embeddings of token ids; ``labels`` are embeddings to come near to."""
        given: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and self.takes_types:
            given["token_type_ids"] = token_type_ids
        for name in ("return_dict", "num_items_in_batch"):
            others.pop(name, None)
        found = super().forward(
            **given, output_hidden_states=output_hidden_states, return_dict=True, **others
        )
        states = found.last_hidden_state
        if attention_mask is None:
            attention_mask = states.new_ones(states.shape[:2], dtype=torch.long)
        embeddings = pooled(states, attention_mask, self.sentence_layout.pooling, self.later)
        loss = None
        if labels is not None:
            loss = embedding_loss(embeddings, labels, matryoshka_of(self.config))
        hidden = found.hidden_states if output_hidden_states else None
        return EmbeddingOutput(loss=loss, logits=embeddings, hidden_states=hidden)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As the encoder's own, with the modules of sentence-transformers beside it."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        file = Path(save_directory) / "config.json"
        config = read_json(file)
        for key in HEAD_KEYS & config.keys():  # left by a head that it once had
            del config[key]
        atomic_write_json(file, config)
        write_modules(self.sentence_layout, Path(save_directory))


@functools.cache
def _class_of(base: Any) -> Any:
    # The stock name and module: config.json calls the class by it that reads these weights, and
    # transformers 5 finds by it what of a class's outputs can be recorded.
    about = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (_Embedder, base), about | {"encoder_class": base})


def as_embedder_(model: Any, layout: SentenceLayout) -> Any:
    """Let a stock encoder give embeddings. In place.

    Args:
        model: an encoder without a head; its gates, plans and weights stay as they are.
        layout: how to pool, and what follows.

    Returns:
        The same model; its forward gives an :class:`EmbeddingOutput`. A pooler that the encoder
        brings keeps its weights, which nothing reads or trains.

    Raises:
        UnsupportedModelError: a model with a head, or one that does not give hidden states; a
            Dense layer that hfprune does not know.
    """
    if gives_embeddings(model):
        return model
    if getattr(model, "base_model", model) is not model:
        raise UnsupportedModelError(
            f"{type(model).__name__} has a head, and embeddings are of an encoder alone: load it "
            "with AutoModel"
        )
    base = type(model)
    own = inspect.signature(base.forward).parameters
    model.takes_types = "token_type_ids" in own
    model.later = later_modules(layout)
    setattr(model, POOLING_KEY, layout)
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module):
        pooler.requires_grad_(False)
    model.__class__ = _class_of(cast(Hashable, base))
    device = next(model.parameters()).device
    model.later.to(device)
    model.embedding_width = width_after(model.later, int(model.config.hidden_size))
    return model


def cut_as_read_(model: Any, tokenizer: Any) -> None:
    """Let what is saved of an embedder cut texts where a tokenizer does, if not before. In place.

    Args:
        model: an embedder; of others the tokenizer beside the weights says it.
        tokenizer: that reads its texts; ``None``: nothing is known.
    """
    most = getattr(tokenizer, "model_max_length", None)
    if not gives_embeddings(model) or type(most) is not int:
        return
    known = longest_of(model.sentence_layout)
    known = getattr(model.config, "max_position_embeddings", None) if known is None else known
    if type(known) is int and most < known:
        model.sentence_layout = cut_before(model.sentence_layout, most)


def maker_of(model: Any) -> Callable[[Any], Any]:
    """What makes a model like this one, of random weights, from a config."""
    if not gives_embeddings(model):
        return type(model)
    base, layout = type(model).encoder_class, model.sentence_layout
    return lambda config: as_embedder_(base(config), layout)


def as_encoder_(model: Any) -> Any:
    """Undo :func:`as_embedder_`. In place."""
    if gives_embeddings(model):
        model.__class__ = type(model).encoder_class
        for name in ("takes_types", "embedding_width", POOLING_KEY):
            delattr(model, name)
        del model.later
    return model


def matryoshka_of(config: Any) -> tuple[int, ...]:
    """The sizes, ascending, to which embeddings may be cut, as the config says; often none.

    Raises:
        CheckpointError: something else than sizes.
    """
    sizes = getattr(config, MATRYOSHKA_KEY, None) or ()
    if not isinstance(sizes, list | tuple) or any(type(s) is not int or s < 1 for s in sizes):
        raise CheckpointError(
            f"config.json names {MATRYOSHKA_KEY} {sizes!r:.80}; expected a list of whole numbers"
        )
    return tuple(sorted(sizes))


def embedding_loss(
    student: Tensor,
    teacher: Tensor,
    sizes: Sequence[int] = (),
    *,
    measure: str = "cosine",
    similarity_weight: float = 1.0,
) -> Tensor:
    """How far embeddings are from a teacher's of the same texts. A scalar.

    The distance of each text's two embeddings, plus the mean squared difference of the
    similarities (cosines) of each two texts of the batch, in which what counts for search lies
    (relational distillation, Park et al. 2019). The latter are multiplied by the batch's number of
    texts, as each text has one distance and so many similarities.

    Args:
        student, teacher: float ``(batch, width)``.
        sizes: also the mean over embeddings cut to these sizes (Matryoshka; Kusupati et al. 2022).
        measure: ``cosine``: 1 less the cosine; ``mse``: the squared distance, over the teacher's
            mean squared length.
        similarity_weight: of the similarities.

    Worked value: student (1, 0), (0, 1), teacher (1, 0), (1, 0): distances 0 and 1, mean 0.5;
    similarities 0 where the teacher has 1, twice: mean 1, times 2 texts. In all 2.5.
    """
    student, teacher = student.float(), teacher.float().to(student.device)
    width = student.shape[-1]
    parts = [size for size in sizes if size < width]
    losses = [
        _loss(student[:, :size], teacher[:, :size], measure, similarity_weight)
        for size in (*parts, width)
    ]
    return torch.stack(losses).mean()


def _loss(student: Tensor, teacher: Tensor, measure: str, similarity_weight: float) -> Tensor:
    mine, theirs = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    if measure == "mse":
        length = teacher.square().sum(-1).mean().clamp(min=1e-12)
        loss = (student - teacher).square().sum(-1).mean() / length
    else:
        loss = 1.0 - (mine * theirs).sum(-1).mean()
    count = len(student)
    if similarity_weight and count > 1:
        gap = (mine @ mine.T - theirs @ theirs.T).square()
        others = ~torch.eye(count, dtype=torch.bool, device=gap.device)
        loss = loss + similarity_weight * count * gap[others].mean()
    return loss
