"""More texts of the user's own, without labels: a teacher labels them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.checks import check_text
from hfprune.data.notices import Notice
from hfprune.data.readers.files import read_table
from hfprune.data.readers.paths import check_once, files_of
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Rows
from hfprune.data.splits import Piece

if TYPE_CHECKING:
    from hfprune.recipe.sections.data import DataConfig

SPLIT = "unlabeled"


@dataclass(frozen=True)
class Unlabeled:
    """Texts (or pairs of texts) without labels, in the order of their files.

    Attributes:
        texts, pairs: as long as each other; ``pairs`` is ``None`` for single texts.
        held_out: how many were left out as they also stand in validation or test.
        known: how many were left out as they stand in train, or stood there before.
        empty: how many were left out as there is nothing to read.
        told: what their readers tell of the files.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    held_out: int = 0
    known: int = 0
    empty: int = 0
    told: tuple[str, ...] = ()

    def notices(self) -> tuple[Notice, ...]:
        """What to tell of them."""
        told = f"{len(self.texts)} unlabeled texts to learn from"
        gone = []
        if self.held_out:
            gone.append(f"{self.held_out} stand in validation or test as well")
        if self.known:
            gone.append(f"{self.known} stand in train, or stand there twice")
        if self.empty:
            gone.append(f"{self.empty} are empty")
        if gone:
            told += f" (left out: {', '.join(gone)})"
        return (
            Notice(told, "note" if self.texts else "warning"),
            *(Notice(text, "warning") for text in self.told),
        )


def read_unlabeled(config: DataConfig, most: int | None = None) -> Unlabeled | None:
    """Read the files of ``data.unlabeled_file``; ``None`` where there are none.

    Args:
        config: The recipe's. Only the columns of texts are read.
        most: Only so many rows of each file, from its beginning.

    Raises:
        DataError: A file is not there, lacks a column, or a row holds no text.
    """
    if config.unlabeled_file is None:
        return None
    files = files_of(SPLIT, config.unlabeled_file)
    check_once(SPLIT, files)
    pair = config.text_pair_column
    wanted = {config.text_column: "data.text_column"}
    if pair is not None:
        wanted[pair] = "data.text_pair_column"
    texts: list[str] = []
    pairs: list[str] | None = None if pair is None else []
    told: list[str] = []
    for name in files:
        file = RowsFile(Path(name), f"{SPLIT} ({name})", wanted, config.encoding, most)
        table = read_table(file, config.format)
        if table.size == 0:
            raise DataError(f"{file.where} has no rows")
        rows = Rows(SPLIT, name, table.columns[config.text_column], None, {}, {})
        for column in wanted:
            for row, text in enumerate(table.columns[column]):
                check_text(rows, row, column, text)
        told += table.notices
        texts += rows.texts
        if pairs is not None and pair is not None:
            pairs += table.columns[pair]
    return Unlabeled(texts, pairs, told=tuple(told))


def apart(found: Unlabeled, pieces: Mapping[str, Piece], task: Task) -> Unlabeled:
    """The texts that teach something new, and nothing of what a model is judged by.

    A text that is judged is not learned from, not even without its label: rows that are told to be
    held out must be new to the model. So must those of their files that ``max_test_samples`` leaves
    out, since somebody may judge by them later. A text that train holds has a label already. Of
    reranking a query is judged, so whatever else may answer it is left out too.

    Args:
        pieces: The splits.
        task: The recipe's.
    """
    ranks = task == "reranking"
    held_out = {
        content[0] if ranks else content
        for name in ("validation", "test")
        for content in _all_of(pieces[name], pieces)
    }
    seen = set(pieces["train"].contents())
    texts: list[str] = []
    pairs: list[str] | None = None if found.pairs is None else []
    judged = known = empty = 0
    for row, text in enumerate(found.texts):
        content = text if found.pairs is None else (text, found.pairs[row])
        if (text if ranks else content) in held_out:
            judged += 1
        elif content in seen:
            known += 1
        elif not text.strip():
            empty += 1
        else:
            seen.add(content)
            texts.append(text)
            if pairs is not None and found.pairs is not None:
                pairs.append(found.pairs[row])
    return replace(found, texts=texts, pairs=pairs, held_out=judged, known=known, empty=empty)


def _all_of(piece: Piece, pieces: Mapping[str, Piece]) -> Sequence[Any]:
    """What a held-out file holds; of rows held out of train's file those that were drawn."""
    if piece.rows is pieces["train"].rows:
        return piece.contents()
    return replace(piece, chosen=list(range(len(piece.rows.texts)))).contents()
