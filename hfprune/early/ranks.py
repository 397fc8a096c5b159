"""What a proposal says otherwise for rerankers and sentence encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hfprune.core.tasks import DEFAULT_METRICS, Task
from hfprune.early.model import ModelFacts

RANKS: Final[tuple[Task, ...]] = ("reranking", "sentence_embedding")
TASKS: Final[Mapping[Task, str]] = {
    "single_label_classification": "one of several labels for each text",
    "multi_label_classification": "any number of labels for each text",
    "regression": "the label is a number",
    "token_classification": "one tag for each word",
    "image_classification": "one of several labels for each image",
    "reranking": "how well a text answers a query",
    "sentence_embedding": "a vector for each text, learned without labels",
}
_OF_QUERIES: Final = {
    "text_column": "column of the query",
    "text_pair_column": "column of the text that may answer it",
    "label_column": "column that says how relevant the text is",
    "validation_fraction": "of the queries, to choose the best checkpoint",
    "test_fraction": "of the queries, only reported on",
}
# Keys that mean nothing to embeddings, by section.
_NOT_EMBEDDED: Final = {
    "data": ("label_column",),
    "distillation": ("temperature", "label_weight"),
}


def adapted(
    task: Task, sections: Mapping[str, Sequence[Any]], key: Any, bare: bool = False
) -> dict[str, list[Any]]:
    """The sections of a proposal as one of :data:`RANKS` has them.

    Args:
        task: which.
        sections: keys by section.
        key: makes a key of its name, its value and a comment.
        bare: whether the model's folder says nothing of pooling.
    """
    found = {name: list(keys) for name, keys in sections.items()}
    comment = "over the queries" if task == "reranking" else "against the dense model"
    metrics = list(DEFAULT_METRICS[task])
    # A metric of rows that rank among each other moves with every checkpoint.
    found["training"] = [one for one in found["training"] if one.name != "metric_for_best_model"]
    found["evaluation"] = [key("metrics", metrics, f"{comment}; the first is the one that counts")]
    if task == "reranking":
        found["data"] = [
            key(one.name, one.value, _OF_QUERIES.get(one.name, one.comment))
            for one in found["data"]
        ]
        found["benchmark"] = [
            key("batch_sizes", [10, 50, 100], "texts of one query; the first decides"),
            key("threads", 1, "CPU threads"),
        ]
        found["distillation"] = [one for one in found["distillation"] if one.name != "augmentation"]
        return found
    if bare:
        found["model"] += [
            key("pooling", "mean", "the folder does not say: mean, cls (the first token) or max"),
            key("normalize", False, "nor this: true, if its embeddings are scaled to length 1"),
        ]
    del found["teacher"]  # the model itself, as it is
    for section, names in _NOT_EMBEDDED.items():
        found[section] = [one for one in found[section] if one.name not in names]
    found["distillation"].append(key("label_weight", 0.0, "labels are the same embeddings"))
    return found


def few_to_test_on(task: Task, count: int) -> list[str]:
    """What to tell of few rows (of reranking: queries), of which a fifth is held out.

    Nothing of embeddings: none of their texts is right or wrong.
    """
    test = count * 0.2
    if test >= 500 or task == "sentence_embedding":
        return []
    what = "queries" if task == "reranking" else "rows"
    return [
        f"{count} {what} leave about {test:.0f} to test on: a difference of less than "
        f"{100 / math.sqrt(max(test, 1)):.0f} points will not be told from chance"
    ]


def read_as(model: ModelFacts, task: Task) -> list[str]:
    """What to tell of a bare encoder."""
    if task != "sentence_embedding" or not model.bare:
        return []
    return [
        f"{model.name} says nothing of pooling (it has no modules.json): the mean of a text's "
        "tokens, not scaled to length 1, is taken as its embedding; if it is used otherwise "
        "(as all-MiniLM, which is scaled), change model.pooling and model.normalize before the run"
    ]


def other_head(name: str, labels: int) -> list[str]:
    """What to tell of a fine-tuned model that is to become a reranker."""
    return [
        f"{name} is fine-tuned for another task ({labels} labels) and becomes a reranker: if "
        "training stops at that, set model.new_head: true"
    ]
