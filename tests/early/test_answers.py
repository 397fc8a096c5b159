"""`hfprune quick` for rerankers and sentence encoders: which columns, and a recipe that runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny_classifier, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from hfprune.cli import app
from hfprune.core.errors import DataError
from hfprune.data.answers import find_answers
from hfprune.early.checks import check_early
from hfprune.early.ranks import few_to_test_on
from hfprune.recipe.reading import load_recipe


def call(*words: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def pairs(queries: int = 12) -> list[tuple[str, str, int]]:
    return [
        (f"good film {number}", f"the plot was {word} {number}", int(word == "great"))
        for number in range(queries)
        for word in ("great", "dull", "weak")
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_tiny_classifier("bert", tmp_path / "ranks", labels=1)
    tiny_model("bert").base_model.save_pretrained(tmp_path / "encodes")
    tiny_tokenizer().save_pretrained(tmp_path / "encodes")
    return tmp_path


def write_csv(path: Path, names: list[str], rows: list[Any]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def by_query() -> list[list[tuple[str, str, int]]]:
    rows = pairs()
    return [rows[start : start + 3] for start in range(0, len(rows), 3)]


def write_lists(path: Path) -> None:
    path.write_text("".join(
        json.dumps({"query": some[0][0], "text": [t for _, t, _ in some],
                    "label": [n for _, _, n in some]}) + "\n" for some in by_query()
    ))  # fmt: skip


def write_triplets(path: Path) -> None:
    path.write_text("".join(
        json.dumps({"anchor": some[0][0], "positive": some[0][1], "negative_1": some[1][1],
                    "negative_2": some[2][1]}) + "\n" for some in by_query()
    ))  # fmt: skip


def test_quick_proposes_a_reranker_of_each_form(place: Path) -> None:
    write_csv(place / "pairs.csv", ["query", "text", "label"], pairs())
    write_csv(place / "answers.csv", ["id", "Question", "passage", "relevance"],
              [(n, *row) for n, row in enumerate(pairs())])  # fmt: skip
    write_lists(place / "lists.jsonl")
    write_triplets(place / "triplets.jsonl")
    for file, columns in (
        ("pairs.csv", ("query", "text", "label")),
        ("answers.csv", ("Question", "passage", "relevance")),
        ("lists.jsonl", ("query", "text", "label")),
        ("triplets.jsonl", ("anchor", "positive", None)),
    ):
        done = call("quick", "ranks", file, "--task", "reranking", "--dry-run")
        recipe = load_recipe(f"runs/{Path(file).stem}.yaml")
        data = recipe.data
        assert recipe.task == "reranking"
        assert (data.text_column, data.text_pair_column) == columns[:2]
        if columns[2] is None:
            assert data.negative_column == ["negative_1", "negative_2"]
        else:
            assert (data.label_column, data.negative_column) == (columns[2], None)
        # "good film 1" with "the plot was great 1": words, [CLS] and twice [SEP].
        assert data.max_length == 16
        assert "half have at most 11 tokens" in done.stderr
        assert "12 queries leave about 2 to test on" in done.stderr
        assert "it is the teacher as it stands" in done.stderr
        assert "36 pairs, of 12 queries" in Path(f"runs/{Path(file).stem}.yaml").read_text()
        assert "labels:" not in done.stderr, "relevance is no class"
        assert recipe.benchmark.batch_sizes == [10, 50, 100]
        assert recipe.evaluation.metrics == ["ndcg_at_10", "mrr_at_10", "recall_at_10"]


def test_quick_proposes_an_encoder_of_texts_alone(place: Path) -> None:
    rows = [(text,) for _, text, _ in pairs()]
    write_csv(place / "texts.csv", ["text"], rows)
    write_csv(place / "more.csv", ["title", "body"], [(f"{t[0][:8]}", f"{t[0]} it") for t in rows])
    done = call("quick", "encodes", "texts.csv", "--task", "sentence_embedding", "--dry-run")
    recipe = load_recipe("runs/texts.yaml")
    assert (recipe.task, recipe.data.text_column) == ("sentence_embedding", "text")
    assert recipe.teacher.name_or_path is None
    assert recipe.distillation.label_weight == 0.0
    assert recipe.evaluation.metrics[0] == "similarity_spearman"
    assert "leave about" not in done.stderr, "no text is right or wrong"
    assert "label_column" not in Path("runs/texts.yaml").read_text()
    told = call("quick", "encodes", "more.csv", "--task", "sentence_embedding", code=1).stderr
    assert "more than one column may be the text" in told
    call("quick", "encodes", "more.csv", "--task", "sentence_embedding", "--text-column", "body",
         "--dry-run")  # fmt: skip
    assert load_recipe("runs/more.yaml").data.text_column == "body"


def test_what_is_unclear_is_said_with_the_option(place: Path) -> None:
    write_csv(place / "texts.csv", ["text"], [(text,) for _, text, _ in pairs()])
    write_csv(place / "odd.csv", ["q", "text", "label"], pairs())
    write_csv(place / "pairs.csv", ["query", "text", "label"], pairs())
    one = call("quick", "encodes", "texts.csv", code=1).stderr
    assert "A sentence encoder learns from texts alone: say --task sentence_embedding" in one
    odd = call("quick", "ranks", "odd.csv", "--task", "reranking", code=1).stderr
    assert "no column is known to hold the queries (such as 'query'), got 'q', 'text'" in odd
    assert "say which with --text-column" in odd
    call("quick", "ranks", "odd.csv", "--task", "reranking", "--text-column", "q", "--dry-run")
    assert load_recipe("runs/odd.yaml").data.text_column == "q"
    two = call("quick", "ranks", "pairs.csv", "--task", "reranking", "--label-column", "label",
               "--label-column", "text", code=1)  # fmt: skip
    assert "a reranker learns one relevance of each text" in two.stderr
    wrong = call("quick", "ranks", "pairs.csv", "--task", "ranking", code=1).stderr
    assert "token_classification, reranking, sentence_embedding" in wrong
    hint = call("quick", "ranks", "pairs.csv", "--text-column", "query", "--dry-run", "--output",
                "runs/classes").stderr  # fmt: skip
    assert "For a reranker say --task reranking" in hint


def mark(folder: Path) -> None:
    """As ``CrossEncoder.save_pretrained`` marks its config."""
    file = folder / "config.json"
    said = json.loads(file.read_text()) | {"sentence_transformers": {"version": "5.1.0"}}
    file.write_text(json.dumps(said))


@pytest.mark.parametrize("model", ["ranks", "encodes", "nowhere/yet"])
def test_rows_of_a_reranker_are_known_without_a_word(model: str, place: Path) -> None:
    """Of a model of one score, of a bare encoder, and of one that is not on this machine."""
    mark(place / "ranks")
    write_csv(place / "pairs.csv", ["query", "text", "label"], pairs())
    write_csv(place / "asked.csv", ["question", "answer", "label"], pairs())
    write_lists(place / "lists.jsonl")
    write_triplets(place / "triplets.jsonl")
    for file, columns in (
        ("pairs.csv", ("query", "text", "label")),
        ("asked.csv", ("question", "answer", "label")),
        ("lists.jsonl", ("query", "text", "label")),
        ("triplets.jsonl", ("anchor", "positive", None)),
    ):
        done = call("quick", model, file, "--dry-run")
        data = load_recipe(f"runs/{Path(file).stem}.yaml").data
        assert load_recipe(f"runs/{Path(file).stem}.yaml").task == "reranking"
        assert (data.text_column, data.text_pair_column) == columns[:2]
        assert (data.negative_column is None) == (columns[2] is not None)
        other = "sentence_embedding" if columns[2] is None else "single_label_classification"
        assert (
            f"a reranker is proposed; for something else say --task, such as --task {other}"
        ) in " ".join(done.stderr.split())
        assert "new_head" not in done.stderr
    new = call("recipe", "new", "new.yaml", "--model", model, "--train", "pairs.csv")
    assert "a reranker is proposed" in new.stderr
    assert load_recipe("new.yaml").task == "reranking"


def test_lists_are_read_under_the_names_of_list_losses(place: Path) -> None:
    (place / "lists.jsonl").write_text("".join(
        json.dumps({"query": some[0][0], "docs": [t for _, t, _ in some],
                    "labels": [n for _, _, n in some]}) + "\n" for some in by_query()
    ))  # fmt: skip
    for words in (("--task", "reranking"), ()):
        call("quick", "ranks", "lists.jsonl", "--dry-run", *words)
        data = load_recipe("runs/lists.yaml").data
        assert (data.text_column, data.text_pair_column, data.label_column) == (
            "query", "docs", "labels",
        )  # fmt: skip


@pytest.mark.parametrize("words", [(), ("--task", "reranking")])
def test_a_csv_file_holds_no_lists(words: tuple[str, ...], place: Path) -> None:
    rows = [(some[0][0], [t for _, t, _ in some], [n for _, _, n in some]) for some in by_query()]
    write_csv(place / "lists.csv", ["query", "docs", "labels"], rows)
    told = call("quick", "ranks", "lists.csv", "--dry-run", *words, code=1).stderr
    assert "row 1, column 'docs': expected a text or a number, or a list of such, got" in told
    assert "CSV holds no lists: write such rows as JSON Lines or Parquet" in told
    write_csv(place / "three.csv", ["query", "positive", "negative"],
              [(q, t[0], t[1:]) for q, t, _ in rows])  # fmt: skip
    told = call("quick", "ranks", "three.csv", "--dry-run", *words, code=1).stderr
    assert "row 1, column 'negative': expected a text" in told


def test_what_may_be_something_else_is_not_taken_for_a_reranker(place: Path) -> None:
    save_tiny_classifier("bert", place / "classes", labels=2)
    write_csv(place / "pairs.csv", ["query", "text", "label"], pairs())
    done = call("quick", "classes", "pairs.csv", "--dry-run")
    assert load_recipe("runs/pairs.yaml").task == "single_label_classification"
    assert "column 'query' is not read. Queries with texts that may answer them?" in done.stderr
    assert "For a reranker say --task reranking, for pairs --text-column" in done.stderr
    named = [(q, t, ("yes", "no", "maybe")[n % 3]) for n, (q, t, _) in enumerate(pairs())]
    write_csv(place / "said.csv", ["query", "text", "label"], named)
    hint = call("quick", "encodes", "said.csv", "--dry-run").stderr
    assert load_recipe("runs/said.yaml").task == "single_label_classification"
    assert "column 'query' is not read" in hint
    call("quick", "encodes", "pairs.csv", "--task", "single_label_classification", "--dry-run",
         "--output", "runs/told")  # fmt: skip
    assert load_recipe("runs/told.yaml").task == "single_label_classification"
    # Titles belong to texts of the news as well.
    write_csv(place / "news.csv", ["title", "text", "label"], pairs())
    assert "reranker" not in call("quick", "encodes", "news.csv", "--dry-run").stderr
    # Of a model with another head triplets can be nothing else; grades only of a model that ranks.
    write_triplets(place / "triplets.jsonl")
    becomes = call("quick", "classes", "triplets.jsonl", "--dry-run").stderr
    assert "is fine-tuned for another task (2 labels) and becomes a reranker" in becomes
    graded = [(q, t, 3 * n) for q, t, n in pairs()]
    write_csv(place / "graded.csv", ["query", "text", "label"], graded)
    call("quick", "encodes", "graded.csv", "--dry-run")
    assert load_recipe("runs/graded.yaml").task == "single_label_classification"
    call("quick", "ranks", "graded.csv", "--dry-run", "--output", "runs/ranked")
    assert load_recipe("runs/ranked.yaml").task == "reranking"


def test_a_cross_encoder_is_not_given_single_texts_without_a_word(place: Path) -> None:
    mark(place / "ranks")
    write_csv(place / "odd.csv", ["q", "text", "label"], pairs())
    told = call("quick", "ranks", "odd.csv", "--dry-run").stderr
    (line,) = [one for one in told.splitlines() if "is a CrossEncoder" in one]
    assert "ranks' is a CrossEncoder, which reads two texts together, and one of each row" in line
    assert "second ones in --text-pair-column; for a reranker say --task reranking" in line


def test_columns_by_name() -> None:
    found = find_answers({"label": [], "title": [], "text": []}, "f")
    assert found[:4] == ("title", "text", "label", ())
    named = find_answers({"a": [], "b": [], "c": []}, "f", query="a", text="b", label="c")
    assert named[:4] == ("a", "b", "c", ())
    graded = find_answers({"query": [], "positive": [], "negative": [], "label": []}, "f",
                          label="label")  # fmt: skip
    assert graded[:4] == ("query", "positive", "label", ()), "what is named counts"
    with pytest.raises(DataError, match=r"hold the relevance \(such as 'label'\).*--label-column"):
        find_answers({"query": [], "text": []}, "f")
    with pytest.raises(DataError, match=r"hold the texts \(such as 'text'\).*--text-pair-column"):
        find_answers({"query": [], "label": []}, "f")


def test_few_rows_are_told_of_what_is_counted() -> None:
    assert few_to_test_on("reranking", 500) == [
        "500 queries leave about 100 to test on: a difference of less than 10 points will not be "
        "told from chance"
    ]
    assert few_to_test_on("regression", 500)[0].startswith("500 rows leave about 100")
    assert few_to_test_on("reranking", 2500) == []
    assert few_to_test_on("sentence_embedding", 50) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reranking", "sentence_embedding"])
def test_what_quick_proposes_runs(task: str, place: Path) -> None:
    """The whole way, with files chosen by measuring; less of everything than quick would take."""
    if task == "reranking":
        write_triplets(place / "rows.jsonl")
    else:
        lines = [json.dumps({"text": text}) + "\n" for _, text, _ in pairs()]
        (place / "rows.jsonl").write_text("".join(lines))
    model = "ranks" if task == "reranking" else "encodes"
    call("quick", model, "rows.jsonl", "--task", task, "--sparsity", 0.4, "--dry-run")
    check_early(load_recipe("runs/rows.yaml"))
    call("prune", "runs/rows.yaml", "recovery.num_train_epochs=1", "benchmark.repeats=1",
         "benchmark.warmup=0", "deploy.seconds=1", "--quiet")  # fmt: skip
    for name in ("report.html", "deploy.json", "README.md", "metrics.json"):
        assert (place / "runs" / "rows" / name).is_file(), name
