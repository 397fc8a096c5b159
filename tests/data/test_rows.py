"""What rows mean: flags, numbers that count from 0, spellings of one class, copies of a text."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfprune.core.errors import DataError
from hfprune.core.tasks import Task
from hfprune.data.class_names import spelled
from hfprune.data.loading import load_rows, load_task_data
from hfprune.data.splits import _copies, _draw, _draw_together, _quotas
from hfprune.data.task_data import TaskData
from hfprune.recipe.sections.data import DataConfig
from tests.data.test_data import make_tokenizer

SINGLE: Task = "single_label_classification"
MULTI: Task = "multi_label_classification"
TOKENS: Task = "token_classification"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def write_json(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_csv(path: Path, rows: list[tuple[Any, ...]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def labelled(labels: list[Any], word: str = "good") -> list[dict[str, Any]]:
    return [{"text": f"{word} {number}", "label": label} for number, label in enumerate(labels)]


def load(
    folder: Path, tokenizer: Any, labels: list[Any], task: Task = SINGLE, **more: Any
) -> TaskData:
    """One file of training rows and the same labels under other texts for the other splits."""
    files = {
        f"{name}_file": write_json(folder / f"{name}.jsonl", labelled(labels, name))
        for name in ("train", "validation", "test")
    }
    return load_task_data(DataConfig(**{"max_length": 16, **files, **more}), tokenizer, task)


def warnings_of(data: TaskData) -> list[str]:
    return [notice.text for notice in data.notices if notice.level == "warning"]


# --- flags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (
            [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
            ["a", "b", "c"],
            (["a", "b", "c"], [[1, 0, 0], [0, 1, 1], [0, 0, 0]]),
        ),
        ([[1, 0, 1], [0, 1, 0]], None, (["0", "1", "2"], [[1, 0, 1], [0, 1, 0]])),
        ([[True, False], [False, False]], None, (["0", "1"], [[1, 0], [0, 0]])),
        ([[0, 1], [1, 0]], ["off", "on"], (["off", "on"], [[0, 1], [1, 0]])),
        ([[1], [0]], ["rude"], (["rude"], [[1], [0]])),
        # Not flags: of one entry without names, or of a length that the names do not have.
        ([[1], [0]], None, (["0", "1"], [[0, 1], [1, 0]])),
        ([[0, 1], [1, 0]], ["x", "y", "z"], (["x", "y", "z"], [[1, 1, 0], [1, 1, 0]])),
        ([["1", "0"], ["0", "1"]], None, (["0", "1"], [[1, 1], [1, 1]])),
    ],
)
def test_lists_of_flags_and_lists_of_classes(
    tmp_path: Path, tokenizer: Any, labels: list[Any], names: list[str] | None, expected: Any
) -> None:
    data = load(tmp_path, tokenizer, labels, MULTI, label_names=names)
    assert (data.label_names, data.train["labels"][:]) == expected
    assert data.test["labels"][:] == data.train["labels"][:]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([["a", "b"], ["b", "b"]], None, "row 2, column 'label': the class 'b' stands more than "
         "once in ['b', 'b'] (list): list each class of a row once. If these are flags, 0 or 1 "),
        # Flags of different lengths are read as classes, which repeat.
        ([[1, 0, 0], [1, 0]], None, "row 1, column 'label': the class '0' stands more than once"),
        ([["on", 1], [0]], ["off", "on"], "row 1, column 'label': the class 'on' stands more than"),
        ([[1, 0, 0], [0, 1, 0]], ["a", "b"], "row 1, column 'label': every row holds 3 flags (0 "
         "or 1), data.label_names 2 names: give one name for each flag, in their order"),
    ],
)  # fmt: skip
def test_lists_that_are_neither(
    tmp_path: Path, tokenizer: Any, labels: list[Any], names: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, tokenizer, labels, MULTI, label_names=names)
    assert message in str(error.value)


@pytest.mark.parametrize("label", [[0, 1], [0, 1, 2], [0, 1, None], ["a"], "1"])
def test_flags_of_train_ask_for_flags_elsewhere(tmp_path: Path, tokenizer: Any, label: Any) -> None:
    train = write_json(tmp_path / "train.jsonl", labelled([[1, 0, 0], [0, 1, 0]] * 5))
    test = write_json(tmp_path / "test.jsonl", labelled([[1, 0, 0], label], "bad"))
    config = DataConfig(train_file=train, test_file=test, max_length=16)
    with pytest.raises(DataError) as error:
        load_task_data(config, tokenizer, MULTI)
    assert "row 2, column 'label': expected 3 flags, each 0 or 1, as in the other rows, got" in str(
        error.value
    )


def test_declared_classes_are_never_flags(tmp_path: Path, tokenizer: Any) -> None:
    classes = datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    columns = {"text": ["good", "bad"], "label": [[0, 1], [1, 0]]}
    pq.write_table(
        datasets.Dataset.from_dict(columns, features=features).data.table, tmp_path / "a.parquet"
    )
    file = str(tmp_path / "a.parquet")
    config = DataConfig(train_file=file, max_length=16, label_names=["a", "b"])
    assert load_rows(config, [file], tokenizer, MULTI).test["labels"][:] == [[1, 1], [1, 1]]


# --- numbers that count from 0 ------------------------------------------------------------------

NEWS = ["World", "Sports", "Business", "Tech"]


@pytest.mark.parametrize("labels", [[1, 2, 3, 4], [1, 2, 3], [2, 3], ["1", "4"], [1.0, 3.0]])
def test_numbers_that_do_not_begin_at_zero(
    tmp_path: Path, tokenizer: Any, labels: list[Any]
) -> None:
    low, high = int(float(labels[0])), int(float(labels[-1]))
    with pytest.raises(DataError) as error:
        load(tmp_path, tokenizer, labels, label_names=NEWS)
    text = str(error.value)
    assert text.startswith(f"train ({tmp_path / 'train.jsonl'}), column 'label': the labels are ")
    assert (
        f"numbers from {low} to {high}, and 0 never occurs; but numbers count from 0: 0 is 'World',"
        " 3 is 'Tech' (data.label_names). If 1 means 'World', subtract 1 from each, or write names"
    ) in text
    assert ("If 'World' just has no rows" in text) == (high < 4)


def test_numbers_that_begin_at_zero_in_some_split(tmp_path: Path, tokenizer: Any) -> None:
    train = write_json(tmp_path / "train.jsonl", labelled([1, 2, 3] * 5))
    test = write_json(tmp_path / "test.jsonl", labelled([0, 1], "bad"))
    config = DataConfig(train_file=train, test_file=test, label_names=NEWS, max_length=16)
    assert load_task_data(config, tokenizer, SINGLE).test["labels"][:] == [0, 1]


@pytest.mark.parametrize(("task", "labels"), [(MULTI, [[1], [2, 3]]), (TOKENS, [[1, 2], [3, 4]])])
def test_lists_of_numbers_count_from_zero_too(
    tmp_path: Path, tokenizer: Any, task: Task, labels: list[Any]
) -> None:
    rows = [{"text": ["a", "b"] if task == TOKENS else f"{n}", "label": label}
            for n, label in enumerate(labels * 5)]  # fmt: skip
    file = write_json(tmp_path / "train.jsonl", rows)
    config = DataConfig(train_file=file, label_names=NEWS, max_length=16)
    with pytest.raises(DataError, match="and 0 never occurs; but numbers count from 0"):
        load_task_data(config, tokenizer, task)


def test_numbers_as_names_need_no_zero(tmp_path: Path, tokenizer: Any) -> None:
    data = load(tmp_path, tokenizer, [1, 2, 3], label_names=["1", "2", "3", "4"])
    assert data.train["labels"][:] == [0, 1, 2]


def test_rows_to_evaluate_on_may_lack_the_first_class(tmp_path: Path, tokenizer: Any) -> None:
    config = DataConfig(train_file="unused", label_names=NEWS, max_length=16)
    file = write_json(tmp_path / "a.jsonl", labelled([1, 2]))
    data = load_rows(config, [file], tokenizer, SINGLE)
    assert data.test["labels"][:] == [1, 2]
    (told,) = warnings_of(data)
    assert "the labels are numbers from 1 to 2, and 0 never occurs" in told
    file = write_json(tmp_path / "b.jsonl", labelled([1, 4]))
    with pytest.raises(DataError, match="numbers from 1 to 4, and 0 never occurs"):
        load_rows(config, [file], tokenizer, SINGLE)


# --- spellings and orders -----------------------------------------------------------------------


def test_whole_floats_are_numbers_and_one_class_with_integers(
    tmp_path: Path, tokenizer: Any
) -> None:
    numbers = [f"{number % 12}.0" for number in range(48)]
    train = write_csv(tmp_path / "train.csv", [(f"good {n}", v) for n, v in enumerate(numbers)])
    test = write_csv(tmp_path / "test.csv", [("bad", "1"), ("film", "11")])
    config = DataConfig(train_file=train, test_file=test, max_length=16)
    data = load_task_data(config, tokenizer, SINGLE)
    assert data.label_names == [str(number) for number in range(12)]
    assert data.test["labels"][:] == [1, 11]
    # Names that are given keep their spelling, and mean the same numbers.
    named = config.model_copy(update={"label_names": [f"{number}.0" for number in range(12)]})
    assert load_task_data(named, tokenizer, SINGLE).test["labels"][:] == [1, 11]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.0", "1"), ("10.", "10"), ("-2.00", "-2"), ("-0.0", "0"), ("01.0", "01.0"), ("1.5", "1.5"),
     ("1e3", "1e3"), (".0", ".0"), ("a.0", "a.0"), ("", ""), ("1" * 30 + ".0", "1" * 30 + ".0")],
)  # fmt: skip
def test_spelled(text: str, expected: str) -> None:
    assert spelled(text) == expected


def test_the_order_of_classes_does_not_depend_on_the_process(tmp_path: Path) -> None:
    labels = ["01", "1", "001", "7", "07", "10", "0010", "9" * 5000, "8" * 5000]
    rows = [(f"good {number}", labels[number % 9]) for number in range(90)]
    files = [
        write_csv(tmp_path / f"{name}.csv", part)
        for name, part in (("all", rows), ("numbers", [row for row in rows if len(row[1]) < 10]))
    ]
    here = [names_of_classes(file) for file in files]
    code = (
        "import sys; from tests.data.test_rows import names_of_classes;"
        "print([names_of_classes(file) for file in sys.argv[1:]])"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    said = subprocess.run(
        [sys.executable, "-c", code, *files],
        capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
    ).stdout  # fmt: skip
    assert said == f"{here}\n"
    assert here[1] == ["001", "01", "1", "07", "7", "0010", "10"]


def names_of_classes(file: str) -> list[str]:
    data = load_task_data(DataConfig(train_file=file, max_length=16), make_tokenizer(), SINGLE)
    return [name[:9] for name in data.label_names]


@pytest.mark.parametrize("label", ["-1.0", -1.0, "-1", -1])
def test_minus_one_is_hidden_however_it_is_spelled(
    tmp_path: Path, tokenizer: Any, label: Any
) -> None:
    with pytest.raises(DataError, match="the label is -1, which marks hidden labels"):
        load(tmp_path, tokenizer, [0, 1, label])


# --- what is told -------------------------------------------------------------------------------


def test_classes_that_a_person_takes_for_one(tmp_path: Path, tokenizer: Any) -> None:
    labels = ["billing", "BILLING", "billing ", "caf\u00e9", "cafe\u0301", "1", "01", "2", "other"]
    data = load(tmp_path, tokenizer, labels * 5)
    told = [text for text in warnings_of(data) if "differ only" in text]
    assert len(told) == 3
    assert any("'BILLING', 'billing', 'billing '" in text for text in told)
    assert any("'01', '1'" in text for text in told)
    assert "if they are one, write them alike (or name the classes in data.label_names" in told[0]
    named = load(tmp_path, tokenizer, ["a", "A"] * 5, label_names=["a", "A"])
    assert warnings_of(named) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("ham", "\ufeffham"), ("ham", "h\u200bam"), ("ham", "h\xadam"), ("ham", "ham\0"),
     ("ham", "ham\u200e"), ("1", "\u0661"), ("1", "+1"), ("\u0967", "01")],
)  # fmt: skip
def test_classes_that_look_alike(tmp_path: Path, tokenizer: Any, one: str, other: str) -> None:
    (told,) = warnings_of(load(tmp_path, tokenizer, [one, other, "spam"] * 9))
    assert told.startswith(f"the classes {', '.join(map(repr, sorted([one, other])))} differ only")


@pytest.mark.parametrize(
    ("task", "label"), [(SINGLE, "x\ud800"), (MULTI, ["x\ud800"]), (TOKENS, ["x\ud800"])]
)
def test_half_a_character_in_a_label(
    tmp_path: Path, tokenizer: Any, task: Task, label: Any
) -> None:
    rows = [{"text": ["a"] if task == TOKENS else f"a {n}", "label": label} for n in range(9)]
    config = DataConfig(train_file=write_json(tmp_path / "a.jsonl", rows), max_length=16)
    with pytest.raises(DataError, match=r"row 1, column 'label': the label holds half a character "
                       r"\(a lone surrogate, U\+D800\) at position 1; remove it"):  # fmt: skip
        load_task_data(config, tokenizer, task)


def test_counts_of_classes_and_rare_ones(tmp_path: Path, tokenizer: Any) -> None:
    data = load(tmp_path, tokenizer, ["a"] * 9 + ["b"] * 7 + ["c"] * 4)
    first = data.notices[0]
    assert (first.level, first.text) == ("note", "rows of each class in train: 'a' 9, 'b' 7, 'c' 4")
    assert warnings_of(data) == [
        "classes with fewer than 5 training rows: 'c' 4; a model cannot learn them, and averages "
        "over classes (macro) count each like the others"
    ]
    many = load(tmp_path, tokenizer, [str(number % 12) for number in range(120)])
    assert many.notices[0].text.endswith("'9' 10, and 2 more classes of 10 to 10")


@pytest.mark.parametrize(
    ("task", "labels", "text"),
    [
        (
            MULTI,
            [["a"], ["a", "b"], []] * 6,
            "rows of each class in train: 'a' 12, 'b' 6; no class: 6",
        ),
        ("regression", [1, 2.5, 4], "numbers to predict in train: 1 to 4, mean 2.5"),
    ],
)  # fmt: skip
def test_counts_of_other_tasks(
    tmp_path: Path, tokenizer: Any, task: Task, labels: list[Any], text: str
) -> None:
    assert load(tmp_path, tokenizer, labels, task).notices[0].text == text


def test_counts_of_tagged_words(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"text": ["good", "film"], "label": ["B-X", "O"]}] * 6
    file = write_json(tmp_path / "a.jsonl", rows)
    config = DataConfig(train_file=file, max_length=16, test_fraction=0.3)
    data = load_task_data(config, tokenizer, TOKENS)
    assert data.notices[0].text == "words of each class in train: 'B-X' 3, 'O' 3"


def test_a_class_that_held_out_rows_lack_is_told(tmp_path: Path, tokenizer: Any) -> None:
    train = write_json(tmp_path / "train.jsonl", labelled(["a", "b"] * 10))
    test = write_json(tmp_path / "test.jsonl", labelled(["a"] * 5, "bad"))
    config = DataConfig(train_file=train, test_file=test, max_length=16)
    assert warnings_of(load_task_data(config, tokenizer, SINGLE)) == [
        "the test rows hold none of the class 'b': the score says nothing of it"
    ]


def test_empty_texts_and_texts_of_train_are_told(tmp_path: Path, tokenizer: Any) -> None:
    rows = labelled([0, 1] * 10)
    rows[3]["text"] = " \n"
    rows[6]["text"] = rows[7]["text"] = "good 5"
    train = write_json(tmp_path / "train.jsonl", rows)
    test = write_json(tmp_path / "test.jsonl", [rows[0], {"text": "", "label": 1}])
    other = write_json(tmp_path / "other.jsonl", labelled([0, 1], "bad"))
    config = DataConfig(train_file=train, test_file=test, validation_file=other, max_length=16)
    data = load_task_data(config, tokenizer, SINGLE)
    where = "the first: {} ({}), row {}, column 'text'"
    assert warnings_of(data) == [
        f"1 of 20 train rows have an empty text ({where.format('train', train, 4)}): a model reads "
        "nothing there, and learns the label all the same",
        f"1 of 2 test rows have an empty text ({where.format('test', test, 2)}): a model reads "
        "nothing there, and learns the label all the same",
        "2 of 20 train rows repeat the text of another row; 1 texts have more than one label",
        "1 of 2 test rows have texts that are also in train: the score on them says nothing of new "
        "texts",
    ]


def test_what_comes_from_the_data_is_told_in_quotes(tmp_path: Path, tokenizer: Any) -> None:
    data = load(tmp_path, tokenizer, ["a\x1b[31m", "b\nc"] * 5)
    assert r"'a\x1b[31m' 5, 'b\nc' 5" in data.notices[0].text


# --- copies -------------------------------------------------------------------------------------


def contents(data: TaskData, name: str) -> set[str]:
    return set(data.texts[name])


def test_copies_of_a_text_stay_on_one_side(tmp_path: Path, tokenizer: Any) -> None:
    rows = [(f"good {number // 6}", "ab"[number // 6 % 2]) for number in range(600)]
    config = DataConfig(train_file=write_csv(tmp_path / "a.csv", rows), max_length=16)
    data = load_task_data(config, tokenizer, SINGLE)
    assert data.seen_in_train == {"validation": 0, "test": 0}
    assert "350 of 420 train rows repeat the text of another row; all copies are in train" in [
        notice.text for notice in data.notices
    ]
    assert not contents(data, "validation") & contents(data, "test")
    assert sum(len(data.texts[name]) for name in data.texts) == 600
    # Shares are as near as groups of six allow.
    assert Counter(data.test["labels"]) == {0: 60, 1: 60}
    assert Counter(data.validation["labels"]) == {0: 30, 1: 30}
    again = load_task_data(config, tokenizer, SINGLE)
    assert again.texts == data.texts
    other = load_task_data(config.model_copy(update={"split_seed": 1}), tokenizer, SINGLE)
    assert other.texts != data.texts


def test_copies_with_other_labels_stay_together_too(tmp_path: Path, tokenizer: Any) -> None:
    rows = [(f"good {number // 2}", "ab"[number % 2]) for number in range(100)]
    file = write_csv(tmp_path / "a.csv", rows)
    data = load_task_data(DataConfig(train_file=file, max_length=16), tokenizer, SINGLE)
    assert data.seen_in_train == {"validation": 0, "test": 0}
    assert Counter(data.test["labels"]) == {0: 10, 1: 10}


def test_a_text_of_very_many_copies_is_not_all_of_a_split(tmp_path: Path, tokenizer: Any) -> None:
    """A third of the rows say the same: a test of these alone would say nothing."""
    rows = [("same" if n % 3 == 0 else f"good {n}", "ab"[n % 2]) for n in range(600)]
    file = write_csv(tmp_path / "a.csv", rows)
    data = load_task_data(DataConfig(train_file=file, max_length=16), tokenizer, SINGLE)
    assert {name: len(texts) for name, texts in data.texts.items()} == {
        "train": 420, "validation": 60, "test": 120,
    }  # fmt: skip
    assert len(contents(data, "test")) == 120
    # Where there is nothing else, copies are taken all the same.
    rows = [(f"good {n // 30}", "ab"[n // 30 % 2]) for n in range(600)]
    file = write_csv(tmp_path / "b.csv", rows)
    data = load_task_data(DataConfig(train_file=file, max_length=16), tokenizer, SINGLE)
    assert Counter(data.test["labels"]) == {0: 60, 1: 60}


def test_copies_are_counted_once() -> None:
    """Each refused copy counted its text's copies anew: a million rows took hours."""
    size = 40_000
    copies = _copies(["same"] * size + [str(number) for number in range(size)])
    groups = [list(range(0, 2 * size, 2)), list(range(1, 2 * size, 2))]
    begin = time.process_time()
    drawn = _draw_together(groups, 64, "0", copies)
    assert len(drawn) == 64
    # Nothing but copies, which are too many.
    few = _copies(["same"] * size + ["other"] * size)
    assert len(_draw_together([list(range(2 * size))], 64, "0", few)) in (0, size)
    assert time.process_time() - begin < 5


