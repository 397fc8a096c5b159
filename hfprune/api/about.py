"""What a model in memory says of its task."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

from hfprune.core.kinds import (
    IMAGE,
    TOKENS,
    become_reranker_,
    gives_embeddings,
    is_reranker,
    kind_of_model,
    problem_of_model,
)
from hfprune.core.tasks import Task
from hfprune.models.cross_encoder import ranks_by_its_files

_LIBRARY: Final = "sentence_transformers."
_CLASSES: Final = ("SentenceTransformer", "CrossEncoder")


def task_of(model: Any) -> Task:
    """The task of a model in memory; of a path or a name, that of most models, or of its folder.

    Raises:
        CheckpointError: the small files of a folder cannot be read.
    """
    of_library = sentence_transformers_class(model)
    if gives_embeddings(model) or of_library == "SentenceTransformer":
        return "sentence_embedding"
    if of_library == "CrossEncoder" and getattr(_config_of(model), "num_labels", 1) == 1:
        return "reranking"  # one of several labels is a classifier of pairs
    if isinstance(model, str | Path):
        return "reranking" if ranks_by_its_files(model) else "single_label_classification"
    kind = kind_of_model(model)
    if kind is TOKENS:
        return "token_classification"
    if kind is IMAGE:
        return "image_classification"
    if is_reranker(model.config):
        return "reranking"
    problem = getattr(model.config, "problem_type", None)
    if problem in ("multi_label_classification", "regression"):
        return problem  # type: ignore[no-any-return]
    return "regression" if model.config.num_labels == 1 else "single_label_classification"


def contradicts(dense: Any, model: Any) -> bool:
    """Whether the configs of two models name different problems."""
    problems = {problem_of_model(dense), problem_of_model(model)} - {None}
    return len(problems) > 1


def in_task_of(dense: Any, model: Any) -> Any:
    """A dense model whose config says of its task what another one's does, if it says nothing.

    A model that is trained learns it of its labels and rows, and its teacher sees none of them.

    Returns:
        The model itself, or one with the same weights and a config of its own.
    """
    if gives_embeddings(dense) or getattr(dense.config, "problem_type", None) is not None:
        return dense
    told = copy.copy(dense)  # a user's module, which stays as it is
    told.config = copy.deepcopy(dense.config)
    if is_reranker(model.config):
        become_reranker_(told.config)
    else:
        told.config.problem_type = getattr(model.config, "problem_type", None)
    return told


def sentence_transformers_class(model: Any) -> str | None:
    """``SentenceTransformer`` or ``CrossEncoder``, which bring their tokenizer and modules."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith(_LIBRARY) and kind.__name__ in _CLASSES:
            return kind.__name__
    return None


def _config_of(model: Any) -> Any:
    return getattr(model, "config", None)


def all_names_of(model: Any) -> list[str]:
    """The labels of a model in memory, in order; ``LABEL_0`` and so on where it has no names."""
    if gives_embeddings(model):
        return []
    names = getattr(_config_of(model), "id2label", None) or {}
    return [str(names[key]) for key in sorted(names)]


def names_of(model: Any) -> list[str] | None:
    """The labels that a model in memory names, in order; ``None`` where it has no names."""
    ordered = all_names_of(model)
    unnamed = all(name == f"LABEL_{number}" for number, name in enumerate(ordered))
    return None if unnamed or len(ordered) < 2 else ordered
