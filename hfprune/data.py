"""Data: from a recipe's ``data`` section to tokenized train, validation and test splits.

:func:`load_task_data` reads a Hub data set or local CSV, JSON Lines or Parquet files, checks every
row before any long work, settles the label names and the splits, and tokenizes. All of it is a
function of the configuration, the files and the tokenizer: the same call gives the same rows in the
same order, on every machine and in every process.

Errors are :class:`~hfprune.errors.DataError` and name the split, the column, and the row. Rows
count from 1; a header line is not counted.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from hfprune.errors import DataError
from hfprune.images import IMAGE_COLUMN, ImageCollator, fingerprints, image_column
from hfprune.recipe import Task
from hfprune.tasks import TEXT_INPUTS, problem_of
from hfprune.tokens import encode_words, mean_by_text, padded, read_conll, windows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hfprune.recipe import DataConfig

__all__ = ["TEXT_ROW", "TaskData", "data_collator", "load_rows", "load_task_data"]

TASKS: tuple[Task, ...] = get_args(Task)
SPLITS = ("train", "validation", "test")
# Column of windows of long texts: the number of the text in its split.
TEXT_ROW = "text_row"
_TOKENIZER_BATCH = 1000
_ONE_LABEL = ("single_label_classification", "image_classification")
_INTEGER = re.compile(r"-?[0-9]+")
_TRUE = ("1", "1.0", "true")
_FALSE = ("0", "0.0", "false")


@dataclass(frozen=True)
class TaskData:
    """The three splits, ready for a Trainer, and what is needed to read a model's output.

    Attributes:
        task: What the model's output means, spelled as ``config.problem_type`` (so images are of
            ``single_label_classification``), or ``token_classification``.
        train, validation, test: Columns ``input_ids``, ``attention_mask`` and, where the tokenizer
            gives them, ``token_type_ids`` (lists of ints, truncated, not padded) and ``labels``: an
            int class number (single label), a list of ``num_labels`` floats 0 or 1 (multi-label),
            a float (regression), or a list of ints as long as ``input_ids`` (tokens; -100 where a
            token stands for no word). Of images ``image``, not decoded, and ``labels``. With
            ``data.stride`` a row is a window, and ``text_row`` is the number of its text.
        texts, text_pairs: The raw texts by split name, text for text as in the splits; lists of
            words for tokens, empty for images. ``text_pairs`` is empty where the recipe names no
            second text column.
        label_names: The name of each class number; empty for regression.
        max_length: The most tokens that a row holds, special tokens included.
        truncated: By split name, how many rows were cut to ``max_length``.
        seen_in_train: For validation and test, how many rows have a text (pair, image) that also
            stands in train: scores on such rows say nothing about new text.
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

    @property
    def num_labels(self) -> int:
        """The size of the model's output: one a class, and 1 for regression."""
        return len(self.label_names) or 1

    @property
    def id2label(self) -> dict[int, str]:
        """Class number to name, as ``config.id2label`` wants it (``LABEL_0`` for regression)."""
        return dict(enumerate(self.label_names or ["LABEL_0"]))

    @property
    def label2id(self) -> dict[str, int]:
        """Class name to number, as ``config.label2id`` wants it."""
        return {name: number for number, name in self.id2label.items()}

    def split(self, name: str) -> Dataset:
        """Return a split by name; DataError if there is no such split."""
        if name not in SPLITS:
            raise DataError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}")
        chosen: Dataset = getattr(self, name)
        return chosen

    @property
    def of_images(self) -> bool:
        """Whether the rows are images."""
        return IMAGE_COLUMN in self.train.column_names

    def label_array(self, name: str) -> NDArray[Any]:
        """The labels of a split, one entry a text; of tokens ``(rows, longest)`` with -100."""
        data = self.split(name)
        labels = data["labels"][:]
        if self.task == "token_classification":
            return padded(labels)
        if TEXT_ROW not in data.column_names:
            return np.asarray(labels)
        # Windows lie text by text: the first of each speaks for it.
        _, first = np.unique(np.asarray(data[TEXT_ROW][:]), return_index=True)
        return np.asarray(labels)[first]

    def by_text(self, name: str, logits: NDArray[Any]) -> NDArray[Any]:
        """Logits of a split's rows as logits of its texts: the mean where a text has windows."""
        data = self.split(name)
        if TEXT_ROW not in data.column_names:
            return logits
        return mean_by_text(logits, data[TEXT_ROW][:])

    def judged(
        self, name: str, logits: NDArray[Any], rows: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Logits and labels of some rows of a split, one a text; of windows the mean of those.

        Args:
            logits: of these rows; of tokens ``(rows, longest of these, labels)``.
            rows: positions in the split.
        """
        data, chosen = self.split(name), list(rows)
        labels = self.label_array(name)
        if TEXT_ROW not in data.column_names:
            labels = labels[chosen]
            return logits, labels[:, : logits.shape[1]] if logits.ndim == 3 else labels
        owners = np.asarray(data[TEXT_ROW][:])[chosen]
        texts, places = np.unique(owners, return_inverse=True)
        return mean_by_text(logits, places), labels[texts]

    def size(self, name: str) -> int:
        """How many texts or images a split holds; windows of a text count once."""
        data = self.split(name)
        return int(max(data[TEXT_ROW][:])) + 1 if TEXT_ROW in data.column_names else len(data)


def load_task_data(config: DataConfig, processor: Any, task: str) -> TaskData:
    """Read, check, split and tokenize the data that a recipe names.

    A split that the recipe names is used as it is. One that it does not name is held out of the
    training rows by ``split_seed``: first ``test_fraction`` of them for the test, then
    ``validation_fraction`` of them (of all, not of what is left) for validation; no row is taken
    twice. For a single label, held-out rows and the subsets that ``max_*_samples`` ask for are
    stratified, and every class keeps a row in train as long as there are rows enough.

    Label names are, in this order of preference: ``label_names``; the names that the data set
    itself declares (a ``ClassLabel`` feature); the values found in train, sorted, as numbers where
    all of them are whole numbers. In the last case a label that only validation or test holds is an
    error. Whole numbers in the data are class numbers where ``label_names`` holds no number.

    Args:
        config: The recipe's ``data`` section.
        processor: The tokenizer, which is changed in one case: if it has no padding token, its
            end-of-sequence token becomes the padding token (a model's ``pad_token_id`` must then
            follow). For images not used: see :func:`data_collator`.
        task: A recipe's task.

    Raises:
        DataError: The data cannot be read or do not fit the task.
    """
    checked_task = _check_task(task, config)
    if checked_task != "image_classification":
        _check_tokenizer(processor, config)
    rows = _read_splits(config, checked_task)
    label_names, labels = _encode_labels(rows, config, checked_task)
    pieces = {
        name: _Piece(split, labels[name], list(range(len(split.texts))))
        for name, split in rows.items()
    }
    _hold_out(pieces, config, checked_task)
    _take_subsets(pieces, config, checked_task)

    encoded, truncated = {}, {}
    for name in SPLITS:
        encoded[name], truncated[name] = _encode(pieces[name], processor, config, checked_task)
    train_keys = set(pieces["train"].contents())
    return TaskData(
        task=problem_of(checked_task),
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded["test"],
        texts={name: pieces[name].texts for name in SPLITS if pieces[name].rows.images is None},
        text_pairs={
            name: pairs for name in SPLITS if (pairs := pieces[name].text_pairs) is not None
        },
        label_names=label_names,
        max_length=config.max_length,
        truncated=truncated,
        seen_in_train={
            name: sum(key in train_keys for key in pieces[name].contents())
            for name in SPLITS
            if name != "train"
        },
    )


def load_rows(config: DataConfig, files: Sequence[str], processor: Any, task: str) -> TaskData:
    """Read rows to evaluate on, from files of their own.

    Args:
        config: names columns, label names (all tasks but regression need them) and lengths; the
            data that it names are not read, and its limits are not applied.
        files: CSV, JSON Lines, Parquet or CoNLL; their rows follow one another.
        processor: as for :func:`load_task_data`.
        task: a recipe's task.

    Returns:
        What has these rows as its test split; train and validation are empty.

    Raises:
        DataError: as :func:`load_task_data`, or there is no file, or no label names.
    """
    checked_task = _check_task(task, config)
    if checked_task != "image_classification":
        _check_tokenizer(processor, config)
    if not files:
        raise DataError("no file of rows is given; name at least one")
    if config.label_names is None and checked_task != "regression":
        raise DataError("rows of a classifier are read by the names of its labels; none are given")
    wanted = _wanted_columns(config, checked_task)
    rows = {
        f"{number}": _check_rows(
            "test", file, _read_file("test", file, wanted), config, checked_task
        )
        for number, file in enumerate(files)
    }
    label_names, labels = _encode_labels(rows, config, checked_task)
    pieces = [_Piece(rows[n], labels[n], list(range(len(rows[n].texts)))) for n in rows]
    test, truncated = _joined([_encode(piece, processor, config, checked_task) for piece in pieces])
    empty = test.select([])
    pairs = [piece.text_pairs for piece in pieces]
    of_images = checked_task == "image_classification"
    return TaskData(
        task=problem_of(checked_task),
        train=empty,
        validation=empty,
        test=test,
        texts={} if of_images else {"test": [text for piece in pieces for text in piece.texts]},
        text_pairs={}
        if config.text_pair_column is None
        else {"test": [text for part in pairs for text in part or ()]},
        label_names=label_names,
        max_length=config.max_length,
        truncated={"train": 0, "validation": 0, "test": truncated},
        seen_in_train={"validation": 0, "test": 0},
    )


def retokenize(data: TaskData, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """The same texts, as another tokenizer splits them.

    Args:
        data: as :func:`load_task_data` gives it, one row a text.
        tokenizer: of the same family: its rows are cut at ``data.max_length`` too.

    Raises:
        DataError: for images, tagged words and windows, whose rows are not made of texts alone.
    """
    windowed = TEXT_ROW in data.train.column_names
    if data.of_images or windowed or data.task == "token_classification":
        raise DataError(
            "only whole texts with one label each can be split anew by another tokenizer, not "
            f"{'images' if data.of_images else 'windows' if windowed else 'tagged words'}"
        )
    encoded, truncated = {}, {}
    for name in SPLITS:
        encoded[name], truncated[name] = _tokenize(
            data.texts[name],
            data.text_pairs.get(name),
            list(data.split(name)["labels"]),
            tokenizer,
            data.max_length,
            data.task,
        )
    return replace(data, **encoded, truncated=truncated)


def rest_of_texts(data: TaskData, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """What ``max_length`` cut off the training texts: real text of the task, without labels.

    Args:
        data: whole texts with one label each, without pairs.
        tokenizer: the one that ``data`` was made with.

    Returns:
        Rows of at most ``data.max_length`` tokens, special tokens included, text by text in order;
        ends shorter than a quarter of that are left out. No labels: a part need not mean what the
        whole text was labelled for, so ask a teacher.
    """
    import datasets

    found, owners = windows(tokenizer, data.texts["train"], data.max_length, 0)
    lengths = [len(ids) for ids in found["input_ids"]]
    rest = [
        place
        for place, owner in enumerate(owners)
        if place > 0 and owners[place - 1] == owner and 4 * lengths[place] >= data.max_length
    ]
    columns = {name: [values[place] for place in rest] for name, values in found.items()}
    features = {name: data.train.features[name] for name in columns}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def data_collator(processor: Any, task: str = "single_label_classification") -> Any:
    """Return a collator that pads each batch to its longest row, and no further.

    Args:
        processor: The tokenizer (labels of tokens are padded with -100), or the image processor.
        task: The recipe's.
    """
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    if task == "image_classification":
        return ImageCollator(processor)
    if task == "token_classification":
        return DataCollatorForTokenClassification(processor)
    return DataCollatorWithPadding(processor, padding=True, pad_to_multiple_of=None)


# --- checks of the arguments ----------------------------------------------------------------


def _check_task(task: str, config: DataConfig) -> Task:
    if isinstance(config.label_column, list) and task != "multi_label_classification":
        raise DataError(
            f"data.label_column is a list, {config.label_column}, but the task is {task}: a list "
            "of 0/1 columns needs task multi_label_classification"
        )
    if task == "regression" and config.label_names is not None:
        raise DataError(
            "data.label_names is given, but the task is regression, which has no classes: leave it "
            "out, or choose another task"
        )
    for known in TASKS:
        if task == known:
            return known
    raise DataError(f"task is {task!r}; expected one of {', '.join(TASKS)}")


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> None:
    longest = tokenizer.model_max_length
    if config.max_length > longest:
        raise DataError(
            f"data.max_length is {config.max_length}, but the model reads at most {longest} tokens "
            f"(the tokenizer's model_max_length): set data.max_length to {longest} or less"
        )
    special = tokenizer.num_special_tokens_to_add(pair=config.text_pair_column is not None)
    if config.max_length <= special:
        raise DataError(
            f"data.max_length is {config.max_length}, but the tokenizer adds {special} special "
            f"tokens to each row: set it to {special + 1} or more"
        )
    if config.stride is not None and config.stride >= config.max_length - special:
        raise DataError(
            f"data.stride is {config.stride}, but of data.max_length {config.max_length} tokens "
            f"{special} are special ones, so no window would get any further: set it to less than "
            f"{config.max_length - special}"
        )
    if config.stride is not None and not tokenizer.is_fast:
        raise DataError(
            f"data.stride needs a fast tokenizer (tokenizer.json), this is a "
            f"{type(tokenizer).__name__}: remove data.stride, so that long texts are cut"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise DataError(
                "the tokenizer has no padding token (pad_token) and no end-of-sequence token to "
                "use in its place: add a pad_token to the tokenizer and save it again"
            )
        tokenizer.pad_token = tokenizer.eos_token


# --- reading --------------------------------------------------------------------------------


@dataclass
class _Table:
    """Raw columns of one source. ``classes`` holds the declared class names of a column, if any."""

    names: list[str]
    columns: dict[str, list[Any]]
    size: int
    classes: dict[str, list[str]] = field(default_factory=dict)
    images: Dataset | None = None


@dataclass
class _Rows:
    """One source after the checks of its texts; labels still raw, one list a label column.

    ``texts`` holds lists of words for tokens, and fingerprints where there are ``images``.
    """

    split: str
    source: str
    texts: list[Any]
    text_pairs: list[str] | None
    labels: dict[str, list[Any]]
    classes: dict[str, list[str]]
    images: Dataset | None = None

    def where(self, row: int, column: str) -> str:
        """Return how errors name a cell; ``row`` counts from 0 here and from 1 in the text."""
        return f"{self.split} ({self.source}), row {row + 1}, column {column!r}"


def _read_splits(config: DataConfig, task: Task) -> dict[str, _Rows]:
    """Read every split that the recipe names; train is always among them."""
    files = {
        "train": config.train_file,
        "validation": config.validation_file,
        "test": config.test_file,
    }
    splits = {
        "train": config.train_split,
        "validation": config.validation_split,
        "test": config.test_split,
    }
    taken: dict[Path, str] = {}
    for name, file in files.items():
        path = None if file is None else Path(file).resolve()
        if path in taken:
            raise DataError(
                f"data.{taken[path]}_file and data.{name}_file are one file, {file!r}: a score on "
                f"rows that were learned from says nothing. Leave data.{name}_file out to hold "
                f"{name} rows out of train"
            )
        if path is not None:
            taken[path] = name
    wanted = _wanted_columns(config, task)
    rows = {}
    for name in SPLITS:
        file, split = files[name], splits[name]
        if file is not None:
            rows[name] = _check_rows(name, file, _read_file(name, file, wanted), config, task)
        elif split is not None and config.name is not None:
            table = _read_named(name, split, config.name, config, task)
            rows[name] = _check_rows(name, f"{config.name}, split {split!r}", table, config, task)
    if "train" not in rows:
        raise DataError("no data: give either data.name or data.train_file")
    return rows


def _label_columns(config: DataConfig) -> list[str]:
    columns = config.label_column
    return [columns] if isinstance(columns, str) else list(columns)


def _wanted_columns(config: DataConfig, task: Task) -> dict[str, str]:
    """Return the columns to read, each with the recipe key that names it."""
    wanted = {config.text_column: "data.text_column"}
    if task == "image_classification":
        wanted = {config.image_column: "data.image_column"}
    if config.text_pair_column is not None:
        wanted[config.text_pair_column] = "data.text_pair_column"
    wanted.update(dict.fromkeys(_label_columns(config), "data.label_column"))
    return wanted


def _check_columns(where: str, names: Sequence[str], wanted: dict[str, str]) -> None:
    """Raise DataError for the first wanted column that is not there."""
    for column, key in wanted.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{where} has no column {column!r}, which {key} asks for. Its columns: "
                f"{', '.join(map(repr, names)) or 'none'}.{hint}"
            )


def _read_named(split: str, split_name: str, name: str, config: DataConfig, task: Task) -> _Table:
    """Read one split of a data set by name, through the ``datasets`` library and its cache."""
    import datasets

    where = f"{split} ({name}, split {split_name!r})"
    with _progress_bars_on_terminals_only():
        try:
            data = datasets.load_dataset(
                name, config.config_name, split=split_name, revision=config.revision
            )
        except Exception as error:  # the library and the network raise many unrelated classes
            raise DataError(
                f"{where} could not be loaded: {type(error).__name__}: {error}. Check data.name, "
                "data.config_name, the split and the network, or give local files "
                "(data.train_file)"
            ) from error
    wanted = _wanted_columns(config, task)
    if task != "image_classification":
        return _table_of(where, data, wanted)
    _check_columns(where, data.column_names, wanted)
    column = config.image_column
    if not isinstance(data.features[column], datasets.Image):
        raise DataError(
            f"{where}, column {column!r}: expected images, the data set declares "
            f"{data.features[column]}; name the column of images in data.image_column"
        )
    table = _table_of(where, data, {c: key for c, key in wanted.items() if c != column})
    # Images stay where the data set keeps them until a batch is made.
    images = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    if column != IMAGE_COLUMN:
        images = images.rename_column(column, IMAGE_COLUMN)
    table.images = images
    return table


def _table_of(where: str, data: Dataset, wanted: dict[str, str]) -> _Table:
    _check_columns(where, data.column_names, wanted)
    return _Table(
        names=list(data.column_names),
        columns={column: list(data[column][:]) for column in wanted},
        size=len(data),
        classes={
            column: names
            for column in wanted
            if (names := _declared_classes(data.features[column])) is not None
        },
    )


def _declared_classes(feature: Any) -> list[str] | None:
    """Return the class names of a ``ClassLabel``, or of a list of them; None for all else."""
    import datasets

    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


@contextmanager
def _progress_bars_on_terminals_only() -> Iterator[None]:
    import datasets

    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _read_file(split: str, file: str, wanted: dict[str, str]) -> _Table:
    """Read a local file by its extension, straight into memory (no cache folder is touched)."""
    path = Path(file)
    where = f"{split} ({file})"
    readers: dict[str, Callable[[str, Path, dict[str, str]], _Table]] = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json,
        ".parquet": _read_parquet,
        ".conll": _read_conll,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{where}: the extension {path.suffix!r} is not known; expected one of "
            f"{', '.join(readers)}"
        )
    if not path.is_file():
        near = ""
        if path.parent.is_dir():
            matches = difflib.get_close_matches(
                path.name, sorted(entry.name for entry in path.parent.iterdir()), n=1
            )
            near = f" Did you mean {str(path.with_name(matches[0]))!r}?" if matches else ""
        raise DataError(f"{where}: there is no such file (data.{split}_file).{near}")
    return reader(where, path, wanted)


def _read_text(where: str, path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where} is not UTF-8: byte 0x{content[error.start]:02x} on line {line}, at byte "
            f"{error.start} of the file, cannot be read. Save the file as UTF-8"
        ) from error


def _read_csv(where: str, path: Path, wanted: dict[str, str]) -> _Table:
    text = _read_text(where, path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # The module's limit of 131,072 characters a cell is one setting for the whole process.
    previous_limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(reader, [])
        repeated = [name for name, count in Counter(header).items() if count > 1]
        if repeated:
            raise DataError(f"{where}: the column {repeated[0]!r} stands twice in the header line")
        _check_columns(where, header, wanted)
        places = {column: header.index(column) for column in wanted}
        columns: dict[str, list[Any]] = {column: [] for column in wanted}
        size = 0
        for cells in reader:
            if not cells:
                continue  # a blank line
            size += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{where}, row {size} (line {reader.line_num}) has {len(cells)} cells, the "
                    f"header has {len(header)}: a text that holds {delimiter!r}, a quote or a line "
                    "break must stand in double quotes"
                )
            for column, place in places.items():
                columns[column].append(cells[place])
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: not valid CSV: {error}") from error
    finally:
        csv.field_size_limit(previous_limit)
    return _Table(header, columns, size)


def _read_json(where: str, path: Path, wanted: dict[str, str]) -> _Table:
    """Read JSON Lines, or one JSON array of objects."""
    text = _read_text(where, path)
    records: list[Any] = []
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from error
    else:
        # Not splitlines(): JSON text may hold U+2028 and the like inside a line.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except ValueError as error:
                    raise DataError(
                        f"{where}, line {number}: not valid JSON: {error}. Each line must be one "
                        "object"
                    ) from error
    names: dict[str, None] = {}
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(
                f"{where}, row {number}: expected an object with a key a column, got "
                f"{_show(record)}"
            )
        names.update(dict.fromkeys(record))
    if records:
        _check_columns(where, list(names), wanted)
    return _Table(
        list(names), {column: [r.get(column) for r in records] for column in wanted}, len(records)
    )


def _read_conll(where: str, path: Path, wanted: dict[str, str]) -> _Table:
    """Read words and their tags, a word a line; the columns get the names that the recipe uses."""
    words, tags, bad = read_conll(_read_text(where, path))
    if bad is not None:
        raise DataError(
            f"{where}, line {bad}: expected a word and its tag, parted by a blank or tab; a blank "
            "line ends a sentence"
        )
    columns = dict(zip(wanted, (words, tags), strict=False))
    return _Table(list(columns), columns, len(words))


def _read_parquet(where: str, path: Path, wanted: dict[str, str]) -> _Table:
    import datasets
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(where, file.schema_arrow.names, wanted)
            table = file.read(columns=list(wanted))
    except pyarrow.ArrowException as error:
        raise DataError(f"{where}: not a valid Parquet file: {error}") from error
    # The datasets library keeps class names in the schema's metadata.
    features = datasets.Features.from_arrow_schema(table.schema)
    return _Table(
        names=table.column_names,
        columns={column: table.column(column).to_pylist() for column in wanted},
        size=table.num_rows,
        classes={
            column: names
            for column in wanted
            if (names := _declared_classes(features[column])) is not None
        },
    )


def _check_rows(split: str, source: str, table: _Table, config: DataConfig, task: Task) -> _Rows:
    """Check the texts of a table, and that it has rows at all."""
    if table.size == 0:
        raise DataError(f"{split} ({source}) has no rows")
    if task == "image_classification":
        return _check_images(split, source, table, config)
    pair = config.text_pair_column
    rows = _Rows(
        split=split,
        source=source,
        texts=table.columns[config.text_column],
        text_pairs=None if pair is None else table.columns[pair],
        labels={column: table.columns[column] for column in _label_columns(config)},
        classes=table.classes,
    )
    if task == "token_classification":
        _check_words(rows, config)
        return rows
    _check_texts(rows, config.text_column, rows.texts)
    if pair is not None and rows.text_pairs is not None:
        _check_texts(rows, pair, rows.text_pairs)
    return rows


def _check_images(split: str, source: str, table: _Table, config: DataConfig) -> _Rows:
    where, column = f"{split} ({source})", config.image_column
    images = table.images
    if images is None:
        images = image_column(table.columns[column], Path(source).parent, where, column)
    return _Rows(
        split=split,
        source=source,
        texts=fingerprints(images, where, column),
        text_pairs=None,
        labels={name: table.columns[name] for name in _label_columns(config)},
        classes=table.classes,
        images=images,
    )


def _check_words(rows: _Rows, config: DataConfig) -> None:
    """Check that every row is a list of words, with as many tags."""
    column, tags = config.text_column, rows.labels[_label_columns(config)[0]]
    for row, words in enumerate(rows.texts):
        if not isinstance(words, list) or not words:
            raise DataError(
                f"{rows.where(row, column)}: expected a list of words, got {_show(words)}; use "
                "JSON Lines, Parquet or a .conll file, and leave out rows without words"
            )
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise DataError(
                    f"{rows.where(row, column)}: expected words that are not empty, got "
                    f"{_show(word)}"
                )
        if not isinstance(tags[row], list):
            raise DataError(
                f"{rows.where(row, _label_columns(config)[0])}: expected a list of tags, one for "
                f"each word, got {_show(tags[row])}"
            )
        if len(tags[row]) != len(words):
            raise DataError(
                f"{rows.where(row, column)}: {len(words)} words, but {len(tags[row])} tags; each "
                "word needs one"
            )


def _check_texts(rows: _Rows, column: str, texts: Sequence[Any]) -> None:
    for row, text in enumerate(texts):
        if _is_null(text):
            raise DataError(
                f"{rows.where(row, column)}: there is no text (null); fill it, with an empty text "
                "if need be, or remove the row"
            )
        if not isinstance(text, str):
            raise DataError(
                f"{rows.where(row, column)}: expected a text, got {_show(text)}; choose the text's "
                "column, or write the value as a string"
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{rows.where(row, column)}: the text holds half a character (a lone surrogate, "
                f"U+{ord(text[error.start]):04X}) at position {error.start}; remove it"
            ) from error


def _is_null(value: Any) -> bool:
    # A missing string is a NaN in what pandas writes.
    return value is None or (isinstance(value, float) and math.isnan(value))


def _show(value: Any) -> str:
    """Return a value and its type, short enough for an error."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


# --- labels ---------------------------------------------------------------------------------


def _encode_labels(
    rows: dict[str, _Rows], config: DataConfig, task: Task
) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the label names and, by split, the labels in the form that :class:`TaskData` tells."""
    if task == "regression":
        column = _label_columns(config)[0]
        return [], {name: _targets(split, column) for name, split in rows.items()}
    if task == "multi_label_classification" and isinstance(config.label_column, list):
        label_names = list(config.label_names or config.label_column)
        # One name a column, in the columns' order; the columns' own names in another order say
        # which order the labels shall have.
        same = set(label_names) == set(config.label_column)
        columns = label_names if same else config.label_column
        return label_names, {name: _flags(split, columns) for name, split in rows.items()}
    column = _label_columns(config)[0]
    if task == "token_classification":
        tags = {
            name: _listed_names(split, column, config.label_names) for name, split in rows.items()
        }
        label_names = _label_names(rows, tags, config, column)
        return label_names, {
            name: [
                [_number_of(split, row, column, tag, label_names, config) for tag in row_tags]
                for row, row_tags in enumerate(tags[name])
            ]
            for name, split in rows.items()
        }
    if task == "multi_label_classification":
        found = {
            name: _listed_names(split, column, config.label_names) for name, split in rows.items()
        }
        label_names = _label_names(rows, found, config, column)
        return label_names, {
            name: _multi_hot(split, column, found[name], label_names, config)
            for name, split in rows.items()
        }
    single = {
        name: [
            [_name_of(split, row, column, value, config.label_names)]
            for row, value in enumerate(split.labels[column])
        ]
        for name, split in rows.items()
    }
    label_names = _label_names(rows, single, config, column)
    numbers = {}
    for name, split in rows.items():  # train first
        numbers[name] = [
            _number_of(split, row, column, values[0], label_names, config)
            for row, values in enumerate(single[name])
        ]
        if name == "train":
            _check_two_classes(split, column, numbers[name], label_names)
    return label_names, numbers


def _check_two_classes(
    train: _Rows, column: str, numbers: Sequence[int], label_names: Sequence[str]
) -> None:
    only = set(numbers)
    if len(only) == 1:
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: every row ({len(numbers)} in all) "
            f"has the label {label_names[only.pop()]!r}; a classifier needs at least two classes"
        )


def _null_label(rows: _Rows, row: int, column: str) -> DataError:
    return DataError(
        f"{rows.where(row, column)}: there is no label (empty or null); fill it or remove the row"
    )


def _hidden_label(rows: _Rows, row: int, column: str, remedy: str = "") -> DataError:
    return DataError(
        f"{rows.where(row, column)}: the label is -1, which marks hidden labels in published test "
        f"sets: choose another split, or leave data.{rows.split}_split out to hold rows out of "
        f"train{remedy}"
    )


def _name_of(
    rows: _Rows, row: int, column: str, value: Any, label_names: Sequence[str] | None
) -> str:
    """Return a label's name: its text, the decimal form of a whole number, or its declared name."""
    if _is_null(value) or value == "":
        raise _null_label(rows, row, column)
    if value in (-1, "-1") and "-1" not in (label_names or ()):
        remedy = "" if column in rows.classes else ". If -1 is a class, name it in data.label_names"
        raise _hidden_label(rows, row, column, remedy)
    classes = rows.classes.get(column)
    if classes is not None and isinstance(value, int):
        if not 0 <= value < len(classes):
            raise DataError(
                f"{rows.where(row, column)}: the class number is {value}, but the data set "
                f"declares {len(classes)} classes: {_listing(classes)}"
            )
        return classes[value]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        raise DataError(
            f"{rows.where(row, column)}: the label is {value}, not a whole number; to predict "
            "numbers, set task: regression"
        )
    expected = "a string, a whole number or a boolean"
    hint = "; for several labels a row, set task: multi_label_classification"
    raise DataError(
        f"{rows.where(row, column)}: expected {expected}, got {_show(value)}"
        f"{hint if isinstance(value, list) else ''}"
    )


def _label_names(
    rows: dict[str, _Rows],
    found: dict[str, list[list[str]]],
    config: DataConfig,
    column: str,
) -> list[str]:
    """Settle the label names; ``found`` holds, by split, the names of each row."""
    if config.label_names is not None:
        return list(config.label_names)
    train = rows["train"]
    if column in train.classes:
        return train.classes[column]
    names = {name for row_names in found["train"] for name in row_names}
    if not names:
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: no row has any label; give "
            "data.label_names if that is meant"
        )
    if all(map(_INTEGER.fullmatch, names)):
        return sorted(names, key=int)
    if all(map(_is_number, names)) and not all(float(name).is_integer() for name in names):
        raise DataError(
            f"{train.split} ({train.source}), column {column!r}: the labels are numbers such as "
            f"{min(names)}, not classes; to predict numbers, set task: regression"
        )
    return sorted(names)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number_of(
    rows: _Rows, row: int, column: str, name: str, label_names: Sequence[str], config: DataConfig
) -> int:
    """Return the class number of a name, or raise DataError if it is none of the known ones."""
    if name in label_names:
        return label_names.index(name)
    given = config.label_names is not None
    if given and column not in rows.classes and not any(map(_INTEGER.fullmatch, label_names)):
        number = {"False": 0, "True": 1}.get(name)
        if number is None and _INTEGER.fullmatch(name):
            number = int(name)
        if number is not None and 0 <= number < len(label_names):
            return number
    near = difflib.get_close_matches(name, label_names, n=1)
    if given:
        known, remedy = "data.label_names holds", "correct the label or add it to data.label_names"
    elif column in rows.classes:
        known, remedy = "train declares", "use splits of one data set"
    else:
        known, remedy = "train holds", "add such rows to train, or give data.label_names"
    raise DataError(
        f"{rows.where(row, column)}: the label {name!r} is unknown; {known} "
        f"{_listing(label_names)}: {remedy}" + (f". Did you mean {near[0]!r}?" if near else "")
    )


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return shown if len(names) <= 20 else f"{shown}, ... ({len(names)} in all)"


