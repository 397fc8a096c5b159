"""Data: every kind of file, label and split, by hand; and the text of every refusal."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hfprune.core.errors import DataError
from hfprune.data.collate import data_collator
from hfprune.data.encode import tokenize
from hfprune.data.loading import load_task_data
from hfprune.data.splits import _draw
from hfprune.data.task_data import TaskData
from hfprune.recipe.sections.data import DataConfig

SINGLE = "single_label_classification"
MULTI = "multi_label_classification"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "the", "very"]
PADDING, UNKNOWN, END = WORDS[0], WORDS[1], WORDS[3]


def make_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """Whole words; [CLS] first, [SEP] after each text."""
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 512, **options}
    names.setdefault("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def write_csv(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def rows_of(labels: list[Any], word: str = "good") -> list[dict[str, Any]]:
    """One row a label, each with a text of its own."""
    return [{"text": f"{word} {number}", "label": label} for number, label in enumerate(labels)]


def load(folder: Path, tokenizer: Any, task: str = SINGLE, **settings: Any) -> TaskData:
    """Load with the three splits of ``settings`` (lists of rows) written as JSON Lines."""
    for name in ("train", "validation", "test"):
        rows = settings.pop(name, None)
        if rows is not None:
            settings[f"{name}_file"] = write_jsonl(folder / f"{name}.jsonl", rows)
    return load_task_data(DataConfig(**{"max_length": 16, **settings}), tokenizer, task)


def three(labels: list[Any]) -> dict[str, list[dict[str, Any]]]:
    return {name: rows_of(labels, name) for name in ("train", "validation", "test")}


# --- the shape of the result ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_three_files_come_out_as_they_are(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    files = {}
    for name in ("train", "validation", "test"):
        rows = [{"text": "good film", "label": "yes"}, {"text": f"bad, {name}", "label": "no"}]
        files[f"{name}_file"] = WRITERS[kind](tmp_path / f"{name}.{kind}", rows)
    data = load_task_data(DataConfig(**files), tokenizer, SINGLE)
    assert data.label_names == ["no", "yes"]
    assert data.id2label == {0: "no", 1: "yes"}
    assert data.label2id == {"no": 0, "yes": 1}
    assert data.num_labels == 2
    assert data.task == SINGLE
    assert data.max_length == 128
    assert data.texts["validation"] == ["good film", "bad, validation"]
    assert data.text_pairs == {}
    for name in ("train", "validation", "test"):
        split = data.split(name)
        assert isinstance(split, datasets.Dataset)
        assert split["labels"][:] == [1, 0]
        assert split[0]["input_ids"] == [2, 4, 6, 3]
        assert split[0]["attention_mask"] == [1, 1, 1, 1]
        assert split[0]["token_type_ids"] == [0, 0, 0, 0]
        assert split.cache_files == []
    with pytest.raises(DataError, match="no split 'dev'; the splits are train, validation, test"):
        data.split("dev")


def test_a_pair_of_texts(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"premise": "good film", "hypothesis": "bad", "label": 0},
        {"premise": "good", "hypothesis": "", "label": 1},
    ]
    data = load(
        tmp_path,
        tokenizer,
        train=rows,
        validation=rows,
        test=rows[:1],
        text_column="premise",
        text_pair_column="hypothesis",
    )
    assert data.train[0]["input_ids"] == [2, 4, 6, 3, 5, 3]
    assert data.train[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert data.train[1]["input_ids"] == [2, 4, 3, 3]
    assert data.text_pairs["train"] == ["bad", ""]
    assert data.seen_in_train == {"validation": 2, "test": 1}


def test_a_tokenizer_without_token_types(tmp_path: Path) -> None:
    bare = make_tokenizer(model_input_names=["input_ids", "attention_mask"])
    data = load(tmp_path, bare, **three([0, 1]))
    assert sorted(data.train.column_names) == ["attention_mask", "input_ids", "labels"]


def test_long_texts_are_cut_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    exact, over = "good " * 6, "good " * 7
    huge = "very " * 200_000  # 1 MB
    data = load(
        tmp_path,
        tokenizer,
        train=[
            {"text": exact, "label": 0},
            {"text": over, "label": 1},
            {"text": huge, "label": 1},
            {"text": "", "label": 0},
        ],
        validation=rows_of([0, 1]),
        test=rows_of([0, 1]),
        max_length=8,
    )
    assert data.truncated == {"train": 2, "validation": 0, "test": 0}
    assert data.train["input_ids"][:] == [
        [2, *[4] * 6, 3],
        [2, *[4] * 6, 3],
        [2, *[9] * 6, 3],
        [2, 3],
    ]
    assert data.texts["train"][2] == huge
    # The tokenizer is as it was: nothing is cut that nobody asked to cut.
    assert len(tokenizer(over).input_ids) == 9
    assert tokenizer.backend_tokenizer.truncation is None


def test_a_csv_cell_beyond_the_limit_of_the_csv_module(tmp_path: Path, tokenizer: Any) -> None:
    before = csv.field_size_limit()
    rows = [{"text": "good " * 28_000, "label": "a"}, {"text": "bad", "label": "b"}]
    file = write_csv(tmp_path / "train.csv", rows)
    other = write_csv(tmp_path / "other.csv", rows[1:])
    third = write_csv(tmp_path / "third.csv", rows[1:])
    config = DataConfig(train_file=file, validation_file=other, test_file=third)
    data = load_task_data(config.model_copy(update={"max_length": 32}), tokenizer, SINGLE)
    assert len(data.train[0]["input_ids"]) == 32
    assert csv.field_size_limit() == before


def test_the_collator_pads_to_the_longest_row_only(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"text": "good", "label": 0}, {"text": "a very good film", "label": 1}]
    data = load(tmp_path, tokenizer, train=rows, validation=rows, test=rows)
    batch = data_collator(tokenizer)([data.train[0], data.train[1]])
    assert batch["input_ids"].tolist() == [[2, 4, 3, 0, 0, 0], [2, 7, 9, 4, 6, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert batch["labels"].tolist() == [0, 1]
    assert batch["labels"].dtype == torch.int64


@pytest.mark.parametrize(
    ("task", "label"), [(MULTI, [["a"], ["a", "b"]]), ("regression", [0.25, 2])]
)
def test_float_labels_reach_the_model_as_float32(
    tmp_path: Path, tokenizer: Any, task: str, label: list[Any]
) -> None:
    data = load(tmp_path, tokenizer, task, **three(label))
    batch = data_collator(tokenizer)([data.train[0], data.train[1]])
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == ([[1, 0], [1, 1]] if task == MULTI else [0.25, 2.0])


def test_more_rows_than_one_tokenizer_batch(tmp_path: Path, tokenizer: Any) -> None:
    labels = [number % 2 for number in range(2100)]
    train = [
        {"text": "good " * (number % 20), "label": label} for number, label in enumerate(labels)
    ]
    data = load(tmp_path, tokenizer, train=train, validation=rows_of([0]), test=rows_of([1]))
    assert data.train["labels"][:] == labels
    assert [len(ids) for ids in data.train["input_ids"]] == [
        min(number % 20 + 2, 16) for number in range(2100)
    ]
    assert data.truncated["train"] == sum(number % 20 + 2 > 16 for number in range(2100))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fast", [True, False])
def test_cut_rows_are_those_that_are_longer_when_nothing_is_cut(side: str, fast: bool) -> None:
    tokenizer = make_tokenizer(truncation_side=side)
    if not fast:  # the road of tokenizers in Python, which do not keep what they cut off
        tokenizer.__class__ = type("Slow", (type(tokenizer),), {"is_fast": False})
    draw = random.Random(0)
    texts, pairs = (
        [" ".join(draw.choices(["good", "bad"], k=draw.randint(0, 12))) for _ in range(80)]
        for _ in range(2)
    )
    for limit in (4, 8, 13):
        for second in (None, pairs):
            found, cut = tokenize(texts, second, [0] * 80, tokenizer, limit, SINGLE)
            whole = tokenizer(texts, second, truncation=False)["input_ids"]
            assert cut == sum(len(ids) > limit for ids in whole)
            expected = tokenizer(texts, second, truncation=True, max_length=limit)
            assert found["input_ids"][:] == expected["input_ids"]
            assert found["attention_mask"][:] == expected["attention_mask"]


# --- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        ([1, 5, 3, 1], ["1", "3", "5"], [0, 2, 1, 0]),
        ([10, 9, 10], ["9", "10"], [1, 0, 1]),
        ([True, False], ["False", "True"], [1, 0]),
        ([2.0, 0.0], ["0", "2"], [1, 0]),
        (["Ünï", "a"], ["a", "Ünï"], [1, 0]),
    ],
)
def test_names_are_found_in_train_and_sorted(
    tmp_path: Path, tokenizer: Any, labels: list[Any], names: list[str], numbers: list[int]
) -> None:
    data = load(tmp_path, tokenizer, **three(labels))
    assert data.label_names == names
    assert data.train["labels"][:] == numbers


def test_whole_numbers_in_a_csv_file_sort_as_numbers(tmp_path: Path, tokenizer: Any) -> None:
    files = {
        f"{name}_file": write_csv(tmp_path / f"{name}.csv", rows_of([10, 9]))
        for name in ("train", "validation", "test")
    }
    data = load_task_data(DataConfig(max_length=16, **files), tokenizer, SINGLE)
    assert data.label_names == ["9", "10"]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["neg", "pos"], ["pos", "neg"], [1, 0]),
        ([0, 1], ["neg", "pos"], [0, 1]),
        ([False, True], ["neg", "pos"], [0, 1]),
        (["0", "1"], ["neg", "pos"], [0, 1]),
        ([5, 1], ["1", "2", "3", "4", "5"], [4, 0]),
        ([-1, 1], ["-1", "1"], [0, 1]),
    ],
)
def test_given_names_keep_their_order(
    tmp_path: Path, tokenizer: Any, labels: list[Any], names: list[str], numbers: list[int]
) -> None:
    data = load(tmp_path, tokenizer, label_names=names, **three(labels))
    assert data.label_names == names
    assert data.train["labels"][:] == numbers


def class_label_file(path: Path, names: list[str], labels: list[int]) -> str:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    texts = [f"good {number}" for number in range(len(labels))]
    data = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
    pq.write_table(data.data.table, path)
    return str(path)


def test_declared_classes_give_the_names_and_their_order(tmp_path: Path, tokenizer: Any) -> None:
    config = DataConfig(
        train_file=class_label_file(tmp_path / "a.parquet", ["x", "c", "b"], [0, 1, 0]),
        # The same names in another order: matched by name, not by number.
        validation_file=class_label_file(tmp_path / "b.parquet", ["b", "c", "x"], [0, 2]),
        test_file=class_label_file(tmp_path / "c.parquet", ["x", "c", "b"], [1]),
        max_length=16,
    )
    data = load_task_data(config, tokenizer, SINGLE)
    assert data.label_names == ["x", "c", "b"]
    assert data.validation["labels"][:] == [2, 0]
    assert data.test["labels"][:] == [1]
    reordered = config.model_copy(update={"label_names": ["b", "c", "x"]})
    assert load_task_data(reordered, tokenizer, SINGLE).train["labels"][:] == [2, 1, 2]
    renamed = config.model_copy(update={"label_names": ["one", "two", "three"]})
    with pytest.raises(DataError, match="the label 'x' is unknown; data.label_names holds 'one'"):
        load_task_data(renamed, tokenizer, SINGLE)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([["joy"], [], ["joy", "fear"]], None, (["fear", "joy"], [[0, 1], [0, 0], [1, 1]])),
        ([[2], [0, 2], []], None, (["0", "2"], [[0, 1], [1, 1], [0, 0]])),
        ([[1], [0, 1], [1]], ["off", "on"], (["off", "on"], [[0, 1], [1, 1], [0, 1]])),
    ],
)
def test_lists_of_labels(
    tmp_path: Path, tokenizer: Any, labels: list[Any], names: list[str] | None, expected: Any
) -> None:
    data = load(tmp_path, tokenizer, MULTI, label_names=names, **three(labels))
    assert (data.label_names, data.train["labels"][:]) == expected
    assert data.num_labels == 2


def test_a_list_of_declared_classes(tmp_path: Path, tokenizer: Any) -> None:
    classes = datasets.Sequence(datasets.ClassLabel(names=["joy", "fear", "anger"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    columns = {"text": ["good", "bad"], "label": [[2], [0, 1]]}
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    files = {}
    for name in ("train", "validation", "test"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        files[f"{name}_file"] = str(tmp_path / f"{name}.parquet")
    data = load_task_data(DataConfig(max_length=16, **files), tokenizer, MULTI)
    assert data.label_names == ["joy", "fear", "anger"]
    assert data.test["labels"][:] == [[0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_one_column_a_label(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    rows = [
        {"text": "good", "toxic": 0, "funny": True, "long": 1.0},
        {"text": "bad", "toxic": 1, "funny": False, "long": 0},
    ]
    files = {
        f"{name}_file": WRITERS[kind](tmp_path / f"{name}.{kind}", rows)
        for name in ("train", "validation", "test")
    }
    config = DataConfig(label_column=["toxic", "funny", "long"], max_length=16, **files)
    data = load_task_data(config, tokenizer, MULTI)
    assert data.label_names == ["toxic", "funny", "long"]
    assert data.train["labels"][:] == [[0, 1, 1], [1, 0, 0]]
    reordered = config.model_copy(update={"label_names": ["long", "toxic", "funny"]})
    assert load_task_data(reordered, tokenizer, MULTI).train["labels"][:] == [[1, 0, 1], [0, 1, 0]]
    renamed = config.model_copy(update={"label_names": ["A", "B", "C"]})
    data = load_task_data(renamed, tokenizer, MULTI)
    assert (data.label_names, data.train["labels"][0]) == (["A", "B", "C"], [0, 1, 1])


def test_regression_has_no_names(tmp_path: Path, tokenizer: Any) -> None:
    data = load(tmp_path, tokenizer, "regression", **three([1, 2.5, "-3e1"]))
    assert data.label_names == []
    assert data.num_labels == 1
    assert data.id2label == {0: "LABEL_0"}
    assert data.train["labels"][:] == [1.0, 2.5, -30.0]


# --- splits ---------------------------------------------------------------------------------


def numbers_of(data: TaskData, name: str) -> list[int]:
    """The row numbers that ``rows_of`` wrote into the texts."""
    return [int(text.split()[1]) for text in data.texts[name]]


def test_held_out_rows_are_shares_of_all_rows_and_stratified(
    tmp_path: Path, tokenizer: Any
) -> None:
    labels = ["a"] * 70 + ["b"] * 30
    data = load(tmp_path, tokenizer, train=rows_of(labels))
    assert Counter(data.test["labels"]) == {0: 14, 1: 6}
    assert Counter(data.validation["labels"]) == {0: 7, 1: 3}
    assert Counter(data.train["labels"]) == {0: 49, 1: 21}
    everything = [numbers_of(data, name) for name in ("train", "validation", "test")]
    assert sorted(chain.from_iterable(everything)) == list(range(100))
    assert all(numbers == sorted(numbers) for numbers in everything)
    for name in ("train", "validation", "test"):
        expected = [data.label2id[labels[number]] for number in numbers_of(data, name)]
        assert data.split(name)["labels"][:] == expected


def test_validation_comes_out_of_train_and_leaves_the_test_alone(
    tmp_path: Path, tokenizer: Any
) -> None:
    data = load(tmp_path, tokenizer, train=rows_of([0, 1] * 20), test=rows_of([0, 1], "bad"))
    assert data.texts["test"] == ["bad 0", "bad 1"]
    assert len(data.validation) == 4
    assert len(data.train) == 36
    assert data.seen_in_train == {"validation": 0, "test": 0}


def test_the_same_call_gives_the_same_rows(tmp_path: Path, tokenizer: Any) -> None:
    rows = rows_of(["a", "b", "c"] * 30)
    first = load(tmp_path, tokenizer, train=rows, max_train_samples=20)
    again = load(tmp_path, tokenizer, train=rows, max_train_samples=20)
    other = load(tmp_path, tokenizer, train=rows, max_train_samples=20, split_seed=7)
    for name in ("train", "validation", "test"):
        assert first.split(name).to_dict() == again.split(name).to_dict()
        assert first.texts[name] != other.texts[name]


def test_the_held_out_rows_are_these_on_every_machine(tmp_path: Path, tokenizer: Any) -> None:
    # Recorded once: a change would silently move the test rows of published results into train.
    data = load(tmp_path, tokenizer, train=rows_of([0, 1] * 10))
    assert numbers_of(data, "test") == [6, 7, 14, 17]
    assert numbers_of(data, "validation") == [16, 19]


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_one_row_stays_in_train(tmp_path: Path, tokenizer: Any, seed: int) -> None:
    rows = rows_of(["a"] * 10 + ["b"] * 9 + ["rare"])
    data = load(tmp_path, tokenizer, train=rows, split_seed=seed)
    assert data.label_names == ["a", "b", "rare"]
    assert Counter(data.train["labels"]) == {0: 7, 1: 6, 2: 1}
    assert Counter(data.test["labels"]) == {0: 2, 1: 2}


def test_too_many_classes_for_the_rows_are_drawn_plainly(tmp_path: Path, tokenizer: Any) -> None:
    data = load(tmp_path, tokenizer, train=rows_of([str(number) for number in range(10)]))
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 1, 2)
    assert data.num_labels == 10


@pytest.mark.parametrize(("task", "labels"), [(MULTI, [["a"], ["b"]]), ("regression", [0.5, 1.5])])
def test_other_tasks_are_held_out_plainly(
    tmp_path: Path, tokenizer: Any, task: str, labels: list[Any]
) -> None:
    data = load(tmp_path, tokenizer, task, train=rows_of(labels * 10))
    assert (len(data.train), len(data.validation), len(data.test)) == (14, 2, 4)


def test_subsets_are_stratified(tmp_path: Path, tokenizer: Any) -> None:
    labels = ["a"] * 60 + ["b"] * 38 + ["rare"] * 2
    data = load(
        tmp_path,
        tokenizer,
        **three(labels),
        max_train_samples=10,
        max_validation_samples=50,
        max_test_samples=1000,
    )
    # 6.0, 3.8 and 0.2 rows: every class gets one, and the largest group above its share gives it.
    assert Counter(data.train["labels"]) == {0: 6, 1: 3, 2: 1}
    assert Counter(data.validation["labels"]) == {0: 30, 1: 19, 2: 1}
    assert len(data.test) == 100


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.floats(0, 1),
    st.booleans(),
    st.integers(0, 5),
)
def test_draws_are_exact_and_in_proportion(
    sizes: list[int], share: float, keep_one: bool, seed: int
) -> None:
    groups, start = [], 0
    for size in sizes:
        groups.append(list(range(start, start + size)))
        start += size
    most = start - keep_one * len(sizes)
    count = round(share * most)
    drawn = _draw(groups, count, str(seed), keep_one)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    for group in groups:
        inside = len(set(group) & set(drawn))
        assert inside <= len(group) - keep_one
        if not keep_one and count >= len(groups):
            assert inside >= 1
        # Within a row of the share, but for the rows that small groups must give or keep.
        assert abs(inside - count * len(group) / start) < 1 + len(groups)


def test_a_data_set_smaller_than_a_batch(tmp_path: Path, tokenizer: Any) -> None:
    data = load(tmp_path, tokenizer, train=rows_of([0, 1, 0, 1]))
    assert (len(data.train), len(data.validation), len(data.test)) == (2, 1, 1)
    assert sorted(data.train["labels"]) == [0, 1]


def test_texts_of_train_in_other_splits_are_counted(tmp_path: Path, tokenizer: Any) -> None:
    data = load(
        tmp_path,
        tokenizer,
        train=rows_of([0, 1, 0]),
        validation=[{"text": "good 1", "label": 1}, {"text": "new", "label": 0}],
        test=[{"text": "good 0", "label": 0}, {"text": "good 0", "label": 0}],
    )
    assert data.seen_in_train == {"validation": 1, "test": 2}


# --- data sets by name ----------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for ``load_dataset``; records what is asked of it."""
    asked: list[tuple[Any, ...]] = []
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
        }
    )
    splits = {"train": [0, 1] * 10, "validation": [1, 0], "test": [-1, -1], "bad": [0, 1]}

    def load_dataset(name: str, config: str | None, *, split: str, revision: str | None) -> Any:
        asked.append((name, config, split, revision, datasets.are_progress_bars_disabled()))
        if split not in splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
        labels = splits[split]
        texts = [f"{split} {number}" for number in range(len(labels))]
        return datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_data_set_by_name(
    tokenizer: Any, hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    was_disabled = datasets.are_progress_bars_disabled()
    config = DataConfig(
        name="nyu-mll/glue",
        config_name="sst2",
        revision="abc",
        validation_split="validation",
        text_column="sentence",
        max_length=16,
    )
    data = load_task_data(config, tokenizer, SINGLE)
    assert hub == [
        ("nyu-mll/glue", "sst2", "train", "abc", True),
        ("nyu-mll/glue", "sst2", "validation", "abc", True),
    ]
    assert datasets.are_progress_bars_disabled() == was_disabled
    assert data.label_names == ["negative", "positive"]
    assert data.texts["validation"] == ["validation 0", "validation 1"]
    assert len(data.test) == 4
    assert len(data.train) == 16


def test_hidden_test_labels_are_named_as_such(tokenizer: Any, hub: list[Any]) -> None:
    config = DataConfig(name="glue", test_split="test", text_column="sentence", max_length=16)
    expected = (
        r"^test \(glue, split 'test'\), row 1, column 'label': the label is -1, which marks hidden "
        r"labels in published test sets: choose another split, or leave data.test_split out to "
        r"hold rows out of train$"
    )
    with pytest.raises(DataError, match=expected):
        load_task_data(config, tokenizer, SINGLE)


def test_an_unknown_split_of_a_data_set(tokenizer: Any, hub: list[Any]) -> None:
    config = DataConfig(name="glue", test_split="tset", text_column="sentence", max_length=16)
    expected = (
        r"test \(glue, split 'tset'\) could not be loaded: ValueError: Unknown split \"tset\". "
        r"Should be one of \['train'.*Check data.name, data.config_name, the split and the network"
    )
    with pytest.raises(DataError, match=expected):
        load_task_data(config, tokenizer, SINGLE)


def test_a_missing_column_of_a_data_set(tokenizer: Any, hub: list[Any]) -> None:
    config = DataConfig(name="glue", text_column="sentense", max_length=16)
    expected = (
        r"train \(glue, split 'train'\) has no column 'sentense', which data.text_column asks for. "
        r"Its columns: 'sentence', 'label'. Did you mean 'sentence'\?"
    )
    with pytest.raises(DataError, match=expected):
        load_task_data(config, tokenizer, SINGLE)


def test_a_folder_that_the_datasets_library_loads(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    write_csv(folder / "train.csv", rows_of([0, 1] * 10))
    write_csv(folder / "test.csv", rows_of([1, 0], "bad"))
    config = DataConfig(name=str(folder), test_split="test", max_length=16)
    data = load_task_data(config, tokenizer, SINGLE)
    assert data.texts["test"] == ["bad 0", "bad 1"]
    assert data.test["labels"][:] == [1, 0]


def test_local_files_leave_the_cache_alone(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for kind, write in WRITERS.items():
        file = write(tmp_path / f"train.{kind}", rows_of([0, 1] * 5))
        load_task_data(DataConfig(train_file=file, max_length=16), tokenizer, SINGLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train.csv",
        "train.jsonl",
        "train.parquet",
    ]


# --- files ----------------------------------------------------------------------------------


def load_file(path: Path, content: bytes | str, tokenizer: Any, **settings: Any) -> TaskData:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_task_data(
        DataConfig(train_file=str(path), max_length=16, **settings), tokenizer, SINGLE
    )


def test_csv_as_it_comes(tmp_path: Path, tokenizer: Any) -> None:
    # A byte order mark, Windows line ends, a quoted comma, quote and line break, a blank line.
    text = '\ufefflabel,text\r\nx,"good, ""film"""\r\n\r\ny,"two\nlines"\r\nx,\r\ny,4\r\n'
    data = load_file(tmp_path / "a.CSV", text, tokenizer)
    texts = data.texts["train"] + data.texts["validation"] + data.texts["test"]
    assert sorted(texts) == ["", "4", 'good, "film"', "two\nlines"]


def test_tab_separated(tmp_path: Path, tokenizer: Any) -> None:
    data = load_file(tmp_path / "a.tsv", "text\tlabel\n" + "a, b\tx\na, c\ty\n" * 3, tokenizer)
    assert set(data.texts["train"]) == {"a, b", "a, c"}


def test_one_json_array_and_blank_lines(tmp_path: Path, tokenizer: Any) -> None:
    rows = rows_of([0, 1] * 3)
    array = load_file(tmp_path / "a.json", json.dumps(rows), tokenizer)
    lines = load_file(tmp_path / "b.json", "\n\n".join(map(json.dumps, rows)) + "\n\n", tokenizer)
    assert array.texts == lines.texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "has no column 'text', which data.text_column asks for. Its columns: none."),
        ("a.csv", b"text,label\n", r"^train \(.*a.csv\) has no rows$"),
        ("a.jsonl", b"", r"^train \(.*a.jsonl\) has no rows$"),
        (
            "a.csv",
            b"txt,label\ngood,x\n",
            r"no column 'text', which data.text_column asks for. Its columns: 'txt', 'label'. Did "
            r"you mean 'txt'\?",
        ),
        ("a.csv", b"text,lbl\ngood,x\n", "no column 'label', which data.label_column asks for"),
        ("a.csv", b"text,text\n", "the column 'text' stands twice in the header line"),
        (
            "a.csv",
            b"text,label\ngood,x\nwell, good,y\n",
            r"row 2 \(line 3\) has 3 cells, the header has 2: a text that holds ',', a quote",
        ),
        ("a.csv", b'text,label\ngood,x\n"bad,y\n', "line 3: not valid CSV: unexpected end of data"),
        (
            "a.csv",
            b"text,label\ngood,x\ncaf\xe9,y\n",
            "is not UTF-8: byte 0xe9 on line 3, at byte 21 of the file, cannot be read. Save the "
            "file as UTF-8",
        ),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text"\n', "line 2: not valid JSON: Expecting"),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n3\n',
            r"row 2: expected an object .*got 3 \(int\)",
        ),
        ("a.json", b'[{"text": "a"},', "not valid JSON: "),
        ("a.jsonl", b'{"a": 1}\n', "no column 'text', .* Its columns: 'a'"),
        ("a.parquet", b"PAR0", "not a valid Parquet file: "),
        ("a.txt", b"good", r"extension '.txt' is not known; expected one of .csv, .tsv, .json, "),
        ("a", b"good", "the extension '' is not known"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, tokenizer: Any, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_file(tmp_path / name, content, tokenizer)


def test_a_missing_file_names_the_nearest(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "train.csv").write_text("text,label\n")
    config = DataConfig(train_file=str(tmp_path / "trian.csv"))
    expected = r"there is no such file \(data.train_file\). Did you mean '.*/train.csv'\?"
    with pytest.raises(DataError, match=expected):
        load_task_data(config, tokenizer, SINGLE)
    config = DataConfig(train_file=str(tmp_path / "none" / "x.csv"))
    with pytest.raises(DataError, match=r"there is no such file \(data.train_file\)\.$"):
        load_task_data(config, tokenizer, SINGLE)


def test_one_file_for_two_splits(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\na,1\nb,0\n")
    other = tmp_path / "." / "sub" / ".." / "a.csv"
    (tmp_path / "sub").mkdir()
    config = DataConfig(train_file=str(file), test_file=str(other))
    with pytest.raises(DataError, match=r"data.train_file and data.test_file are one file, '.*a.c"):
        load_task_data(config, tokenizer, SINGLE)


# --- rows that are refused ------------------------------------------------------------------

GOOD = [{"text": "good", "label": 0}, {"text": "bad", "label": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no text (null); fill it, with an empty text if need be, or remove"),
        (float("nan"), "there is no text (null)"),
        (3, "expected a text, got 3 (int); choose the text's column, or write the value as a str"),
        (["good", "film"], "expected a text, got ['good', 'film'] (list)"),
        ("half \ud83d", "the text holds half a character (a lone surrogate, U+D83D) at position 5"),
    ],
)
@pytest.mark.parametrize("column", ["text", "second"])
def test_texts_that_are_refused(
    tmp_path: Path, tokenizer: Any, text: Any, message: str, column: str
) -> None:
    rows = [{"text": "a", "second": "b", "label": number % 2} for number in range(5)]
    rows[3][column] = text
    with pytest.raises(DataError) as error:
        load(tmp_path, tokenizer, train=GOOD_PAIRS, validation=rows, text_pair_column="second")
    start = f"validation ({tmp_path / 'validation.jsonl'}), row 4, column '{column}': "
    assert str(error.value).startswith(start + message)


GOOD_PAIRS = [{**row, "second": "film"} for row in GOOD]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "there is no label (empty or null); fill it or remove the row"),
        ("", "there is no label (empty or null)"),
        (float("nan"), "there is no label (empty or null)"),
        (-1, "the label is -1, which marks hidden labels in published test sets: choose another "),
        (0.5, "the label is 0.5, not a whole number; to predict numbers, set task: regression"),
        ([1], "expected a string, a whole number or a boolean, got [1] (list); for several labels"),
        ({"a": 1}, "expected a string, a whole number or a boolean, got {'a': 1} (dict)"),
        (
            2,
            "the label '2' is unknown; train holds '0', '1': add such rows to train, or give data.",
        ),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, tokenizer: Any, label: Any, message: str) -> None:
    test = [*GOOD, {"text": "film", "label": label}]
    with pytest.raises(DataError) as error:
        load(tmp_path, tokenizer, train=GOOD, test=test)
    start = f"test ({tmp_path / 'test.jsonl'}), row 3, column 'label': "
    assert str(error.value).startswith(start + message)


def test_minus_one_in_train_says_how_to_make_it_a_class(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"If -1 is a class, name it in data.label_names$"):
        load(tmp_path, tokenizer, train=rows_of([1, -1]))


def test_a_label_that_is_not_among_the_given(tmp_path: Path, tokenizer: Any) -> None:
    rows = rows_of(["positive", "negative", "positve"])
    expected = (
        r"train \(.*\), row 3, column 'label': the label 'positve' is unknown; data.label_names "
        r"holds 'negative', 'positive': correct the label or add it to data.label_names. Did you "
        r"mean 'positive'\?"
    )
    with pytest.raises(DataError, match=expected):
        load(tmp_path, tokenizer, train=rows, label_names=["negative", "positive"])
    with pytest.raises(
        DataError, match="the label '2' is unknown; data.label_names holds 'n', 'p'"
    ):
        load(tmp_path, tokenizer, train=rows_of([0, 2]), label_names=["n", "p"])


def test_a_class_number_beyond_the_declared(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "a.parquet"
    class_label_file(path, ["n", "p"], [0, 1])
    table = pq.read_table(path)
    metadata = table.schema.metadata
    table = table.set_column(1, "label", pa.array([0, 7])).replace_schema_metadata(metadata)
    pq.write_table(table, path)
    config = DataConfig(train_file=str(path), max_length=16)
    expected = (
        r"row 2, column 'label': the class number is 7, but the data set declares 2 classes: 'n'"
    )
    with pytest.raises(DataError, match=expected):
        load_task_data(config, tokenizer, SINGLE)


def test_one_class_only(tmp_path: Path, tokenizer: Any) -> None:
    expected = (
        r"train \(.*train.jsonl\), column 'label': every row \(3 in all\) has the label 'x'; a "
        "classifier needs at least two classes"
    )
    with pytest.raises(DataError, match=expected):
        load(tmp_path, tokenizer, train=rows_of(["x"] * 3), test=rows_of(["x", "y"]))
    with pytest.raises(
        DataError, match=r"and the limit data.max_train_samples = 1, only one class is"
    ):
        load(tmp_path, tokenizer, **three([0, 1]), max_train_samples=1)


def test_numbers_that_are_no_classes(tmp_path: Path, tokenizer: Any) -> None:
    file = write_csv(tmp_path / "a.csv", rows_of([2.5, 0.5, 1]))
    expected = r"the labels are numbers such as 0.5, not classes; to predict numbers, set task: reg"
    with pytest.raises(DataError, match=expected):
        load_task_data(DataConfig(train_file=file), make_tokenizer(), SINGLE)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("x", "expected a list of labels, got 'x' (str); use JSON Lines or Parquet for lists, or"),
        (None, "there is no label (empty or null)"),
        (-1, "the label is -1, which marks hidden labels"),
        ([-1], "the label is -1, which marks hidden labels"),
        (["a", None], "there is no label (empty or null)"),
        (["z"], "the label 'z' is unknown; train holds 'a', 'b'"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, tokenizer: Any, label: Any, message: str) -> None:
    train = rows_of([["a"], ["b"]])
    with pytest.raises(DataError) as error:
        load(tmp_path, tokenizer, MULTI, train=train, test=rows_of([["a"], label]))
    start = f"test ({tmp_path / 'test.jsonl'}), row 2, column 'label': "
    assert str(error.value).startswith(start + message)


def test_lists_that_are_all_empty(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="column 'label': no row has any label; give data.label_n"):
        load(tmp_path, tokenizer, MULTI, train=rows_of([[], []]))
    data = load(tmp_path, tokenizer, MULTI, label_names=["a"], **three([[], []]))
    assert data.train["labels"][:] == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (2, "expected 0 or 1 (or a boolean), got 2 (int)"),
        ("yes", "expected 0 or 1 (or a boolean), got 'yes' (str)"),
        ([1], "expected 0 or 1 (or a boolean), got [1] (list)"),
        (None, "there is no label (empty or null)"),
        (-1, "the label is -1, which marks hidden labels"),
    ],
)
def test_flags_that_are_refused(tmp_path: Path, tokenizer: Any, flag: Any, message: str) -> None:
    rows = [{"text": "a", "x": 0, "y": 1}, {"text": "b", "x": 1, "y": flag}]
    with pytest.raises(DataError) as error:
        load(tmp_path, tokenizer, MULTI, train=rows, label_column=["x", "y"])
    start = f"train ({tmp_path / 'train.jsonl'}), row 2, column 'y': "
    assert str(error.value).startswith(start + message)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (float("inf"), "the number to predict is inf, not a finite one; correct it or remove"),
        (float("nan"), "the number to predict is nan, not a finite one"),
        ("nan", "the number to predict is nan, not a finite one"),
        ("high", "expected a number to predict, got 'high' (str); for classes, set task: single_"),
        (True, "expected a number to predict, got True (bool)"),
        (None, "there is no label (empty or null)"),
    ],
)
def test_targets_that_are_refused(
    tmp_path: Path, tokenizer: Any, target: Any, message: str
) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, tokenizer, "regression", train=rows_of([0.5, target]))
    start = f"train ({tmp_path / 'train.jsonl'}), row 2, column 'label': "
    assert str(error.value).startswith(start + message)


