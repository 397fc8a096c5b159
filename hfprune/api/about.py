"""What a model in memory says of its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hfprune.core.kinds import IMAGE, TOKENS, gives_embeddings, is_reranker, kind_of_model
from hfprune.core.tasks import Task

_LIBRARY: Final = "sentence_transformers."


def task_of(model: Any) -> Task:
    """The task of a model in memory; of a path or a name, that of most models."""
    if gives_embeddings(model) or is_sentence_transformer(model):
        return "sentence_embedding"
    if isinstance(model, str | Path):
        return "single_label_classification"
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


def is_sentence_transformer(model: Any) -> bool:
    """Whether it is a ``SentenceTransformer``, which brings its tokenizer and its modules."""
    return any(
        kind.__name__ == "SentenceTransformer" and kind.__module__.startswith(_LIBRARY)
        for kind in type(model).__mro__
    )


def all_names_of(model: Any) -> list[str]:
    """The labels of a model in memory, in order; ``LABEL_0`` and so on where it has no names."""
    if gives_embeddings(model):
        return []
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    return [str(names[key]) for key in sorted(names)]


def names_of(model: Any) -> list[str] | None:
    """The labels that a model in memory names, in order; ``None`` where it has no names."""
    ordered = all_names_of(model)
    unnamed = all(name == f"LABEL_{number}" for number, name in enumerate(ordered))
    return None if unnamed or len(ordered) < 2 else ordered