def _targets(rows: _Rows, column: str) -> list[float]:
    """Return the numbers to predict."""
    targets = []
    for row, value in enumerate(rows.labels[column]):
        if value is None or value == "":
            raise _null_label(rows, row, column)
        number: float | None = None
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        elif isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                number = None
        if number is None:
            raise DataError(
                f"{rows.where(row, column)}: expected a number to predict, got {_show(value)}; for "
                "classes, set task: single_label_classification"
            )
        if not math.isfinite(number):
            raise DataError(
                f"{rows.where(row, column)}: the number to predict is {number}, not a finite one; "
                "correct it or remove the row"
            )
        targets.append(number)
    return targets


def _flags(rows: _Rows, columns: Sequence[str]) -> list[list[float]]:
    """Return multi-hot labels from one 0/1 column a label."""
    by_column = []
    for column in columns:
        flags = []
        for row, value in enumerate(rows.labels[column]):
            if _is_null(value) or value == "":
                raise _null_label(rows, row, column)
            if value in (-1, "-1"):
                raise _hidden_label(rows, row, column)
            text = str(value).lower()
            if isinstance(value, list) or text not in _TRUE + _FALSE:
                raise DataError(
                    f"{rows.where(row, column)}: expected 0 or 1 (or a boolean), got {_show(value)}"
                )
            flags.append(float(text in _TRUE))
        by_column.append(flags)
    return [list(flags) for flags in zip(*by_column, strict=True)]


