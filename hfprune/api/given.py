"""The rows that a Trainer was given, as the stages of a run read them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hfprune.api.about import all_names_of, task_of
from hfprune.core.errors import TrainingError
from hfprune.core.kinds import IMAGE_INPUTS, TEXT_INPUTS, gives_embeddings
from hfprune.core.tasks import WITHOUT_CLASSES, problem_of
from hfprune.data.candidates import QUERY_ROW
from hfprune.data.encode import tokenize
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.task_data import SPLITS, TEXT_ROW, TaskData
from hfprune.data.token_rows import TokenRows
from hfprune.deploy.runtimes.predicting import predict_logits

logger = logging.getLogger(__name__)

# Of training rows without an end so many are looked at where they are not trained on.
MOST_STREAMED = 4096
_INPUTS = (*TEXT_INPUTS, *IMAGE_INPUTS, IMAGE_COLUMN, TEXT_ROW, QUERY_ROW)
_LABELS = ("labels", "label", "label_ids")


def task_data(
    model: Any,
    train: Any,
    evaluation: Any,
    test: Any,
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_names: Sequence[str] | None = None,
) -> TaskData:
    """The data sets of a Trainer as the three splits of a run.

    Args:
        model: the classifier that reads them.
        train: ``train_dataset``: a ``datasets.Dataset``, another data set with a length, or a
            stream, of which the first :data:`MOST_STREAMED` rows are taken.
        evaluation: ``eval_dataset``; of several, the first; ``None``: no rows.
        test: rows that nothing is chosen by; ``None``: those of ``evaluation``.
        text_column, text_pair_column: where the raw texts are, if they are there.
        label_names: ``args.label_names``.

    Returns:
        The splits; of embeddings still without labels.

    Raises:
        TrainingError: for rows without inputs or labels that are known.
    """
    names, embeds = [*(label_names or ()), *_LABELS], gives_embeddings(model)
    given = {"train": train, "validation": evaluation, "test": evaluation if test is None else test}
    called = {"train": "train_dataset", "validation": "eval_dataset", "test": "test_dataset"}
    splits: dict[str, Dataset] = {}
    texts: dict[str, list[Any]] = {}
    pairs: dict[str, list[str]] = {}
    for name in SPLITS:
        rows = as_dataset(given[name], called[name])
        splits[name] = _known(rows, called[name], [] if embeds else names)
        raw = _before_transform(given[name], rows)
        if text_column in raw.column_names:
            texts[name] = list(raw[text_column][:])
        if text_pair_column is not None and text_pair_column in raw.column_names:
            pairs[name] = list(raw[text_pair_column][:])
        order = _by_query(splits[name])
        if order is not None:
            splits[name] = splits[name].select(order)
            for found in (texts, pairs):
                if name in found:
                    found[name] = [found[name][row] for row in order]
    task = problem_of(task_of(model))
    if task == "reranking" and QUERY_ROW not in splits["train"].column_names:
        task = "multi_label_classification"  # one answer of yes or no, of rows without queries
    ids = {name: _ids_of(rows) for name, rows in splits.items()}
    longest = max((int(found.lengths.max()) for found in ids.values() if found), default=128)
    return TaskData(
        task=task,
        **splits,
        texts=texts if len(texts) == len(SPLITS) else {},
        text_pairs=pairs if len(pairs) == len(SPLITS) else {},
        label_names=[] if task in WITHOUT_CLASSES else all_names_of(model),
        max_length=longest,
        truncated=dict.fromkeys(SPLITS, 0),
        seen_in_train=_seen(ids),
    )


def _by_query(rows: Dataset) -> list[int] | None:
    """The order in which a query's rows follow one another, as stages expect; ``None``: as is.

    Stages judge files on whole queries from the first on.
    """
    if QUERY_ROW not in rows.column_names:
        return None
    queries = np.asarray(rows[QUERY_ROW][:])
    if (np.diff(queries) >= 0).all():
        return None
    found: list[int] = np.argsort(queries, kind="stable").tolist()
    return found


def as_dataset(rows: Any, what: str) -> Dataset:
    """Rows of any kind that a Trainer takes, as a ``datasets.Dataset`` of plain values."""
    if isinstance(rows, Mapping):  # several evaluation sets, by name
        rows = next(iter(rows.values()), None)
    if rows is None:
        return Dataset.from_dict({})
    if isinstance(rows, Dataset):
        # A transform of the user's makes the model's inputs; a format only changes their class.
        if rows.format["type"] != "custom":
            return rows.with_format(None)
        if len(rows) == 0 or "input_ids" not in rows[0]:
            return rows  # images, which are made as they are read
    if hasattr(rows, "__len__") and hasattr(rows, "__getitem__"):
        found: Iterable[Any] = (rows[place] for place in range(len(rows)))
    elif isinstance(rows, Iterable):
        found = islice(rows, MOST_STREAMED)
    else:
        raise TrainingError(
            f"{what} is a {type(rows).__name__}; expected a datasets.Dataset, rows with a length, "
            "or a stream of rows"
        )
    plain = []
    for row in found:
        if not isinstance(row, Mapping):
            raise TrainingError(
                f"{what} gives rows of class {type(row).__name__}; expected dicts of the model's "
                "inputs and 'labels'"
            )
        plain.append({name: _plain(value) for name, value in row.items()})
    return Dataset.from_list(plain)


def _plain(value: Any) -> Any:
    """Tensors and arrays as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _known(rows: Dataset, what: str, labels: Sequence[str]) -> Dataset:
    """The columns that stages read, with the labels as ``labels``."""
    if len(rows) == 0:
        empty = ("input_ids", "labels") if labels else ("input_ids",)
        return Dataset.from_dict({name: [] for name in empty})
    columns = list(rows.column_names)
    if rows.format["type"] == "custom":  # what the transform gives, which the columns do not say
        columns = list(rows[0])
        labels = ("labels",)  # a transform names them itself
    label = next((name for name in labels if name in columns), None)
    inputs = [name for name in _INPUTS if name in columns]
    if not labels and inputs:  # embeddings, whose labels are the dense model's
        return rows if rows.format["type"] == "custom" else rows.select_columns(inputs)
    if label is None or not inputs:
        wanted = "labels" if label is None else "input_ids, and no pixel_values"
        raise TrainingError(
            f"{what} has no column {wanted}; it has {', '.join(columns) or 'none'}: the stages "
            "beyond training read tokenized rows (or images) with their labels"
        )
    if rows.format["type"] == "custom":
        return rows
    found = rows.select_columns([*inputs, label])
    return found if label == "labels" else found.rename_column(label, "labels")


