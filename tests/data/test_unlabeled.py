"""Further texts without labels: read, kept apart from what is judged, tokenized."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_tokenizer

from hfprune.core.errors import DataError
from hfprune.data.loading import load_task_data, unlabeled_rows
from hfprune.pipeline.fingerprint import data_digest
from hfprune.recipe.sections.data import DataConfig

TASK = "single_label_classification"


def _files(folder: Path, unlabeled: str, name: str = "more.csv") -> DataConfig:
    for split, texts in (
        ("train", ["good film", "bad film", "dull film", "moving"]),
        ("validation", ["the film", "the good"]),
        ("test", ["the bad", "the dull"]),
    ):
        rows = [f"{text},{number % 2}" for number, text in enumerate(texts)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / name).write_text(unlabeled)
    return DataConfig(
        **{f"{split}_file": str(folder / f"{split}.csv") for split in ("train", "validation")},
        test_file=str(folder / "test.csv"),
        unlabeled_file=str(folder / name),
        max_length=6,
    )


def test_texts_that_are_judged_or_known_are_left_out(tmp_path: Path) -> None:
    more = ["moving film", "the film", "the dull", "good film", "moving film", "dull the the", '""']
    config = _files(tmp_path, "text\n" + "\n".join(more) + "\n")
    data = load_task_data(config, tiny_tokenizer(), TASK)
    assert data.unlabeled is not None
    assert data.unlabeled.texts == ["moving film", "dull the the"]
    assert (data.unlabeled.held_out, data.unlabeled.known, data.unlabeled.empty) == (2, 2, 1)
    assert data.notices[-1].text == (
        "2 unlabeled texts to learn from (left out: 2 stand in validation or test as well, 2 stand "
        "in train, or stand there twice, 1 are empty)"
    )
    rows = unlabeled_rows(data, tiny_tokenizer())
    assert rows is not None
    own = tiny_tokenizer()(data.unlabeled.texts, truncation=True, max_length=6)
    assert rows["input_ids"][:] == own["input_ids"]
    assert "labels" not in rows.column_names
    assert rows.features == {name: data.train.features[name] for name in rows.column_names}


def test_rows_of_held_out_files_beyond_their_limit_are_left_out_too(tmp_path: Path) -> None:
    config = _files(tmp_path, "text\nthe bad\nthe dull\nmoving film\n")
    config = config.model_copy(update={"max_test_samples": 1})
    data = load_task_data(config, tiny_tokenizer(), TASK)
    assert data.unlabeled is not None
    assert (data.unlabeled.texts, data.unlabeled.held_out) == (["moving film"], 2)


@pytest.mark.parametrize(
    ("content", "name", "encoding", "words"),
    [
        ("text\ncaf\u00e9\n", "more.csv", "latin-1", "but is valid UTF-8 beyond ASCII"),
        ('text\n"quoted"\n', "more.tsv", None, "1 of 1 cells stand in double quotes"),
    ],
)
def test_what_its_reader_tells_is_told(
    tmp_path: Path, content: str, name: str, encoding: str | None, words: str
) -> None:
    config = _files(tmp_path, "text\n")
    (tmp_path / name).write_text(content, encoding="utf-8")
    changes = {"unlabeled_file": str(tmp_path / name), "encoding": encoding}
    data = load_task_data(config.model_copy(update=changes), tiny_tokenizer(), TASK)
    (told,) = (notice for notice in data.notices if words in notice.text)
    assert (told.level, told.text.startswith("unlabeled (")) == ("warning", True)


def test_labels_of_the_file_are_not_read_and_none_are_needed(tmp_path: Path) -> None:
    labelled = [{"text": "moving film", "label": "no such class"}, {"text": "dull"}]
    lines = "\n".join(map(json.dumps, labelled))
    data = load_task_data(_files(tmp_path, lines, "more.jsonl"), tiny_tokenizer(), TASK)
    assert data.unlabeled is not None
    assert data.unlabeled.texts == ["moving film", "dull"]
    assert data.label_names == ["0", "1"]


def test_pairs_are_new_as_pairs(tmp_path: Path) -> None:
    for name, rows in (
        ("train", [("good", "bad", 0), ("bad", "good", 1), ("dull", "film", 0), ("the", "bad", 1)]),
        ("validation", [("film", "film", 0)]),
        ("test", [("the", "the", 1)]),
        ("more", [("good", "good", 0), ("film", "film", 0), ("bad", "good", 0)]),
    ):
        lines = [json.dumps({"text": a, "other": b, "label": label}) for a, b, label in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    config = DataConfig(
        train_file=str(tmp_path / "train.jsonl"),
        validation_file=str(tmp_path / "validation.jsonl"),
        test_file=str(tmp_path / "test.jsonl"),
        unlabeled_file=str(tmp_path / "more.jsonl"),
        text_pair_column="other",
        max_length=8,
    )
    data = load_task_data(config, tiny_tokenizer(), TASK)
    assert data.unlabeled is not None
    assert (data.unlabeled.texts, data.unlabeled.pairs) == (["good"], ["good"])
    rows = unlabeled_rows(data, tiny_tokenizer())
    assert rows is not None
    assert rows["input_ids"][:] == [tiny_tokenizer()("good", "good")["input_ids"]]


def test_texts_to_embed_have_the_prompt_before_them(tmp_path: Path) -> None:
    config = _files(tmp_path, "text\nmoving film\ndull the the\n")
    for name in ("validation", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text\n{name} film\nthe plot\nthe scene\n")
    data = load_task_data(config, tiny_tokenizer(), "sentence_embedding", prompt="very ")
    rows = unlabeled_rows(data, tiny_tokenizer())
    assert rows is not None
    own = tiny_tokenizer()(["very moving film", "very dull the the"], truncation=True, max_length=6)
    assert rows["input_ids"][:] == own["input_ids"]
    assert data.unlabeled is not None
    assert data.unlabeled.texts == ["moving film", "dull the the"]


def test_texts_of_a_query_belong_together_and_not_to_one_that_is_held_out(tmp_path: Path) -> None:
    """Losses of a query's texts else learned nothing of them, as if each had its own query."""
    for name, queries in (("train", ["a", "b"]), ("validation", ["film"]), ("test", ["plot"])):
        pairs = [(query, text, n) for query in queries for n, text in enumerate(("bad", "good"))]
        lines = [json.dumps({"query": q, "text": t, "label": n}) for q, t, n in pairs]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    more = [("it", "bad"), ("film", "dull"), ("very", "it"), ("it", "good"), ("a", "dull"),
            ("plot", "good"), ("b", "good")]  # fmt: skip
    lines = [json.dumps({"query": q, "text": t}) for q, t in more]
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    splits = ("train", "validation", "test")
    config = DataConfig(
        **{f"{name}_file": str(tmp_path / f"{name}.jsonl") for name in splits},
        unlabeled_file=str(tmp_path / "more.jsonl"),
        text_column="query",
        text_pair_column="text",
        max_length=8,
    )
    data = load_task_data(config, tiny_tokenizer(), "reranking")
    assert data.unlabeled is not None
    assert (data.unlabeled.held_out, data.unlabeled.known) == (2, 1)
    assert data.unlabeled.texts == ["it", "very", "it", "a"]
    rows = unlabeled_rows(data, tiny_tokenizer())
    assert rows is not None
    assert rows["query_row"][:] == [0, 1, 0, 2]