def _listed_names(rows: _Rows, column: str, label_names: Sequence[str] | None) -> list[list[str]]:
    """Return the names of each row of a column of lists, not yet checked against the known ones."""
    found = []
    for row, values in enumerate(rows.labels[column]):
        if values is None:
            raise _null_label(rows, row, column)
        if values == -1:
            raise _hidden_label(rows, row, column)
        if not isinstance(values, list):
            raise DataError(
                f"{rows.where(row, column)}: expected a list of labels, got {_show(values)}; use "
                "JSON Lines or Parquet for lists, or one 0/1 column a label (data.label_column as "
                "a list)"
            )
        found.append([_name_of(rows, row, column, value, label_names) for value in values])
    return found


def _multi_hot(
    rows: _Rows,
    column: str,
    found: Sequence[Sequence[str]],
    label_names: Sequence[str],
    config: DataConfig,
) -> list[list[float]]:
    labels = []
    for row, names in enumerate(found):
        flags = [0.0] * len(label_names)
        for name in names:
            flags[_number_of(rows, row, column, name, label_names, config)] = 1.0
        labels.append(flags)
    return labels


# --- splits ---------------------------------------------------------------------------------


@dataclass
class _Piece:
    """Rows of a source, chosen by number, with their labels in final form."""

    rows: _Rows
    labels: list[Any]
    chosen: list[int]

    @property
    def texts(self) -> list[Any]:
        return [self.rows.texts[row] for row in self.chosen]

    @property
    def text_pairs(self) -> list[str] | None:
        pairs = self.rows.text_pairs
        return None if pairs is None else [pairs[row] for row in self.chosen]

    @property
    def chosen_labels(self) -> list[Any]:
        return [self.labels[row] for row in self.chosen]

    def contents(self) -> list[tuple[str, ...]]:
        """Return each row's text, pair of texts, or words."""
        pairs = self.text_pairs
        if self.texts and isinstance(self.texts[0], list):
            return [tuple(words) for words in self.texts]
        if pairs is None:
            return [(text,) for text in self.texts]
        return list(zip(self.texts, pairs, strict=True))


