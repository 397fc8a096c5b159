"""Texts and words -> token ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfprune.core.tasks import Task
from hfprune.data.fast import columns_of, encode_fast
from hfprune.data.splits import Piece
from hfprune.data.task_data import TEXT_ROW
from hfprune.data.windows import later_windows, windows
from hfprune.data.words import encode_words

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hfprune.recipe.sections.data import DataConfig


# Of texts that are tokenized at one time, however long they are: an encoding takes about a hundred
# bytes a token, and that of a text which is cut holds the rest of it too.
_BATCH_ROWS = 1000
_BATCH_LETTERS = 4_000_000


def encode_split(
    piece: Piece, processor: Any, config: DataConfig, task: Task, prompt: str = ""
) -> tuple[Dataset, int]:
    """Return the rows of a piece as a model reads them, and how many were cut.

    ``prompt`` is put before each text of sentence_embedding.
    """
    if piece.rows.images is not None:
        return _with_labels(piece, piece.rows.images), 0
    if config.stride is not None:
        return _in_windows(piece, processor, config, task), 0
    return tokenize(
        [prompt + text for text in piece.texts] if prompt else piece.texts,
        piece.text_pairs,
        None if task == "sentence_embedding" else piece.chosen_labels,
        processor,
        config.max_length,
        task,
    )


def joined(parts: Sequence[tuple[Dataset, int]]) -> tuple[Dataset, int]:
    """Return several encoded pieces as one; the texts of windows are numbered through."""
    import datasets

    found, begin = [], 0
    for data, _ in parts:
        if TEXT_ROW in data.column_names:
            owners = [begin + row for row in data[TEXT_ROW][:]]
            begin = owners[-1] + 1
            feature = data.features[TEXT_ROW]
            data = data.remove_columns(TEXT_ROW).add_column(TEXT_ROW, owners, feature=feature)
        found.append(data)
    return datasets.concatenate_datasets(found), sum(cut for _, cut in parts)


def tokenize(
    texts: Sequence[Any],
    pairs: Sequence[str] | None,
    labels: list[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    task: Task,
) -> tuple[Dataset, int]:
    """Return the tokenized rows and how many of them were cut.

    Args:
        labels: ``None`` for rows without; not of tokens.
    """
    import datasets

    batches = []
    truncated = 0
    columns: dict[str, list[Any]]
    for part in batches_of(texts, pairs):
        if task == "token_classification" and labels is not None:
            columns, cut = encode_words(tokenizer, texts[part], labels[part], max_length)
        else:
            columns, cut = _encode_batch(
                tokenizer, texts[part], None if pairs is None else pairs[part], max_length
            )
            if labels is not None:
                columns["labels"] = labels[part]
        truncated += cut
        batches.append(_dataset(columns, _features(columns, task)))
    # A tokenizer remembers the truncation of its last call and would save it with the model.
    tokenizer("", truncation=False, padding=False)
    return datasets.concatenate_datasets(batches), truncated


def _with_labels(piece: Piece, images: Dataset) -> Dataset:
    """Return a piece's images and labels; the images stay as they are kept."""
    return images.select(piece.chosen).add_column("labels", piece.chosen_labels)


def _in_windows(
    piece: Piece, tokenizer: PreTrainedTokenizerBase, config: DataConfig, task: Task
) -> Dataset:
    """Return the rows of a piece's windows, with labels and text numbers."""
    import datasets

    texts, labels, parts = piece.texts, piece.chosen_labels, []
    for part in batches_of(texts, None):
        found, owners = windows(tokenizer, texts[part], config.max_length, config.stride or 0)
        columns: dict[str, list[Any]] = {**found}
        columns["labels"] = [labels[part.start + owner] for owner in owners]
        columns[TEXT_ROW] = [part.start + owner for owner in owners]
        features = _features(columns, task)
        features[TEXT_ROW] = datasets.Value("int64")
        parts.append(_dataset(columns, features))
    return datasets.concatenate_datasets(parts)


def rest_windows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> Dataset:
    """Return what is cut off texts, in windows of at most ``length`` tokens; see rest_of_texts."""
    import datasets

    parts = []
    for part in batches_of(texts, None):
        columns = later_windows(tokenizer, texts[part], length)
        parts.append(_dataset(columns, _features(columns, "single_label_classification")))
    return datasets.concatenate_datasets(parts)


def batches_of(texts: Sequence[Any], pairs: Sequence[str] | None) -> Iterator[slice]:
    """Texts (or lists of words) in order, cut so that a batch is limited in rows and in letters."""
    begin = letters = 0
    for row, text in enumerate(texts):
        more = len(text) if isinstance(text, str) else sum(map(len, text))
        more += 0 if pairs is None else len(pairs[row])
        if row - begin == _BATCH_ROWS or (row > begin and letters + more > _BATCH_LETTERS):
            yield slice(begin, row)
            begin, letters = row, 0
        letters += more
    if begin < len(texts):
        yield slice(begin, len(texts))


def _encode_batch(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
) -> tuple[dict[str, list[Any]], int]:
    if tokenizer.is_fast:
        return encode_fast(tokenizer, texts, pairs, max_length)

    def encode(places: Sequence[int], **options: Any) -> Any:
        second = None if pairs is None else [pairs[place] for place in places]
        return tokenizer(
            [texts[place] for place in places],
            second,
            padding=False,
            return_attention_mask=True,
            verbose=False,
            **options,
        )

    columns = columns_of(encode(range(len(texts)), truncation=False))
    long = [place for place, ids in enumerate(columns["input_ids"]) if len(ids) > max_length]
    if long:
        again = encode(long, truncation=True, max_length=max_length)
        for name, values in columns_of(again).items():
            for place, value in zip(long, values, strict=True):
                columns[name][place] = value
    return columns, len(long)


def _dataset(columns: Mapping[str, Sequence[Any]], features: Any) -> Dataset:
    """As ``Dataset.from_dict``, which goes through every number in Python."""
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    schema = features.arrow_schema
    arrays = [pyarrow.array(columns[field.name], type=field.type) for field in schema]
    return datasets.Dataset(pyarrow.Table.from_arrays(arrays, schema=schema))


def _features(columns: Collection[str], task: Task) -> Any:
    """Return the column types: as narrow as the values allow, for memory's sake."""
    import datasets

    token_types = {"input_ids": "int32", "attention_mask": "int8", "token_type_ids": "int8"}
    features: dict[str, Any] = {
        name: datasets.Sequence(datasets.Value(token_types[name]))
        for name in columns
        if name in token_types
    }
    labels = {
        "single_label_classification": datasets.Value("int64"),
        "multi_label_classification": datasets.Sequence(datasets.Value("float32")),
        "regression": datasets.Value("float32"),
        "reranking": datasets.Sequence(datasets.Value("float32")),
        "sentence_embedding": datasets.Sequence(datasets.Value("float32")),
        "token_classification": datasets.Sequence(datasets.Value("int64")),
    }
    if "labels" in columns:
        features["labels"] = labels[task]
    return datasets.Features(features)
