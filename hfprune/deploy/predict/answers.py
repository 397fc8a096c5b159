"""From logits to what a person reads: labels with probabilities, a number, or entities.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import TrainingError
from hfprune.core.tasks import Task

# Prefixes of tags that begin an entity, and those after which one is over.
_BEGIN: Final = frozenset("BSU")
_END: Final = frozenset("ESLU")


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities over the last axis, float64; those of one row add up to 1."""
    values = np.asarray(logits, dtype=np.float64)
    odds = np.exp(values - values.max(axis=-1, keepdims=True))
    found: NDArray[np.float64] = odds / odds.sum(axis=-1, keepdims=True)
    return found


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities of labels that do not exclude each other, float64."""
    found: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))
    return found


def answer(logits: NDArray[Any], task: Task, names: Sequence[str]) -> dict[str, Any]:
    """What a model says of one text or image.

    >>> answer(np.array([0.0, 0.0]), "single_label_classification", ["bad", "good"])
    {'label': 'bad', 'score': 0.5, 'scores': {'bad': 0.5, 'good': 0.5}}

    Args:
        logits: ``(labels,)``.
        task: any but ``token_classification``.
        names: of the labels, in the model's order.

    Returns:
        JSON-ready. One label: ``label`` and ``score``, its probability. Any number of labels:
        ``labels``, those whose probability is above a half. Both: ``scores`` of all labels, the
        greatest first. Regression: ``value``; of reranking that is the score, by which texts of
        one query are put in order. Embeddings: ``embedding``, a list of numbers.

    Raises:
        TrainingError: the logits are not numbers.
    """
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the model gives logits that are no finite numbers: its training has diverged"
        )
    if task == "sentence_embedding":
        return {"embedding": [float(value) for value in logits]}
    if task in ("regression", "reranking"):
        return {"value": float(logits[0])}
    several = task == "multi_label_classification"
    shares = sigmoid(logits) if several else softmax(logits)
    order = np.argsort(-shares, kind="stable").tolist()
    scores = {names[place]: float(shares[place]) for place in order}
    if several:
        # sigmoid(x) > 0.5 exactly where x > 0.
        return {"labels": [names[p] for p in order if logits[p] > 0], "scores": scores}
    best = order[0]
    return {"label": names[best], "score": float(shares[best]), "scores": scores}


def split_words(text: str) -> list[tuple[str, int, int]]:
    """The words of a text, with the places where they begin and end in it.

    >>> split_words(" Ada  Lovelace")
    [('Ada', 1, 4), ('Lovelace', 6, 14)]
    """
    found, at = [], 0
    for word in text.split():
        begin = text.index(word, at)
        at = begin + len(word)
        found.append((word, begin, at))
    return found


def tagged(
    text: str,
    words: Sequence[tuple[str, int, int]],
    word_ids: Sequence[int | None],
    logits: NDArray[Any],
    names: Sequence[str],
) -> dict[str, Any]:
    """What a model says of the words of a text.

    Args:
        text: as it came.
        words: of it, with places, as :func:`split_words` gives them.
        word_ids: for each token the number of its word, ``None`` for special tokens.
        logits: ``(tokens, labels)``, those of the first token of a word count.
        names: of the labels.

    Returns:
        JSON-ready: ``words`` with ``word``, ``label`` and ``score``; ``entities``, if the labels
        mark such, each with ``type``, ``text``, ``start``, ``end`` (characters) and ``score``, the
        least of its words'; ``cut``, where a word did not fit into the model's length.

    Raises:
        TrainingError: the logits are not numbers.
    """
    first: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            first.setdefault(word, place)
    logits = np.asarray(logits)[list(first.values())] if first else np.zeros((0, len(names)))
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the model gives logits that are no finite numbers: its training has diverged"
        )
    shares = softmax(logits) if len(logits) else logits
    told: list[dict[str, Any]] = [
        {
            "word": words[word][0],
            "label": names[int(row.argmax())],
            "score": float(row.max()),
        }
        for word, row in zip(first, shares, strict=True)
    ]
    found: dict[str, Any] = {"words": told}
    if all(name == "O" or name[1:2] == "-" for name in names):
        spans = entities([str(entry["label"]) for entry in told])
        places = [words[word] for word in first]
        found["entities"] = [
            {
                "type": kind,
                "text": text[places[begin][1] : places[end - 1][2]],
                "start": places[begin][1],
                "end": places[end - 1][2],
                "score": min(float(entry["score"]) for entry in told[begin:end]),
            }
            for kind, begin, end in spans
        ]
    if len(first) < len(words):
        found["cut"] = len(words) - len(first)
    return found


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first word and word behind the last of each entity, read as conlleval reads tags.

    >>> entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4), ('LOC', 4, 5)]
    """
    found: list[tuple[str, int, int]] = []
    kind, begin, before = "", 0, "O"
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, this = tag.partition("-")
        goes_on = bool(kind) and this == kind and prefix not in _BEGIN and before not in _END
        if kind and not goes_on:
            found.append((kind, begin, place))
            kind = ""
        if this and not goes_on:
            kind, begin = this, place
        before = prefix
    return found


def best_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Answers on the texts of a query together, the best first; queries as they first came.

    Answers of other tasks stay in order.
    """
    places: dict[str, int] = {}
    for row in rows:
        places.setdefault(row.get("query", ""), len(places))
    return sorted(
        rows,
        key=lambda row: (places[row["query"]], -row["value"]) if "query" in row else (0, 0.0),
    )


def as_line(row: Mapping[str, Any], *, top: int = 1) -> str:
    """A row's answer for people, in one line.

    Args:
        row: what :func:`answer` or :func:`tagged` gave, with ``text`` (or ``image``); of pairs both
            texts are shown.
        top: of labels that exclude each other, so many are shown.
    """
    # Names of labels come from a config, and one with a line break would look like another row.
    return " ".join(_shown(row, top).splitlines())


def _shown(row: Mapping[str, Any], top: int) -> str:
    shown_of = [row[name] for name in ("query", "text", "text_pair", "image") if name in row]
    text = "  |  ".join(" ".join(str(one).split()) for one in shown_of)
    if "value" in row:
        return f"{row['value']:.4f}  {text}"
    if "embedding" in row:
        shown = " ".join(f"{value:.4f}" for value in row["embedding"][:4])
        return f"[{shown} ...; {len(row['embedding'])}]  {text}"
    if "entities" in row:
        told = ", ".join(f"{e['type']}: {e['text']} {e['score']:.3f}" for e in row["entities"])
        return f"{told or 'no entity'}  | {text}"
    if "words" in row:
        return " ".join(f"{entry['word']}/{entry['label']}" for entry in row["words"])
    if "labels" in row:
        shown = ", ".join(f"{name} {row['scores'][name]:.3f}" for name in row["labels"])
        return f"{shown or 'no label'}  {text}"
    best = list(row["scores"].items())[:top]
    return f"{', '.join(f'{name} {share:.3f}' for name, share in best)}  {text}"