def _hold_out(pieces: dict[str, _Piece], config: DataConfig, task: Task) -> None:
    """Add the splits that the recipe does not name, out of train."""
    fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
    train = pieces["train"]
    all_rows = len(train.chosen)
    for name, fraction in fractions.items():
        if name in pieces:
            continue
        total = len(train.chosen)
        count = max(1, round(fraction * all_rows))
        if count >= total:
            raise DataError(
                f"train ({train.rows.source}) has {all_rows} rows: too few to hold out {count} for "
                f"{name} (data.{name}_fraction = {fraction}) and still train. Give more rows, or a "
                f"{name} file or split"
            )
        groups = _groups(train.chosen_labels, task)
        sizes = [len(group) for group in groups]
        # Every class keeps a row in train; where there are not rows enough, the draw is plain.
        if sum(sizes) - len(sizes) < count:
            groups = [list(range(total))]
        places = _draw(groups, count, f"{config.split_seed}/{name}", keep_one=True)
        held = set(places)
        pieces[name] = _Piece(train.rows, train.labels, [train.chosen[place] for place in places])
        train.chosen = [row for place, row in enumerate(train.chosen) if place not in held]


def _take_subsets(pieces: dict[str, _Piece], config: DataConfig, task: Task) -> None:
    limits = {
        "train": config.max_train_samples,
        "validation": config.max_validation_samples,
        "test": config.max_test_samples,
    }
    for name, limit in limits.items():
        piece = pieces[name]
        if limit is None or limit >= len(piece.chosen):
            continue
        groups = _groups(piece.chosen_labels, task)
        places = _draw(groups, limit, f"{config.split_seed}/subset/{name}", keep_one=False)
        piece.chosen = [piece.chosen[place] for place in places]
    train = pieces["train"]
    if task in _ONE_LABEL and len(set(train.chosen_labels)) == 1:
        limit = config.max_train_samples
        cut = "" if limit is None else f" and the limit data.max_train_samples = {limit}"
        raise DataError(
            f"train ({train.rows.source}): after held-out rows{cut}, only one class is left to "
            f"train on (rows: {len(train.chosen)}); a classifier needs at least two: give more "
            "rows, or raise the limit"
        )


