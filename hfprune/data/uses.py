"""The files that a recipe's ``evaluation`` names: what embeddings are tried on besides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hfprune.core.errors import DataError
from hfprune.data.candidates import RELEVANT
from hfprune.data.checks import check_rows
from hfprune.data.readers.files import column_names, read_table
from hfprune.data.readers.named import saved_kind
from hfprune.data.readers.paths import nearly
from hfprune.data.readers.source import RowsFile
from hfprune.data.readers.table import Rows, show
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.evaluation import EvaluationConfig


@dataclass(frozen=True)
class Use:
    """Pairs of texts with a number each.

    Attributes:
        key: of the recipe, which names the file.
        columns: of the two texts and the number.
        says: what the number says.
    """

    key: str
    columns: tuple[str, str, str]
    says: str


SCORED_PAIRS: Final = Use(
    "evaluation.scored_pairs", ("sentence1", "sentence2", "score"), "how alike they are"
)
RETRIEVAL: Final = Use(
    "evaluation.retrieval", ("query", "text", "label"), "how relevant the text is"
)


def uses_of(evaluation: EvaluationConfig) -> list[tuple[Use, str]]:
    """What a recipe names, and the file of each."""
    named = ((SCORED_PAIRS, evaluation.scored_pairs), (RETRIEVAL, evaluation.retrieval))
    return [(use, file) for use, file in named if file is not None]


def read_use(use: Use, file: str, most: int | None = None) -> tuple[Rows, list[float]]:
    """Read and check such a file.

    Args:
        use: what it is for.
        file: as the recipe names it.
        most: only so many rows from the beginning.

    Returns:
        The rows, and their numbers: scores as they are, relevance in [0, 1] (grades above 1 are
        divided by the highest that was read).

    Raises:
        DataError: it is not there, lacks a column or a text, holds what is no such number, or,
            where it was read whole, nothing to find.
    """
    where, (first, second, number) = f"{use.key} ({file})", use.columns
    _check_there(use, file)
    names = column_names(file)
    missing = [name for name in use.columns if name not in names]
    if missing:
        raise DataError(
            f"{where} has no column {missing[0]!r}. Wanted are {first!r} and {second!r}, texts, "
            f"and {number!r}, a number that says {use.says}; the file has "
            f"{', '.join(map(repr, names)) or 'none'}: rename its columns, or name another file in "
            f"{use.key}"
        )
    table = read_table(
        RowsFile(Path(file), where, dict.fromkeys(use.columns, use.key), most=most), None
    )
    config = DataConfig(
        train_file=file, text_column=first, text_pair_column=second, label_column=number
    )
    rows = check_rows(use.key, file, table, config, "regression")
    numbers = [_number(rows, row, number) for row in range(len(rows.texts))]
    if use is not RETRIEVAL:
        return rows, numbers
    numbers = _relevance(rows, number, numbers)
    whole = most is None or table.size < most
    if whole and max(numbers) < RELEVANT:
        raise DataError(
            f"{where}: no text has a label of {RELEVANT} or more, so there is nothing to find; "
            "give relevance from 0 to 1, or grades from 0"
        )
    return rows, numbers


def _check_there(use: Use, file: str) -> None:
    path = Path(file)
    if path.is_file() or saved_kind(path) is not None:
        return
    what = "that is a folder." if path.is_dir() else f"there is no such file.{nearly(path)}"
    first, second, number = use.columns
    raise DataError(
        f"{use.key} is {file!r}, but {what} Name a file with the columns {first!r}, "
        f"{second!r} and {number!r}, or remove {use.key}"
    )


def _relevance(rows: Rows, column: str, numbers: list[float]) -> list[float]:
    """In [0, 1], by the rule of :func:`hfprune.data.candidates.scaled`."""
    highest = max(1.0, *numbers)
    for row, number in enumerate(numbers):
        if number < 0 or (highest > 1 and not number.is_integer()):
            raise DataError(
                f"{rows.where(row, column)}: expected how relevant the text is to its query, from "
                f"0 to 1 or a whole grade from 0 in all rows (the highest here is {highest:g}), "
                f"got {number:g}"
            )
    return [number / highest for number in numbers]


def _number(rows: Rows, row: int, column: str) -> float:
    value = rows.labels[column][row]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{rows.where(row, column)}: expected a number, got {show(value)}")
    return number