def test_what_follows_from_the_rows_follows_from_these_as_well(tmp_path: Path) -> None:
    digests = set()
    for more in ("text\nmoving film\n", "text\nmoving the film\n"):
        config = _files(tmp_path, more)
        digests.add(data_digest(load_task_data(config, tiny_tokenizer(), TASK)))
    without = config.model_copy(update={"unlabeled_file": None})
    digests.add(data_digest(load_task_data(without, tiny_tokenizer(), TASK)))
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("txt\nmoving\n", "more.csv", "has no column 'text', which data.text_column asks for"),
        ("text\n", "more.csv", "has no rows"),
        ('{"text": null}\n', "more.jsonl", "row 1, column 'text': there is no text (null)"),
        ('{"text": "a"}\n{"text": 3}\n', "more.jsonl", "row 2, column 'text': expected a text"),
    ],
)
def test_faults_name_the_file(tmp_path: Path, content: str, name: str, words: str) -> None:
    with pytest.raises(DataError) as found:
        load_task_data(_files(tmp_path, content, name), tiny_tokenizer(), TASK)
    assert words in str(found.value)
    assert "unlabeled (" in str(found.value)
    assert name in str(found.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = _files(tmp_path, "text\nmoving\n").model_copy(update={"unlabeled_file": "no.csv"})
    with pytest.raises(DataError, match=r"no\.csv.*unlabeled_file"):
        load_task_data(config, tiny_tokenizer(), TASK)