def _groups(labels: Sequence[Any], task: Task) -> list[list[int]]:
    """Group row places by class; one group where classes do not part the rows."""
    if task not in _ONE_LABEL:
        return [list(range(len(labels)))]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        groups[label].append(place)
    return [groups[label] for label in sorted(groups)]  # type: ignore[type-var]  # all int


def _draw(groups: Sequence[Sequence[int]], count: int, seed: str, keep_one: bool) -> list[int]:
    """Draw ``count`` places, each group in proportion to its size; returns them ascending.

    With ``keep_one`` every group keeps at least one place undrawn; without it, every group gives at
    least one where ``count`` allows.
    """
    total = sum(map(len, groups))
    limits = [len(group) - keep_one for group in groups]
    quotas = [count * len(group) / total for group in groups]
    floor = 1 if not keep_one and count >= len(groups) else 0
    counts = [min(max(int(q), floor), top) for q, top in zip(quotas, limits, strict=True)]
    # The largest remainder gets the next place; after a floor of one, the most overfull gives one.
    while sum(counts) < count:
        best = max(
            (place for place in range(len(groups)) if counts[place] < limits[place]),
            key=lambda place: (quotas[place] - counts[place], -place),
        )
        counts[best] += 1
    while sum(counts) > count:
        worst = max(
            (place for place in range(len(groups)) if counts[place] > floor),
            key=lambda place: (counts[place] - quotas[place], -place),
        )
        counts[worst] -= 1
    rng = random.Random(seed)
    drawn: list[int] = []
    for group, number in zip(groups, counts, strict=True):
        # Sorting by random() and not shuffle(): only random() is the same on every Python.
        keys = [rng.random() for _ in group]
        order = sorted(range(len(group)), key=keys.__getitem__)
        drawn += [group[place] for place in order[:number]]
    return sorted(drawn)


