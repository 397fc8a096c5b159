"""Every row is looked at before any long work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.answers import spell_lists
from hfprune.data.candidates import candidates_of, expanded
from hfprune.data.images import fingerprints, image_column
from hfprune.data.readers.columns import label_columns, wanted_columns
from hfprune.data.readers.table import Rows, Table, check_whole, is_null, show

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig


def check_rows(split: str, source: str, table: Table, config: DataConfig, task: Task) -> Rows:
    """Check the texts of a table, and that it has rows at all."""
    if table.size == 0:
        raise DataError(f"{split} ({source}) has no rows")
    if task == "image_classification":
        return _check_images(split, source, table, config)
    if task == "reranking":
        return _check_candidates(split, source, table, config)
    pair = config.text_pair_column
    named = () if task == "sentence_embedding" else label_columns(config)
    rows = Rows(
        split=split,
        source=source,
        texts=table.columns[config.text_column],
        text_pairs=None if pair is None else table.columns[pair],
        labels={column: table.columns[column] for column in named},
        classes=table.classes,
        notices=list(table.notices),
    )
    if task == "token_classification":
        _check_words(rows, config)
        return rows
    _check_texts(rows, config.text_column, rows.texts)
    if pair is not None and rows.text_pairs is not None:
        _check_texts(rows, pair, rows.text_pairs)
    return rows


def _check_images(split: str, source: str, table: Table, config: DataConfig) -> Rows:
    where, column = f"{split} ({source})", config.image_column
    images = table.images
    if images is None:
        images = image_column(table.columns[column], Path(source).parent, where, column)
    return Rows(
        split=split,
        source=source,
        texts=fingerprints(images, where, column),
        text_pairs=None,
        labels={name: table.columns[name] for name in label_columns(config)},
        classes=table.classes,
        images=images,
        notices=list(table.notices),
    )


def _check_candidates(split: str, source: str, table: Table, config: DataConfig) -> Rows:
    queries = table.columns[config.text_column]
    rows = Rows(split, source, queries, None, {}, table.classes, notices=list(table.notices))
    _check_texts(rows, config.text_column, queries)
    for name in wanted_columns(config, "reranking"):
        if name != config.text_column:
            _check_no_spelled_list(rows, name, table.columns[name])
    candidates = candidates_of(rows, table.columns, config)
    for candidate in candidates:
        check_text(rows, candidate.row, candidate.column, candidate.text)
    return expanded(rows, candidates, config)


def _check_no_spelled_list(rows: Rows, column: str, cells: Sequence[Any]) -> None:
    """Refuse lists that became text, as they do in a CSV file: each would be read as one text."""
    if spell_lists(cells):
        raise DataError(
            f"{rows.where(0, column)}: expected a text or a number, or a list of such, got "
            f"{show(cells[0])}, a text that spells a list. CSV holds no lists: write such rows as "
            "JSON Lines or Parquet, or one row for each text"
        )


def _check_words(rows: Rows, config: DataConfig) -> None:
    """Check that every row is a list of words, with as many tags."""
    column, tags = config.text_column, rows.labels[label_columns(config)[0]]
    for row, words in enumerate(rows.texts):
        if not isinstance(words, list) or not words:
            raise DataError(
                f"{rows.where(row, column)}: expected a list of words, got {show(words)}; use "
                "JSON Lines, Parquet or a .conll file, and leave out rows without words"
            )
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise DataError(
                    f"{rows.where(row, column)}: expected words that are not empty, got "
                    f"{show(word)}"
                )
        if not isinstance(tags[row], list):
            raise DataError(
                f"{rows.where(row, label_columns(config)[0])}: expected a list of tags, one for "
                f"each word, got {show(tags[row])}"
            )
        if len(tags[row]) != len(words):
            raise DataError(
                f"{rows.where(row, column)}: {len(words)} words, but {len(tags[row])} tags; each "
                "word needs one"
            )


def _check_texts(rows: Rows, column: str, texts: Sequence[Any]) -> None:
    for row, text in enumerate(texts):
        check_text(rows, row, column, text)


def check_text(rows: Rows, row: int, column: str, text: Any) -> None:
    """Raise DataError for a cell that holds no text."""
    if is_null(text):
        raise DataError(
            f"{rows.where(row, column)}: there is no text (null); fill it, with an empty text "
            "if need be, or remove the row"
        )
    if not isinstance(text, str):
        raise DataError(
            f"{rows.where(row, column)}: expected a text, got {show(text)}; choose the text's "
            "column, or write the value as a string"
        )
    check_whole(rows, row, column, text, "text")