def _before_transform(given: Any, rows: Dataset) -> Dataset:
    """The columns that are there, where ``rows`` are what a transform makes of them."""
    given = next(iter(given.values()), None) if isinstance(given, Mapping) else given
    return given.with_format(None) if isinstance(given, Dataset) else rows


def _ids_of(rows: Dataset) -> TokenRows | None:
    """Token ids row by row; ``None`` where rows have none."""
    return TokenRows(rows) if "input_ids" in rows.column_names else None


def _seen(ids: Mapping[str, TokenRows | None]) -> dict[str, int]:
    """Rows of validation and test that are the same tokens as some training row."""
    known = {_content(row) for row in ids["train"] or ()}
    return {
        name: sum(_content(row) in known for row in ids[name] or ())
        for name in ("validation", "test")
    }


def _content(row: NDArray[Any]) -> bytes:
    return row.astype(np.int64).tobytes()


def without_held_out(unlabeled: Any, *held_out: Any) -> Any:
    """Rows for a teacher to label, but those whose tokens are those of a row that is judged by.

    What is held out must be new to the model, with its label or without. How many are left out is
    logged as a warning.

    Args:
        unlabeled: of token ids; ``None``, and what holds none, is given back as it is.
        held_out: data sets of a Trainer: one, several by name, or ``None``. Streams, whose rows are
            not known before they are read, and what holds no token ids are passed over.
    """
    if not (isinstance(unlabeled, Dataset) and "input_ids" in unlabeled.column_names):
        return unlabeled
    sets = [
        one
        for given in held_out
        for one in (given.values() if isinstance(given, Mapping) else [given])
        if isinstance(one, Dataset) and "input_ids" in one.column_names
    ]
    judged = {_content(row) for rows in sets for row in TokenRows(rows)}
    rows = TokenRows(unlabeled)
    kept = [place for place, row in enumerate(rows) if _content(row) not in judged]
    if len(kept) == len(rows):
        return unlabeled
    logger.warning(
        "unlabeled_dataset: %d of %d rows hold the tokens of a row of eval_dataset or test_dataset "
        "and are left out",
        len(rows) - len(kept),
        len(rows),
    )
    return unlabeled.select(kept)


def require_texts(data: TaskData, processor: Any, column: str) -> None:
    """Refuse to split texts anew that are not there, or are not what the rows were made of.

    Raises:
        TrainingError: naming what lacks.
    """
    if not data.texts:
        raise TrainingError(
            f"pruning.vocabulary splits the texts anew with a smaller tokenizer, and the data sets "
            f"hold no column {column!r} of raw texts: keep it beside the tokens (the Trainer "
            "leaves it out by itself), or name it in text_column"
        )
    for name in SPLITS:
        rows = data.split(name)
        again, _ = tokenize(
            data.texts[name],
            data.text_pairs.get(name),
            rows["labels"][:] if "labels" in rows.column_names else None,
            processor,
            data.max_length,
            data.task,
        )
        both = zip(TokenRows(again), TokenRows(rows), strict=True)
        for place, (found, wanted) in enumerate(both):
            if not np.array_equal(found, wanted):
                raise TrainingError(
                    f"pruning.vocabulary splits the texts anew, but row {place + 1} of {name} does "
                    f"not hold the tokens that processing_class makes of its {column!r} "
                    f"(at most {data.max_length}): {data.texts[name][place]!r:.60}; tokenize with "
                    "truncation and special tokens, without padding"
                )


def with_embeddings(data: TaskData, dense: Any, collate: Any, batch_size: int) -> TaskData:
    """The rows with the embeddings of a dense model as labels.

    Args:
        dense: the teacher, or the model before it is pruned.
        collate, batch_size: of the Trainer.
    """
    found = {
        name: predict_logits(dense, data.split(name), collate, batch_size=batch_size)
        for name in SPLITS
        if len(data.split(name))
    }
    return data.with_embeddings(found)