# --- tokenizing -----------------------------------------------------------------------------


def _encode(piece: _Piece, processor: Any, config: DataConfig, task: Task) -> tuple[Dataset, int]:
    """Return the rows of a piece as a model reads them, and how many were cut."""
    if piece.rows.images is not None:
        return _with_labels(piece, piece.rows.images), 0
    if config.stride is not None:
        return _in_windows(piece, processor, config, task), 0
    return _tokenize(
        piece.texts, piece.text_pairs, piece.chosen_labels, processor, config.max_length, task
    )


def _joined(parts: Sequence[tuple[Dataset, int]]) -> tuple[Dataset, int]:
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


def _tokenize(
    texts: Sequence[Any],
    pairs: Sequence[str] | None,
    labels: list[Any],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    task: Task,
) -> tuple[Dataset, int]:
    """Return the tokenized rows and how many of them were cut."""
    import datasets

    batches = []
    truncated = 0
    columns: dict[str, list[Any]]
    for start in range(0, len(texts), _TOKENIZER_BATCH):
        part = slice(start, start + _TOKENIZER_BATCH)
        if task == "token_classification":
            columns, cut = encode_words(tokenizer, texts[part], labels[part], max_length)
        else:
            columns, cut = _encode_batch(
                tokenizer, texts[part], None if pairs is None else pairs[part], max_length
            )
            columns["labels"] = labels[part]
        truncated += cut
        batches.append(datasets.Dataset.from_dict(columns, features=_features(columns, task)))
    # A tokenizer remembers the truncation of its last call and would save it with the model.
    tokenizer("", truncation=False, padding=False)
    return datasets.concatenate_datasets(batches), truncated


