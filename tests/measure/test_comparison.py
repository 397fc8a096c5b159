"""Two models class by class and row by row, against scikit-learn and cases worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hfprune.core.errors import DataError
from hfprune.measure.comparison import MOST_CONFUSED, changes, class_scores


def one_hot(classes: Any, count: int) -> Any:
    """Logits that say these classes."""
    return np.eye(count, dtype=np.float32)[np.asarray(classes)] * 4


@pytest.mark.parametrize("count", [2, 5, MOST_CONFUSED + 1])
def test_class_scores_are_scikit_learns(count: int) -> None:
    draw = np.random.default_rng(count)
    logits, labels = draw.normal(size=(300, count)), draw.integers(0, count, 300)
    names = [f"class {number}" for number in range(count)]
    found = class_scores(logits, labels, "single_label_classification", count, names)
    assert found is not None
    said = logits.argmax(-1)
    wanted = precision_recall_fscore_support(
        labels, said, labels=range(count), zero_division=0.0
    )  # fmt: skip
    for key, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        mine = [entry[key] for entry in found["classes"]]
        np.testing.assert_allclose(mine, values, atol=1e-6)
    assert [entry["label"] for entry in found["classes"]] == names
    if count > MOST_CONFUSED:
        assert found["confusion"] is None
    else:
        assert found["confusion"] == confusion_matrix(labels, said, labels=range(count)).tolist()


def test_class_scores_of_several_labels_and_of_words() -> None:
    draw = np.random.default_rng(1)
    logits, flags = draw.normal(size=(90, 3)), draw.integers(0, 2, (90, 3)).astype(float)
    several = class_scores(logits, flags, "multi_label_classification", 3, list("abc"))
    assert several is not None
    wanted = precision_recall_fscore_support(flags, logits > 0, zero_division=0.0)
    assert [entry["f1"] for entry in several["classes"]] == pytest.approx(wanted[2], abs=1e-6)
    assert several["confusion"] is None

    said, true = [[0, 1, 1, 0], [1, 1, 0, 0]], [[-100, 1, 0, 0], [-100, 1, -100, 1]]
    words = class_scores(
        one_hot(said, 2), np.asarray(true), "token_classification", 2, ["O", "B-X"]
    )
    assert words is not None
    assert words["confusion"] == [[1, 1], [1, 2]], "what has -100 does not count"
    assert class_scores(np.ones((3, 1)), np.ones(3), "regression", 1, []) is None
    never = class_scores(one_hot([0, 0], 2), np.asarray([0, 0]), "single_label_classification", 2,
                         ["a", "b"])  # fmt: skip
    assert never is not None
    assert never["classes"][1] == {
        "label": "b", "support": 0, "predicted": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0,
    }  # fmt: skip


def test_changes_of_one_label() -> None:
    before, after, true = [0, 0, 1, 2, 1], [0, 1, 0, 1, 1], np.asarray([0, 0, 0, 0, 2])
    new = one_hot(after, 3)
    new[2] *= 3  # the surest change
    summary, rows = changes(
        one_hot(before, 3), new, true, "single_label_classification", 3, list("abc")
    )
    assert summary == {"rows": 5, "changed": 3, "fixed": 1, "broken": 1}
    assert [entry["row"] for entry in rows] == [3, 2, 4]
    assert rows[0] | {"confidence": None} == {
        "row": 3, "label": "a", "before": "b", "after": "a", "confidence": None,
    }  # fmt: skip
    sure = np.exp(4) / (np.exp(4) + 2)
    assert rows[1]["confidence"] == pytest.approx([sure, sure], abs=1e-4)
    _, few = changes(
        one_hot(before, 3), new, true, "single_label_classification", 3, list("abc"), most=1
    )
    assert few == rows[:1]


def test_changes_of_the_other_tasks() -> None:
    before = np.asarray([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    after = np.asarray([[1.0, 1.0], [1.0, 1.0], [-1.0, 9.0]])
    flags = np.asarray([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    summary, rows = changes(before, after, flags, "multi_label_classification", 2, ["x", "y"])
    assert summary == {"rows": 3, "changed": 2, "fixed": 1, "broken": 1}
    assert rows == [
        {"row": 3, "label": [], "before": [], "after": ["y"]},
        {"row": 1, "label": ["x", "y"], "before": ["x"], "after": ["x", "y"]},
    ]

    summary, rows = changes(
        np.asarray([[1.0], [2.0]]), np.asarray([[1.5], [2.0]]), np.asarray([1.25, 2.0]),
        "regression", 1, [],
    )  # fmt: skip
    assert summary == {"rows": 2, "mean_change": 0.25}
    assert rows == [{"row": 1, "label": 1.25, "before": 1.0, "after": 1.5}]

    true = np.asarray([[-100, 0, -100, 1], [-100, 1, 1, -100]])
    summary, rows = changes(
        one_hot([[0, 0, 0, 0], [0, 1, 1, 0]], 2), one_hot([[1, 0, 1, 1], [1, 1, 1, 1]], 2), true,
        "token_classification", 2, ["O", "B-X"],
    )  # fmt: skip
    assert summary == {"rows": 2, "changed": 1, "fixed": 1, "broken": 0}
    assert rows == [
        {"row": 1, "words": [{"word": 1, "label": "B-X", "before": "O", "after": "B-X"}]}
    ]
    with pytest.raises(DataError, match="logits have the shape"):
        changes(before, after[:, :1], flags, "multi_label_classification", 2, ["x", "y"])