def _quotas_by_hand(sizes: list[int], count: int, keep_one: bool) -> list[int]:
    """One place at a time to the class that lacks most, or from the one that has too many."""
    quotas = [count * size / sum(sizes) for size in sizes]
    floor = 1 if not keep_one and count >= len(sizes) else 0
    limits = [size - keep_one for size in sizes]
    counts = [min(max(int(q), floor), top) for q, top in zip(quotas, limits, strict=True)]
    while sum(counts) != count:
        more = sum(counts) < count
        free = [
            n for n in range(len(sizes)) if (counts[n] < limits[n] if more else counts[n] > floor)
        ]
        gaps = [quotas[n] - counts[n] if more else counts[n] - quotas[n] for n in free]
        counts[free[gaps.index(max(gaps))]] += 1 if more else -1
    return counts


@pytest.mark.parametrize("keep_one", [True, False])
def test_places_are_given_out_in_order_of_need(keep_one: bool) -> None:
    rng = random.Random(0)
    for _ in range(300):
        sizes = [rng.randint(1, 9) for _ in range(rng.randint(1, 12))]
        count = rng.randint(0, sum(sizes) - keep_one * len(sizes))
        assert _quotas(sizes, count, keep_one) == _quotas_by_hand(sizes, count, keep_one)


def test_very_many_classes_are_gone_through_once() -> None:
    """For each place all classes were looked at: with 16,000 of them, minutes."""
    begin = time.process_time()
    assert sum(_quotas([5] * 16_000, 8000, keep_one=True)) == 8000
    assert time.process_time() - begin < 5