# --- settings that are refused --------------------------------------------------------------


def test_too_few_rows_to_hold_any_out(tmp_path: Path, tokenizer: Any) -> None:
    expected = (
        r"train \(.*\) has 2 rows: too few to hold out 1 for validation "
        r"\(data.validation_fraction = 0.1\) and still train. Give more rows, or a validation file"
    )
    with pytest.raises(DataError, match=expected):
        load(tmp_path, tokenizer, train=rows_of([0, 1]))


def test_settings_that_do_not_fit_the_task(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="task is 'ner'; expected one of single_label_classifi"):
        load(tmp_path, tokenizer, "ner", train=GOOD)
    with pytest.raises(DataError, match=r"data.label_column is a list, \['x'\], but the task is "):
        load(tmp_path, tokenizer, SINGLE, train=GOOD, label_column=["x"])
    with pytest.raises(DataError, match="data.label_names is given, but the task is regression"):
        load(tmp_path, tokenizer, "regression", train=GOOD, label_names=["x"])


def test_lengths_that_do_not_fit_the_model(tmp_path: Path, tokenizer: Any) -> None:
    expected = (
        r"data.max_length is 513, but the model reads at most 512 tokens \(the tokenizer's "
        r"model_max_length\): set data.max_length to 512 or less"
    )
    with pytest.raises(DataError, match=expected):
        load(tmp_path, tokenizer, train=GOOD, max_length=513)
    with pytest.raises(
        DataError, match="the tokenizer adds 3 special tokens to each row: set it to 4"
    ):
        load(tmp_path, tokenizer, train=GOOD_PAIRS, text_pair_column="second", max_length=3)


def test_a_tokenizer_without_padding(tmp_path: Path) -> None:
    ends = make_tokenizer(**{"pad_token": None, "eos_token": END})
    data = load(tmp_path, ends, **three([0, 1]))
    assert ends.pad_token == END
    assert len(data.train) == 2
    with pytest.raises(DataError, match=r"no padding token \(pad_token\) and no end-of-sequence"):
        load(tmp_path, make_tokenizer(pad_token=None), **three([0, 1]))


def test_the_checks_come_before_the_tokenizer_works(tmp_path: Path) -> None:
    class Counting(PreTrainedTokenizerFast):  # type: ignore[misc]
        calls = 0

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            Counting.calls += 1
            return super().__call__(*arguments, **options)

    counting = Counting(tokenizer_object=make_tokenizer().backend_tokenizer, pad_token=PADDING)
    with pytest.raises(DataError, match="the label '5' is unknown"):
        load(tmp_path, counting, train=rows_of([0, 1]), test=rows_of([5]))
    assert Counting.calls == 0