def _with_labels(piece: _Piece, images: Dataset) -> Dataset:
    """Return a piece's images and labels; the images stay as they are kept."""
    return images.select(piece.chosen).add_column("labels", piece.chosen_labels)


def _in_windows(
    piece: _Piece, tokenizer: PreTrainedTokenizerBase, config: DataConfig, task: Task
) -> Dataset:
    """Return the rows of a piece's windows, with labels and text numbers."""
    import datasets

    found, owners = windows(tokenizer, piece.texts, config.max_length, config.stride or 0)
    labels = piece.chosen_labels
    columns: dict[str, list[Any]] = {**found}
    columns["labels"] = [labels[owner] for owner in owners]
    columns[TEXT_ROW] = list(owners)
    features = _features(columns, task)
    features[TEXT_ROW] = datasets.Value("int64")
    return datasets.Dataset.from_dict(columns, features=features)


def _encode_batch(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
) -> tuple[dict[str, list[Any]], int]:
    def encode(places: Sequence[int], **options: Any) -> dict[str, list[Any]]:
        second = None if pairs is None else [pairs[place] for place in places]
        encoding = tokenizer(
            [texts[place] for place in places],
            second,
            padding=False,
            return_attention_mask=True,
            verbose=False,
            **options,
        )
        return {name: encoding[name] for name in TEXT_INPUTS if name in encoding}

    columns = encode(range(len(texts)), truncation=False)
    long = [place for place, ids in enumerate(columns["input_ids"]) if len(ids) > max_length]
    if long:
        for name, values in encode(long, truncation=True, max_length=max_length).items():
            for place, value in zip(long, values, strict=True):
                columns[name][place] = value
    return columns, len(long)


def _features(columns: Iterable[str], task: Task) -> Any:
    """Return the column types: as narrow as the values allow, for memory's sake."""
    import datasets

    token_types = {"input_ids": "int32", "attention_mask": "int8", "token_type_ids": "int8"}
    features: dict[str, Any] = {
        name: datasets.Sequence(datasets.Value(token_types[name]))
        for name in columns
        if name in token_types
    }
    features["labels"] = {
        "single_label_classification": datasets.Value("int64"),
        "multi_label_classification": datasets.Sequence(datasets.Value("float32")),
        "regression": datasets.Value("float32"),
        "token_classification": datasets.Sequence(datasets.Value("int64")),
    }[task]
    return datasets.Features(features)
