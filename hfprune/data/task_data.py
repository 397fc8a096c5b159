"""The three splits, ready for a Trainer, and what is needed to read a model's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import DataError
from hfprune.core.kinds import IMAGE_INPUTS
from hfprune.core.tasks import Task
from hfprune.data.candidates import QUERY_ROW
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.notices import Notice
from hfprune.data.token_rows import TokenRows
from hfprune.data.windows import mean_by_text, padded

if TYPE_CHECKING:
    from datasets import Dataset

    from hfprune.data.unlabeled import Unlabeled


SPLITS = ("train", "validation", "test")

# Column of windows of long texts: the number of the text in its split.
TEXT_ROW = "text_row"


def as_ranked(relevance: Any, queries: Any) -> NDArray[np.float64]:
    """Labels of reranking as metrics take them, float64 ``(rows, 2)``: relevance and query."""
    relevance = np.asarray(relevance, dtype=np.float64).reshape(-1)
    return np.stack([relevance, np.asarray(queries, dtype=np.float64)], axis=1)


@dataclass(frozen=True)
class TaskData:
    """The three splits, ready for a Trainer, and what is needed to read a model's output.

    Attributes:
        task: What the model's output means, spelled as ``config.problem_type`` (so images are of
            ``single_label_classification``), or ``token_classification``, ``reranking`` or
            ``sentence_embedding``.
        train, validation, test: Columns ``input_ids``, ``attention_mask`` and, where the tokenizer
            gives them, ``token_type_ids`` (lists of ints, truncated, not padded) and ``labels``: an
            int class number (single label), a list of ``num_labels`` floats 0 or 1 (multi-label),
            a float (regression), or a list of ints as long as ``input_ids`` (tokens; -100 where a
            token stands for no word). Of reranking, whose rows are pairs of a query and a text, a
            list of one float in [0, 1], and ``query_row``, the number of the query in its split;
            rows of a query follow one another. Of images ``image``, not decoded, and ``labels``.
            Of embeddings a list of floats, the dense model's embedding, once
            :meth:`with_embeddings` has added it. With ``data.stride`` a row is a window, and
            ``text_row`` is the number of its text.
        texts, text_pairs: The raw texts by split name, text for text as in the splits; lists of
            words for tokens, empty for images. ``text_pairs`` is empty where the recipe names no
            second text column.
        label_names: The name of each class number; empty for regression and reranking.
        max_length: The most tokens that a row holds, special tokens included.
        truncated: By split name, how many rows were cut to ``max_length``.
        seen_in_train: For validation and test, how many rows have a text (pair, image, query) that
            also stands in train: scores on such rows say nothing about new text.
        notices: What to tell of the data before work: counts of classes, and what looks wrong.
        unlabeled: Further texts for a teacher to label, if the recipe names any.
        width: Numbers of an embedding; 0 for other tasks.
        prompt: What stands before each text of sentence_embedding in the rows, not in ``texts``.
        highest_relevance: What labels of reranking were divided by; ``None`` for other tasks.
    """

    task: Task
    train: Dataset
    validation: Dataset
    test: Dataset
    texts: dict[str, list[Any]]
    text_pairs: dict[str, list[str]]
    label_names: list[str]
    max_length: int
    truncated: dict[str, int]
    seen_in_train: dict[str, int]
    notices: tuple[Notice, ...] = ()
    unlabeled: Unlabeled | None = None
    width: int = 0
    prompt: str = ""
    highest_relevance: float | None = None

    @property
    def num_labels(self) -> int:
        """The size of the model's output: one a class, 1 for regression, or an embedding's."""
        return self.width or len(self.label_names) or 1

    @property
    def id2label(self) -> dict[int, str]:
        """Class number to name, as ``config.id2label`` wants it (``LABEL_0`` for regression)."""
        return dict(enumerate(self.label_names or ["LABEL_0"]))

    @property
    def label2id(self) -> dict[str, int]:
        """Class name to number, as ``config.label2id`` wants it."""
        return {name: number for number, name in self.id2label.items()}

    def with_embeddings(self, found: Mapping[str, NDArray[np.float32]]) -> TaskData:
        """The same rows with the dense model's embeddings as labels.

        Args:
            found: by split name, float32 ``(rows, width)``; splits without rows may be missing.
        """
        width = next(len(some[0]) for some in found.values() if len(some))
        splits = {}
        for name in SPLITS:
            embeddings = found.get(name, np.zeros((0, width), np.float32))
            splits[name] = with_vectors(self.split(name), embeddings)
        return replace(self, **splits, width=width)

    def split(self, name: str) -> Dataset:
        """Return a split by name; DataError if there is no such split."""
        if name not in SPLITS:
            raise DataError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}")
        chosen: Dataset = getattr(self, name)
        return chosen

    @property
    def of_images(self) -> bool:
        """Whether the rows are images."""
        columns = self.train.column_names
        return IMAGE_COLUMN in columns or IMAGE_INPUTS[0] in columns

    def label_array(self, name: str) -> NDArray[Any]:
        """The labels of a split, one entry a text; of tokens ``(rows, longest)`` with -100.

        Of reranking float64 ``(rows, 2)``: relevance, and the number of the query.
        """
        data = self.split(name)
        if self.task == "token_classification":
            return padded(data["labels"][:])
        labels = _numbers(data, "labels")
        if self.task == "reranking":
            return as_ranked(labels, data[QUERY_ROW][:])
        if TEXT_ROW not in data.column_names:
            return labels
        # Windows lie text by text: the first of each speaks for it.
        _, first = np.unique(np.asarray(data[TEXT_ROW][:]), return_index=True)
        return labels[first]

    def by_text(self, name: str, logits: NDArray[Any]) -> NDArray[Any]:
        """Logits of a split's rows as logits of its texts: the mean where a text has windows."""
        data = self.split(name)
        if TEXT_ROW not in data.column_names:
            return logits
        return mean_by_text(logits, data[TEXT_ROW][:])

    def judged(
        self,
        name: str,
        logits: NDArray[Any],
        rows: Sequence[int],
        truth: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Logits and labels of some rows of a split, one a text; of windows the mean of those.

        Args:
            logits: of these rows; of tokens ``(rows, longest of these, labels)``.
            rows: positions in the split.
            truth: :meth:`label_array` of the split, for who asks often: it is made row by row.
        """
        data, chosen = self.split(name), list(rows)
        labels = self.label_array(name) if truth is None else truth
        if TEXT_ROW not in data.column_names:
            labels = labels[chosen]
            return logits, labels[:, : logits.shape[1]] if logits.ndim == 3 else labels
        owners = np.asarray(data[TEXT_ROW][:])[chosen]
        texts, places = np.unique(owners, return_inverse=True)
        return mean_by_text(logits, places), labels[texts]

    def queries(self, name: str) -> NDArray[Any] | None:
        """Of reranking the number of each row's query, ascending; ``None`` of other tasks."""
        if self.task != "reranking":
            return None
        return np.asarray(self.split(name)[QUERY_ROW][:], dtype=np.int64)

    def size(self, name: str) -> int:
        """How many texts or images a split holds; windows of a text count once."""
        data = self.split(name)
        return int(max(data[TEXT_ROW][:])) + 1 if TEXT_ROW in data.column_names else len(data)


def _numbers(data: Dataset, column: str) -> NDArray[Any]:
    """A column of numbers, or of lists of as many numbers each, as ``numpy.asarray`` has it.

    Lists of floats are read from the data set's own memory: as Python's they take eight times that.
    """
    first = data[column][:1]
    if not (first and isinstance(first[0], list) and first[0] and isinstance(first[0][0], float)):
        return np.asarray(data[column][:])
    rows = TokenRows(data, column)
    return rows.values.reshape(len(rows), -1).astype(np.float64, copy=False)


def with_vectors(data: Dataset, vectors: NDArray[np.float32]) -> Dataset:
    """Rows with a vector each in the column ``labels``; earlier labels are replaced."""
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    if "labels" in data.column_names:
        data = data.remove_columns("labels")

    def lists(some: NDArray[np.float32]) -> Any:
        flat = pyarrow.array(np.ascontiguousarray(some, dtype=np.float32).reshape(-1))
        starts = np.arange(len(some) + 1, dtype=np.int32) * some.shape[1]
        return pyarrow.ListArray.from_arrays(pyarrow.array(starts), flat)

    # A chunk counts its numbers in 32 bits.
    step = max(1, 2**30 // max(1, vectors.shape[1]))
    chunks = [lists(vectors[at : at + step]) for at in range(0, max(1, len(vectors)), step)]
    labels = datasets.Dataset(pyarrow.table({"labels": pyarrow.chunked_array(chunks)}))
    return datasets.concatenate_datasets([data, labels], axis=1)


def whole_queries(queries: NDArray[Any], most: int) -> list[int]:
    """The first rows, at most so many, that are all of their queries; at least one query.

    Args:
        queries: the number of each row's query; the rows of one follow one another.

    >>> whole_queries(np.array([0, 0, 1, 1, 1]), 4)
    [0, 1]
    """
    _, sizes = np.unique(queries, return_counts=True)
    ends = np.cumsum(sizes)
    within = ends[ends <= most]
    return list(range(int(within[-1] if len(within) else ends[0])))