def test_classes_of_one_text_are_parted_and_told(tmp_path: Path, tokenizer: Any) -> None:
    rows = [("good", "a"), ("bad", "b")] * 10
    file = write_csv(tmp_path / "a.csv", rows)
    data = load_task_data(DataConfig(train_file=file, max_length=16), tokenizer, SINGLE)
    assert len(data.test) == 4
    assert "4 of 4 test rows have texts that are also in train" in warnings_of(data)[-1]


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=2, max_size=60),
    st.floats(0.05, 0.5),
    st.integers(0, 3),
)
def test_draws_of_copies(rows: list[tuple[int, int]], share: float, seed: int) -> None:
    """Contents and classes at random: nothing is parted, and every class keeps a row."""
    groups = [[place for place, (_, label) in enumerate(rows) if label == one] for one in range(3)]
    groups = [group for group in groups if group]
    count = max(1, min(round(share * len(rows)), len(rows) - len(groups)))
    if sum(map(len, groups)) - len(groups) < count:
        groups = [list(range(len(rows)))]
    copies = _copies([content for content, _ in rows])
    drawn = _draw_together(groups, count, str(seed), copies)
    assert drawn == sorted(set(drawn))
    held = {rows[place][0] for place in drawn}
    left = {content for place, (content, _) in enumerate(rows) if place not in set(drawn)}
    assert not held & left
    assert all(set(group) - set(drawn) for group in groups)
    # Where every text stands once, it is the draw that was published.
    assert _draw_together(groups, count, str(seed), {}) == _draw(groups, count, str(seed), True)


def test_pairs_are_copies_if_both_texts_are(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"text": "good", "second": f"film {number // 3}", "label": number // 3 % 2}
            for number in range(90)]  # fmt: skip
    config = DataConfig(
        train_file=write_json(tmp_path / "a.jsonl", rows), text_pair_column="second", max_length=16
    )
    data = load_task_data(config, tokenizer, SINGLE)
    assert data.seen_in_train == {"validation": 0, "test": 0}
    assert len(data.test) == 18
