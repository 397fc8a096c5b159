"""Which column is the text and which the label: tables of columns, and the text of errors."""

from __future__ import annotations

from typing import Any

import pytest

from hfprune.core.errors import DataError
from hfprune.early.columns import Chosen, choose_columns, label_cells

TEXTS = [f"the parcel number {n} came late and wet" for n in range(12)]
TOPICS = ["billing", "delivery"] * 6
URGENCY = ["low", "low", "high"] * 4
IDS = [f"T-{n}" for n in range(12)]
STARS = [str(n % 5 + 1) for n in range(12)]
PRICES = [f"{n}.5" for n in range(12)]
DATES = [f"2026-01-{n + 1:02}" for n in range(12)]


def choose(columns: dict[str, list[Any]], **said: Any) -> Chosen:
    return choose_columns(columns, "tickets.csv", **said)


@pytest.mark.parametrize(
    ("columns", "said", "text", "label", "task"),
    [
        ({"text": TEXTS, "label": TOPICS}, {}, "text", "label", "single"),
        ({"id": IDS, "body": TEXTS, "topic": TOPICS}, {}, "body", "topic", "single"),
        # A known name beats an unknown one.
        ({"body": TEXTS, "topic": TOPICS, "office": URGENCY}, {}, "body", "topic", "single"),
        ({"a": TEXTS, "b": TOPICS, "c": IDS}, {}, "a", "b", "single"),
        ({"review": TEXTS, "stars": STARS, "date": DATES}, {}, "review", "stars", "single"),
        ({"review": TEXTS, "price": PRICES}, {"label": ["price"]}, "review", "price", "regression"),
        ({"review": TEXTS, "score": PRICES}, {}, "review", "score", "regression"),
        (
            {"text": TEXTS, "rude": ["0", "1"] * 6, "spam": ["1", "0", "0"] * 4},
            {},
            "text",
            ["rude", "spam"],
            "multi",
        ),
        ({"text": TEXTS, "labels": [["a"], ["a", "b"]] * 6}, {}, "text", "labels", "multi"),
        ({"words": [["a", "b"]] * 12, "tags": [["O", "X"]] * 12}, {}, "words", "tags", "token"),
        # A long text beside short ones of no known name.
        ({"from": ["a b", "c d e"] * 6, "x": [t * 5 for t in TEXTS], "y": TOPICS}, {}, "x", "y",
         "single"),
        ({"text": TEXTS, "label": STARS}, {"task": "regression"}, "text", "label", "regression"),
    ],
)  # fmt: skip
def test_columns_are_found(
    columns: dict[str, list[Any]], said: dict[str, Any], text: str, label: Any, task: str
) -> None:
    chosen = choose(columns, **said)
    assert (chosen.text, chosen.label) == (text, label)
    assert chosen.task.startswith(task)


def test_pairs_are_known_by_their_names() -> None:
    chosen = choose({"premise": TEXTS, "hypothesis": TEXTS[::-1], "label": TOPICS})
    assert (chosen.text, chosen.pair) == ("premise", "hypothesis")
    assert chosen.said[0] == "pairs of texts: 'premise' and 'hypothesis'"


@pytest.mark.parametrize(
    ("columns", "said", "error"),
    [
        (
            {"title": TEXTS, "body": TEXTS[::-1], "topic": TOPICS},
            {},
            "tickets.csv: more than one column may be the text: 'title' (such as 'the parcel "
            "number 0 came late and wet'), 'body'",
        ),
        (
            {"body": TEXTS, "team": TOPICS, "urgency": URGENCY},
            {},
            "more than one column may be the label: 'team' (such as 'billing'), 'urgency' (such "
            "as 'low'). Say which with --label-column",
        ),
        ({"body": TEXTS, "id": IDS}, {}, "no column looks like one: 'id' (such as 'T-0')"),
        ({"a": STARS, "b": PRICES}, {}, "no column looks like a text: 'a' (such as '1')"),
        ({"body|topic": TEXTS}, {}, "the header is one cell that holds '|'"),
        ({"body": TEXTS}, {}, "tickets.csv has one column, 'body'; a classifier learns from two"),
        (
            {"body": TEXTS, "topic": TOPICS},
            {"label": ["topics"]},
            "has no column 'topics', which --label-column asks for. Its columns: 'body', 'topic'. "
            "Did you mean 'topic'?",
        ),
        (
            {"text": TEXTS * 4, "label": [str(n // 2) for n in range(48)]},
            {},
            "24 different whole numbers, which may be quantities or classes: say --task",
        ),
    ],
)
def test_what_is_unclear_is_asked(
    columns: dict[str, list[Any]], said: dict[str, Any], error: str
) -> None:
    with pytest.raises(DataError) as found:
        choose(columns, **said)
    assert error in str(found.value)


def test_labels_count_under_one_spelling() -> None:
    assert label_cells(["1", "1.0", None, "", 1]) == ["1", "1", "1"]
    assert label_cells([["a", "b"], ["a"]]) == ["a", "b", "a"]


def test_queries_beside_texts_are_no_labels() -> None:
    """They come again and again, as labels do, and would be as many classes."""
    asked = ["was it wet", "was it late"] * 6
    for columns in ({"query": asked, "text": TEXTS}, {"query": asked, "text": TEXTS, "id": IDS}):
        for ranker in (True, False, None):
            with pytest.raises(DataError) as error:
                choose(columns, ranker=ranker)
            told = str(error.value)
            assert told.startswith(
                "tickets.csv: no column says how relevant the texts are to the queries in column "
                "'query': give it a column 'label'"
            )
            assert "(--task sentence_embedding)" in told
    named = choose({"query": asked, "text": TEXTS}, label=["query"])
    assert (named.text, named.label, named.task) == ("text", "query", "single_label_classification")
    topics = choose({"query": asked, "text": TEXTS, "topic": TOPICS})
    assert topics.label == "topic"


def test_labels_that_are_all_the_same_are_told() -> None:
    asked, ones = ["was it wet", "was it late"] * 6, [1] * 12
    with pytest.raises(DataError) as error:
        choose({"query": asked, "text": TEXTS, "label": ones}, ranker=True)
    assert str(error.value) == (
        "tickets.csv: all 12 labels in column 'label' are the same, '1': to learn takes rows of "
        "two labels or more, of a query also texts that do not answer it; or name another column "
        "with --label-column"
    )
    with pytest.raises(DataError, match=r"all 12 labels in column 'y' are the same, 'a': to learn"):
        choose({"text": TEXTS, "y": ["a"] * 12})
    # What is called the label is not passed over in silence; another column of labels will do.
    with pytest.raises(DataError, match="column 'label' are the same"):
        choose({"text": TEXTS, "label": ones, "office": URGENCY})
    assert choose({"text": TEXTS, "label": ones, "topic": TOPICS}).label == "topic"
    assert choose({"text": TEXTS, "rating": ones, "office": URGENCY}).label == "office"
