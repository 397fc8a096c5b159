"""Data: from a recipe's ``data`` section to tokenized train, validation and test splits.

:func:`load_task_data` reads a Hub data set or local files (CSV, TSV, JSON Lines, Parquet, CoNLL,
what others register), checks every row before any long work, settles the label names and the
splits, and tokenizes. All of it is a function of the configuration, the files and the tokenizer:
the same call gives the same rows in the same order, on every machine and in every process.

Errors are :class:`~hfprune.core.errors.DataError` and name the split, the column, and the row. Rows
count from 1; a header line is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from hfprune.core.errors import DataError
from hfprune.core.tasks import WITHOUT_CLASSES, Task, problem_of
from hfprune.data.candidates import highest_of
from hfprune.data.encode import batches_of, encode_split, joined, rest_windows, tokenize
from hfprune.data.labels import encode_labels
from hfprune.data.notices import Notice, notices_of
from hfprune.data.queries import (
    has_relevant,
    hold_out_queries,
    nothing_to_find,
    take_queries,
    with_queries,
)
from hfprune.data.readers.paths import files_of
from hfprune.data.readers.reading import read_files, read_splits
from hfprune.data.readers.table import Rows
from hfprune.data.splits import Piece, hold_out, take_subsets
from hfprune.data.task_data import SPLITS, TEXT_ROW, TaskData
from hfprune.data.unlabeled import apart, read_unlabeled
from hfprune.data.windows import later_parts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from hfprune.recipe.sections.data import DataConfig


TASKS: tuple[Task, ...] = get_args(Task)


def load_task_data(config: DataConfig, processor: Any, task: str, *, prompt: str = "") -> TaskData:
    """Read, check, split and tokenize the data that a recipe names.

    A split that the recipe names is used as it is. One that it does not name is held out of the
    training rows by ``split_seed``: first ``test_fraction`` of them for the test, then
    ``validation_fraction`` of them (of all, not of what is left) for validation; no row is taken
    twice, and copies of a text stay on one side. For a single label, held-out rows and the subsets
    that ``max_*_samples`` ask for are stratified, and every class keeps a row in train as long as
    there are rows enough. Of reranking, queries are held out, each with all its texts.

    Label names are, in this order of preference: ``label_names``; the names that the data set
    itself declares (a ``ClassLabel`` feature); the values found in train, sorted, as numbers where
    all of them are whole numbers. In the last case a label that only validation or test holds is an
    error. Whole numbers in the data are class numbers where ``label_names`` holds no number.

    Args:
        config: The recipe's ``data`` section.
        processor: The tokenizer, which is changed in one case: if it has no padding token, its
            end-of-sequence token becomes the padding token (a model's ``pad_token_id`` must then
            follow). For images not used: see :func:`data_collator`.
        task: A recipe's task. Of sentence_embedding the labels are still missing: see
            :meth:`~hfprune.data.task_data.TaskData.with_embeddings`.
        prompt: What is put before each text of sentence_embedding.

    Raises:
        DataError: The data cannot be read or do not fit the task.
    """
    checked_task = _check_task(task, config)
    if checked_task != "image_classification":
        _check_tokenizer(processor, config)
    rows = read_splits(config, checked_task)
    label_names, labels = encode_labels(rows, config, checked_task)
    pieces, seen_in_train = parted(rows, labels, config, checked_task)
    more = read_unlabeled(config)
    more = None if more is None else apart(more, pieces, checked_task)
    encoded, truncated = {}, {}
    for name in SPLITS:
        encoded[name], truncated[name] = encode_split(
            pieces[name], processor, config, checked_task, prompt
        )
        if checked_task == "reranking":
            encoded[name] = with_queries(encoded[name], pieces[name].texts)
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
        seen_in_train=seen_in_train,
        notices=(
            *notices_of(pieces, label_names, seen_in_train, config, checked_task),
            *(() if more is None else more.notices()),
        ),
        unlabeled=more,
        prompt=prompt,
        highest_relevance=highest_of(rows, config) if checked_task == "reranking" else None,
    )


def parted(
    rows: Mapping[str, Rows], labels: Mapping[str, list[Any]], config: DataConfig, task: Task
) -> tuple[dict[str, Piece], dict[str, int]]:
    """The three splits of checked rows, each within its limit, and what train holds of the others.

    Args:
        rows: of the splits that the recipe names.
        labels: theirs, as ``encode_labels`` gives them.
        config, task: The recipe's.

    Returns:
        The splits by name, and for validation and test how many rows are also in train
        (:class:`TaskData`).

    Raises:
        DataError: There are too few rows, or queries.
    """
    pieces = {
        name: Piece(split, labels[name], list(range(len(split.texts))))
        for name, split in rows.items()
    }
    if task == "reranking":
        hold_out_queries(pieces, config)
        take_queries(pieces, config)
    else:
        hold_out(pieces, config, task)
        take_subsets(pieces, config, task)
    return pieces, _seen_in_train(pieces, task)


def _seen_in_train(pieces: Mapping[str, Piece], task: Task) -> dict[str, int]:
    def contents(piece: Piece) -> Sequence[Any]:
        # Texts may stand under many queries; new is what was asked.
        return piece.texts if task == "reranking" else piece.contents()

    known = set(contents(pieces["train"]))
    return {
        name: sum(content in known for content in contents(pieces[name]))
        for name in SPLITS
        if name != "train"
    }


def load_rows(
    config: DataConfig, files: Sequence[str], processor: Any, task: str, *, prompt: str = ""
) -> TaskData:
    """Read rows to evaluate on, from files of their own.

    Args:
        config: names columns, label names (needed where there are classes) and lengths; the
            data that it names are not read, and its limits are not applied.
        files: CSV, JSON Lines, Parquet or CoNLL; their rows follow one another.
        processor: as for :func:`load_task_data`.
        task, prompt: as for :func:`load_task_data`.

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
    if config.label_names is None and checked_task not in WITHOUT_CLASSES:
        raise DataError("rows of a classifier are read by the names of its labels; none are given")
    rows = {
        f"{number}": read_files("test", [file], config, checked_task)
        for number, file in enumerate(files_of("test", files))
    }
    label_names, labels = encode_labels(rows, config, checked_task)
    pieces = [Piece(rows[n], labels[n], list(range(len(rows[n].texts)))) for n in rows]
    test, truncated = joined(
        [encode_split(piece, processor, config, checked_task, prompt) for piece in pieces]
    )
    if checked_task == "reranking":
        if not any(has_relevant(piece) for piece in pieces):
            raise nothing_to_find("test", rows["0"].source)
        test = with_queries(test, [query for piece in pieces for query in piece.texts])
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
        notices=tuple(Notice(text, "warning") for some in rows.values() for text in some.notices),
        prompt=prompt,
        highest_relevance=highest_of(rows, config) if checked_task == "reranking" else None,
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
        encoded[name], truncated[name] = tokenize(
            [data.prompt + text for text in data.texts[name]] if data.prompt else data.texts[name],
            data.text_pairs.get(name),
            list(data.split(name)["labels"]),
            tokenizer,
            data.max_length,
            data.task,
        )
        if data.task == "reranking":
            encoded[name] = with_queries(encoded[name], data.texts[name])
    return replace(data, **encoded, truncated=truncated)


