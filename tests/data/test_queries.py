"""Rows of reranking: the forms in which they are written, splits by query, relevance, notices."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import tiny_tokenizer

from hfprune.core.errors import DataError, RecipeError
from hfprune.data.loading import load_rows, load_task_data, retokenize
from hfprune.data.task_data import SPLITS, TaskData, whole_queries
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.whole import Recipe

COLUMNS = {"text_column": "query", "text_pair_column": "text", "max_length": 24}


def pairs(queries: int, texts: int = 4) -> list[dict[str, Any]]:
    """Of each query the first text is the relevant one; queries take turns."""
    return [
        {"query": f"good {q}", "text": f"film {q} {t}", "label": int(t == 0)}
        for t in range(texts)
        for q in range(queries)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(file: str, **more: Any) -> TaskData:
    config = DataConfig(**{"train_file": file, **COLUMNS, **more})
    return load_task_data(config, tiny_tokenizer(), "reranking")


def told(data: TaskData, name: str) -> dict[str, dict[str, float]]:
    """Relevance by query and text."""
    found: dict[str, dict[str, float]] = {}
    rows = zip(data.texts[name], data.text_pairs[name], data.label_array(name)[:, 0], strict=True)
    for query, text, relevance in rows:
        found.setdefault(query, {})[text] = float(relevance)
    return found


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_queries_are_held_out_whole(tmp_path: Path, ending: str) -> None:
    data = load(write(tmp_path / f"rows.{ending}", pairs(20)))
    queries = {name: set(data.texts[name]) for name in SPLITS}
    assert {name: len(some) for name, some in queries.items()} == {
        "train": 14, "validation": 2, "test": 4,
    }  # fmt: skip
    assert len(set.union(*queries.values())) == 20
    for name in SPLITS:
        labels = data.label_array(name)
        assert labels.shape == (4 * len(queries[name]), 2)
        # Rows of a query follow one another, and it has one number.
        assert labels[:, 1].tolist() == np.repeat(np.arange(len(queries[name])), 4).tolist()
        assert labels[:, 0].reshape(-1, 4).tolist() == [[1, 0, 0, 0]] * len(queries[name])
        assert data.split(name)["labels"][:][0] == [1.0]
    assert data.task == "reranking"
    assert data.num_labels == 1
    assert data.id2label == {0: "LABEL_0"}
    again = load(write(tmp_path / f"rows.{ending}", pairs(20)))
    assert again.texts == data.texts
    assert [notice.text for notice in data.notices] == [
        "queries in train: 14, of 4 to 4 texts each (median 4); 25.0% of the texts are relevant"
    ]


def test_answers_and_texts_that_do_not_answer(tmp_path: Path) -> None:
    """Triplets, with lists, several columns, what is left empty, and an answer named again."""
    rows = [
        {"query": "good", "positive": "film", "n1": "plot", "n2": ["actor", "scene"]},
        {"query": "good", "positive": "film", "n1": "story", "n2": None},
        {"query": "bad", "positive": ["story", "plot"], "n1": "film", "n2": []},
    ]
    files = {}
    for name in SPLITS:
        mine = [{**row, "query": f"{row['query']} {name}"} for row in rows]
        files[f"{name}_file"] = write(tmp_path / f"{name}.jsonl", mine)
    config = DataConfig(
        text_column="query", text_pair_column="positive", negative_column=["n1", "n2"],
        max_length=16, **files,
    )  # fmt: skip
    data = load_task_data(config, tiny_tokenizer(), "reranking")
    assert told(data, "train") == {
        "good train": {"film": 1.0, "plot": 0.0, "actor": 0.0, "scene": 0.0, "story": 0.0},
        "bad train": {"story": 1.0, "plot": 1.0, "film": 0.0},
    }


def test_an_answer_without_a_text_is_no_answer(tmp_path: Path) -> None:
    """As CSV leaves a cell that nobody filled in; texts that do not answer may be fewer."""
    file = tmp_path / "rows.csv"
    file.write_text("query,positive,negative\ngood,film,plot\nbad,,story\n")
    with pytest.raises(DataError, match="'positive': the text that answers is empty; of each q"):
        load(str(file), text_pair_column="positive", negative_column="negative")


def test_a_list_of_texts_with_a_list_of_numbers(tmp_path: Path) -> None:
    rows = [
        {"query": f"good {q}", "text": ["film", "plot", "scene"], "label": [3, 0, 1]}
        for q in range(8)
    ]
    data = load(write(tmp_path / "rows.jsonl", rows))
    for name in SPLITS:
        for texts in told(data, name).values():
            assert texts == pytest.approx({"film": 1.0, "plot": 0.0, "scene": 1 / 3})


def test_relevance_is_scaled_as_the_recipe_says(tmp_path: Path) -> None:
    def grades(values: list[float], **more: Any) -> list[float]:
        rows = [
            {"query": f"good {q}", "text": f"film {n}", "label": value}
            for q in range(5)
            for n, value in enumerate(values)
        ]
        file = write(tmp_path / "rows.jsonl", rows)
        return load(file, **more).label_array("test")[: len(values), 0].tolist()

    assert grades([0.25, 0.75]) == [0.25, 0.75]
    assert grades([0, 2, 4]) == [0, 0.5, 1]
    assert grades([0, 2, 1], highest_relevance=4.0) == [0, 0.5, 0.25]
    with pytest.raises(DataError, match=r"the relevance 0.5 is neither within 0 and 1 nor a whole"):
        grades([0.5, 3])
    with pytest.raises(DataError, match=r"relevance 3 is above 2, which is set: set data.highest"):
        grades([0, 3], highest_relevance=2.0)
    with pytest.raises(DataError, match="all 10 texts have the relevance 1; to learn which text"):
        grades([1, 1])
    with pytest.raises(DataError, match="validation .* holds no relevant text .a label of at lea"):
        grades([0.1, 0.2])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"label": "yes"}, r"row 2, column 'label': expected how relevant .* got 'yes' \(str\)"),
        ({"label": -1}, r"row 2, column 'label': expected how relevant .* got -1 \(int\)"),
        ({"text": None}, r"row 2, column 'text': there is no text \(null\)"),
        ({"query": 7}, r"row 2, column 'query': expected a text, got 7 \(int\)"),
        ({"text": ["a", "b"]}, r"row 2, column 'text': a list of texts needs a list of their"),
        ({"text": ["a", "b"], "label": [1]}, r"row 2, column 'text': 2 texts, but 1 numbers in co"),
    ],
)
def test_errors_name_the_row_that_was_written(
    tmp_path: Path, row: dict[str, Any], error: str
) -> None:
    """A row before it became two."""
    rows = [{"query": "good", "text": ["film", "plot"], "label": [1, 0]},
            {"query": "good", "text": "scene", "label": 0, **row}]  # fmt: skip
    with pytest.raises(DataError, match=error):
        load(write(tmp_path / "rows.jsonl", rows))


def test_columns_that_are_not_there_are_told_with_those_that_are(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(5))
    wanted = (
        r"no column 'querry', which data.text_column asks for. Its columns: 'query', 'text', "
        r"'label'. Did you mean 'query'\?"
    )
    with pytest.raises(DataError, match=wanted):
        load(file, text_column="querry")
    with pytest.raises(DataError, match="no column 'negative', which data.negative_column asks"):
        load(file, negative_column="negative")
    with pytest.raises(DataError, match=r"reranking reads pairs: name the column of the queries"):
        load(file, text_pair_column=None)


def test_too_few_queries_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 1 queries: too few to hold out 1 for test .*A query"):
        load(write(tmp_path / "rows.jsonl", pairs(1)))


def test_what_says_nothing_is_told(tmp_path: Path) -> None:
    test = [
        {"query": "good 0", "text": "film", "label": 1},
        {"query": "good 0", "text": "plot", "label": 0},
        {"query": "bad", "text": "film", "label": 0},
        {"query": "dull", "text": "film", "label": 1},
    ]
    data = load(
        write(tmp_path / "rows.jsonl", pairs(10)),
        test_file=write(tmp_path / "test.jsonl", test),
    )
    warnings = [notice.text for notice in data.notices if notice.level == "warning"]
    assert warnings == [
        "1 of 3 test queries have no relevant text (the first: 'bad'): metrics leave them out",
        "1 of 3 test queries have no text that is less relevant than others (the first: 'dull'): "
        "any order of theirs is right, which flatters every model",
        "2 of 4 test rows have queries that are also in train: the score on them says nothing of "
        "new queries",
    ]


def test_limits_take_whole_queries(tmp_path: Path) -> None:
    data = load(write(tmp_path / "rows.jsonl", pairs(20)), max_train_samples=11, max_test_samples=1)
    assert len(data.train) == 8
    assert len(data.test) == 4, "one query at least"
    assert set(np.unique(data.texts["train"], return_counts=True)[1].tolist()) == {4}
    queries = data.queries("train")
    assert queries is not None
    assert whole_queries(queries, 7) == [0, 1, 2, 3]
    assert whole_queries(queries, 3) == [0, 1, 2, 3]
    assert whole_queries(queries, 8) == list(range(8))


def test_rows_to_evaluate_on_are_of_the_same_query_in_every_file(tmp_path: Path) -> None:
    rows = pairs(2)
    files = [write(tmp_path / f"{n}.jsonl", rows[n::2]) for n in range(2)]
    files.append(write(tmp_path / "more.jsonl", [{**rows[0], "text": "plot", "label": 0}]))
    config = DataConfig(train_file=files[0], **COLUMNS)
    data = load_rows(config, files, tiny_tokenizer(), "reranking")
    assert data.label_array("test")[:, 1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    nothing = write(tmp_path / "no.jsonl", [{**row, "label": 0} for row in rows])
    with pytest.raises(DataError, match="holds no relevant text"):
        load_rows(config, [nothing], tiny_tokenizer(), "reranking")


def test_another_tokenizer_keeps_the_queries(tmp_path: Path) -> None:
    data = load(write(tmp_path / "rows.jsonl", pairs(10)))
    again = retokenize(data, tiny_tokenizer())
    for name in SPLITS:
        assert again.split(name)[:] == data.split(name)[:]


def test_a_data_set_by_name(tmp_path: Path) -> None:
    rows = pairs(20)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "set")
    config = DataConfig(name=str(tmp_path / "set"), **COLUMNS)
    data = load_task_data(config, tiny_tokenizer(), "reranking")
    assert len(data.test) == 16


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"name_or_path": "m"}, "task": "reranking", "data": {"train_file": "t.csv"},
        "pruning": {"sparsity": 0.5}, "output_dir": "out",
    }  # fmt: skip
    return Recipe(**{**values, **changes})


def test_a_recipe_says_what_it_reads_and_times() -> None:
    one = recipe()
    assert (one.data.text_column, one.data.text_pair_column) == ("query", "text")
    assert one.benchmark.batch_sizes == [10, 50, 100]
    assert one.benchmark.sequence_lengths == []
    assert one.evaluation.metrics == ["ndcg_at_10", "mrr_at_10", "recall_at_10"]
    assert one.training.metric_for_best_model == "ndcg_at_10"
    assert one.training.greater_is_better is True
    triplets = recipe(data={"train_file": "t.csv", "negative_column": "negative"})
    assert triplets.data.text_pair_column == "positive"
    # As it was written it can be read again.
    assert Recipe(**one.model_dump(exclude_unset=True)) == one
    assert Recipe(**one.model_dump()) == one


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": {"train_file": "t", "label_names": ["a", "b"]}}, "label_names has no meaning fo"),
        ({"data": {"train_file": "t", "stride": 3}}, "data.stride is for single texts, and rera"),
        ({"training": {"class_weights": "balanced"}}, "class_weights has no meaning for task re"),
        ({"distillation": {"rest_of_texts": True}}, "rest_of_texts cannot tell which of two texts"),
        ({"evaluation": {"metrics": ["accuracy"]}}, "'accuracy' is not a metric of task reranking"),
        ({"task": "regression", "data": {"train_file": "t", "negative_column": "n"}},
         "data.negative_column is only for task reranking; the task is regression"),
        ({"data": {"train_file": "t", "text_column": "a", "negative_column": "a"}},
         "text_column and negative_column are both 'a'"),
    ],
)  # fmt: skip
def test_a_recipe_refuses_what_has_no_meaning(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        recipe(**changes)


def test_an_answer_of_several_files_counts_once_and_as_an_answer(tmp_path: Path) -> None:
    """Also where another row, of another file, has drawn it as a text that does not answer."""
    parts = [
        [("good", "film", "plot"), ("good", "story", "film"), ("bad", "plot", "actor")],
        [("good", "film", "scene"), ("bad", "plot", "actor"), ("bad", "actor", "film")],
    ]
    files = [
        write(
            tmp_path / f"{number}.csv",
            [dict(zip(("query", "positive", "negative"), row, strict=True)) for row in part],
        )
        for number, part in enumerate(parts)
    ]
    held = write(tmp_path / "held.csv", [{"query": "a", "positive": "b", "negative": "c"}])
    test = write(tmp_path / "test.csv", [{"query": "d", "positive": "b", "negative": "c"}])
    config = DataConfig(
        train_file=files, validation_file=held, test_file=test, text_column="query",
        text_pair_column="positive", negative_column="negative", max_length=16,
    )  # fmt: skip
    data = load_task_data(config, tiny_tokenizer(), "reranking")
    assert data.size("train") == 7
    assert told(data, "train") == {
        "good": {"film": 1.0, "plot": 0.0, "story": 1.0, "scene": 0.0},
        "bad": {"plot": 1.0, "actor": 1.0, "film": 0.0},
    }
    notices = [one.text for one in data.notices if "stand as an answer and as none" in one.text]
    assert len(notices) == 1
    assert notices[0].startswith("2 texts of train (")
    assert "(the first: 'film' for 'good'): they count as answers" in notices[0]


def test_errors_name_the_rows_of_files_of_which_some_are_left_out(tmp_path: Path) -> None:
    from hfprune.data.readers.table import Rows

    rows = Rows(
        "train", "a and 1 more", list("qqrrs"), list("vwxyz"), {"label": [1, 0, 1, 0, 1]}, {},
        origins=[(0, "a"), (3, "b")], written=[0, 1, 2, 0, 1],
    )  # fmt: skip
    some = rows.select([0, 2, 4])
    assert (some.texts, some.text_pairs, some.labels) == (
        ["q", "r", "s"], ["v", "x", "z"], {"label": [1, 1, 1]},
    )  # fmt: skip
    assert [some.where(row, "text") for row in range(3)] == [
        "train (a), row 1, column 'text'",
        "train (a), row 3, column 'text'",
        "train (b), row 2, column 'text'",
    ]