def rest_of_texts(data: TaskData, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """What ``max_length`` cut off the training texts: real text of the task, without labels.

    Args:
        data: whole texts with one label each, without pairs.
        tokenizer: the one that ``data`` was made with.

    Returns:
        Rows of at most ``data.max_length`` tokens, special tokens included, text by text in order;
        ends shorter than a quarter of that are left out. No labels: a part need not mean what the
        whole text was labelled for, so ask a teacher. Before each part stands ``data.prompt``, as
        before each text.
    """
    texts = data.texts["train"]
    if not data.prompt:
        return rest_windows(tokenizer, texts, data.max_length)
    room = data.max_length - len(tokenizer(data.prompt, add_special_tokens=False)["input_ids"])
    fits = room > tokenizer.num_special_tokens_to_add()
    some = [
        data.prompt + one
        for part in (batches_of(texts, None) if fits else ())
        for one in later_parts(tokenizer, texts[part], room)
    ]
    if not some:
        none = data.train.select([])
        return none.remove_columns(list({"labels"} & set(none.column_names)))
    return tokenize(some, None, None, tokenizer, data.max_length, data.task)[0]


def unlabeled_rows(data: TaskData, tokenizer: PreTrainedTokenizerBase) -> Dataset | None:
    """The texts without labels as a model reads them; ``None`` where there are none.

    Args:
        data: whole texts.
        tokenizer: the one that ``data`` was made with.

    Returns:
        Rows of at most ``data.max_length`` tokens, without labels. Before each text stands
        ``data.prompt``, as before those that are trained on; of reranking ``query_row`` says which
        texts are of one query.
    """
    found = data.unlabeled
    if found is None or not found.texts:
        return None
    texts = [data.prompt + text for text in found.texts] if data.prompt else found.texts
    rows, _ = tokenize(texts, found.pairs, None, tokenizer, data.max_length, data.task)
    return with_queries(rows, found.texts) if data.task == "reranking" else rows


def _check_task(task: str, config: DataConfig) -> Task:
    if isinstance(config.label_column, list) and task != "multi_label_classification":
        raise DataError(
            f"data.label_column is a list, {config.label_column}, but the task is {task}: a list "
            "of 0/1 columns needs task multi_label_classification"
        )
    if task in WITHOUT_CLASSES and config.label_names is not None:
        raise DataError(
            f"data.label_names is given, but the task is {task}, which has no classes: leave it "
            "out, or choose another task"
        )
    if task == "reranking" and config.text_pair_column is None:
        raise DataError(
            "reranking reads pairs: name the column of the queries in data.text_column, and that "
            "of the texts in data.text_pair_column"
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
