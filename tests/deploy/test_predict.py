"""``hfprune predict``: which file answers, and what it says of texts of every task."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from first_results import first_format
from tiny import (
    save_tiny_classifier,
    tiny_image_processor,
    tiny_model,
    tiny_tokenizer,
    write_images,
)
from typer.testing import CliRunner

import hfprune.cli
from hfprune.cli.predict import _streamed
from hfprune.core.errors import CheckpointError, DataError, TrainingError
from hfprune.deploy.choose.record import Deployment, Recommended, write_deployment
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import onnx_to_serve
from hfprune.deploy.predict.answers import answer, as_line, entities, split_words, tagged
from hfprune.deploy.predict.rows import Row, given_rows, is_file_of_rows, read_rows
from hfprune.deploy.predict.serving import Predictor, served_file
from hfprune.deploy.quantize.outcome import PLAIN
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.runtimes.onnxruntime import OnnxRuntime
from hfprune.models.saved import load_saved

TEXTS = ["a moving film", "dull", "good good film and a long one at that"]


def said(result: Any) -> str:
    """What a command printed, on both streams."""
    return result.output + (result.stderr if "stderr" not in result.output else "")


def call(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(hfprune.cli.app, ["predict", *arguments], input=stdin)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with its tokenizer, and ONNX files of both precisions."""
    place = tmp_path_factory.mktemp("out") / "out"
    save_tiny_classifier("bert", place)
    model = load_saved(str(place))
    export_onnx(model, tiny_tokenizer(), place / "onnx")
    quantize_onnx(place / "onnx", PLAIN)
    return place


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["O", "O"], []),
        (["B-PER", "I-PER", "O"], [("PER", 0, 2)]),
        (["I-PER", "I-PER"], [("PER", 0, 2)]),  # begins without B, as conlleval reads it
        (["B-PER", "B-PER"], [("PER", 0, 1), ("PER", 1, 2)]),
        (["B-PER", "I-LOC"], [("PER", 0, 1), ("LOC", 1, 2)]),
        (["S-PER", "S-PER", "B-LOC", "E-LOC", "E-LOC"],
         [("PER", 0, 1), ("PER", 1, 2), ("LOC", 2, 4), ("LOC", 4, 5)]),
    ],
)  # fmt: skip
def test_entities_as_conlleval_reads_them(tags: list[str], expected: Any) -> None:
    assert entities(tags) == expected
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    if not any(tag[0] in "SE" for tag in tags):
        found = [(kind, begin, end + 1) for kind, begin, end in seqeval.get_entities(tags)]
        assert found == expected


def test_answers_of_every_task() -> None:
    names = ["bad", "good"]
    one = answer(np.array([1.0, 3.0]), "single_label_classification", names)
    share = 1 / (1 + np.exp(-2.0))
    assert one["label"] == "good"
    assert one["score"] == pytest.approx(share)
    assert list(one["scores"]) == ["good", "bad"]
    several = answer(np.array([-1.0, 3.0]), "multi_label_classification", names)
    assert several["labels"] == ["good"]
    assert several["scores"]["bad"] == pytest.approx(1 / (1 + np.e))
    assert answer(np.array([-800.0, 800.0]), "multi_label_classification", names)["scores"] == {
        "good": 1.0,
        "bad": 0.0,
    }
    assert answer(np.array([2.5]), "regression", []) == {"value": 2.5}
    with pytest.raises(TrainingError, match="no finite numbers"):
        answer(np.array([np.nan, 0.0]), "single_label_classification", names)


def test_words_become_entities_with_their_places() -> None:
    text = "Ada  Lovelace, London"
    words = split_words(text)
    logits = np.full((6, 3), -9.0)  # [CLS] Ada Love ##lace, London [SEP]
    for token, label in enumerate([0, 1, 2, 0, 1, 0]):
        logits[token, label] = 9.0
    found = tagged(text, words, [None, 0, 1, 1, 2, None], logits, ["O", "B-X", "I-X"])
    assert [(e["text"], e["start"], e["end"], e["type"]) for e in found["entities"]] == [
        ("Ada  Lovelace,", 0, 14, "X"),
        ("London", 15, 21, "X"),
    ]
    cut = tagged(text, words, [None, 0, None], logits[:3], ["O", "B-X", "I-X"])
    assert cut["cut"] == 2
    assert "entities" not in tagged(text, words, [None, 0], logits, ["NOUN", "VERB", "ADJ"])
    assert as_line({"text": text, **found}).startswith("X: Ada  Lovelace, 1.000, X: London")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "one\n\ntwo\r\n", [Row("one"), Row("two")]),
        ("a.csv", 'id;text\n1;"one; two"\n', [Row("one; two")]),
        ("a.csv", 'id,text\n1,"one, and\nmore"\n2,two\n', [Row("one, and\nmore"), Row("two")]),
        ("a.tsv", "text\tid\none\t1\n", [Row("one")]),
        # A quote is a character like any other, as in the rows that are trained on.
        ("a.tsv", 'text\tid\n"one\t1\nt"w"o\t2\n', [Row('"one'), Row('t"w"o')]),
        ("a.csv", "text,id,\none,1\ntwo,2,\n", [Row("one"), Row("two")]),
        ("a.jsonl", '{"text": "one"}\n"two"\n', [Row("one"), Row("two")]),
    ],
)
def test_rows_of_files(name: str, content: str, expected: list[Row]) -> None:
    assert list(read_rows(io.StringIO(content, newline=""), name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "pair", "message"),
    [
        ("a.csv", "review\nx\n", None, "a.csv has no column 'text', only 'review'"),
        ("a.csv", "a,text\n1\n", None, "a.csv, line 2 has 1 cells, the header has 2"),
        (
            "a.csv",
            "text,a\none, two,1\n",
            None,
            "line 2 has 3 cells, the header has 2: a text",
        ),
        (
            "a.tsv",
            "text\ta\none\ttwo\t1\n",
            None,
            "has 3 cells, the header has 2: in a .tsv",
        ),
        (
            "a.csv",
            'text\n"one\ntwo\n',
            None,
            "line 3: not valid CSV: unexpected end of data",
        ),
        ("a.csv", "text,text\n1,2\n", None, "the column 'text' stands 2 times in the header line"),
        ("a.jsonl", "[" * 100_000, None, "a.jsonl, line 1: expected a JSON value"),
        ("a.jsonl", "{}\n", None, "a.jsonl, line 1: expected an object with a text under 'text'"),
        ("a.jsonl", "{\n", None, "a.jsonl, line 1: expected a JSON value"),
        ("a.txt", "one\n", "other", "line 1: expected two texts with a tab between them"),
    ],
)
def test_files_that_hold_no_rows(name: str, content: str, pair: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_rows(io.StringIO(content), name, pair_column=pair))


def test_long_cells_are_the_reader_s_own_matter() -> None:
    limit = csv.field_size_limit()
    content = f"text\n{'long ' * 40_000}\n"
    assert len(next(read_rows(io.StringIO(content), "a.csv")).text) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "count"),
    [("text\none\rmore\ntwo\n", None), ("text\rone\rtwo\r", 2), ('text\r\n"one\rmore"\r\n', 1)],
)
def test_stray_carriage_returns_part_no_rows(tmp_path: Path, content: str, count: int) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(content.encode())
    with _streamed(str(file), "text", None) as rows:
        if count is None:
            with pytest.raises(DataError, match="line 2: not valid CSV: a carriage return"):
                list(rows)
        else:
            assert len(list(rows)) == count


@pytest.mark.parametrize("text", ["half \ud800", "\udcff of latin-1"])
def test_half_a_character_is_no_text(folder: Path, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds half a character \(a lone surrogate, U\+D"):
        list(Predictor(folder)([Row("good"), Row(text)]))
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": text}) + "\n")
    failed = call(str(folder), str(file))
    assert failed.exit_code == 1
    assert "holds half a character" in said(failed)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv.gz", "rows.json", "rows"])
def test_a_file_that_is_not_read_is_no_text(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("one")
    failed = call(str(folder), str(tmp_path / name))
    assert failed.exit_code == 1
    assert f"{name} is a file, and files of rows end in .txt, .csv" in said(failed)
    # What only looks like a name is a text, though one that begs the question.
    missing = call(str(folder), "gone.csv")
    assert missing.exit_code == 1
    assert "there is no file gone.csv" in said(missing)
    assert call(str(folder), "read me.txt", "b.csv").exit_code == 0


def test_pairs_belong_to_texts() -> None:
    assert given_rows(["a"], ["b"]) == [Row("a", "b")]
    with pytest.raises(DataError, match="2 texts and 1 second texts: give one --pair for each"):
        given_rows(["a", "c"], ["b"])


def test_the_recommended_file_answers(folder: Path, tmp_path: Path) -> None:
    assert served_file(folder).path.name == "model_quantized.onnx"
    chosen = Recommended(
        path="onnx/model.onnx", candidate="x", runtime="onnxruntime", precision="float32",
        graph="exported", why="of a test", load=("", "", ""),
    )  # fmt: skip
    record = Deployment(cpu="here", measured=True, threads=1, batch_size=8, uses={"single": chosen})
    write_deployment(record, folder)
    try:
        assert served_file(folder, "single").path.name == "model.onnx"
        assert served_file(folder, "batches").path.name == "model_quantized.onnx"
        alone = call(str(folder), TEXTS[0])
        assert "onnx/model.onnx (float32, deploy.json recommends it)" in said(alone)
    finally:
        (folder / "deploy.json").unlink()
    assert served_file(folder / "onnx").path.name == "model_quantized.onnx"


@pytest.mark.parametrize(("speed", "name"), [(9.0, "model.onnx"), (5.0, "model_quantized.onnx")])
def test_where_no_file_was_chosen_the_fastest_of_the_runs_table_answers(
    speed: float, name: str, folder: Path
) -> None:
    """As its verdict says: of files that are as fast as each other the smaller one."""
    values = first_format()
    for row in values["benchmark"]["rows"]:
        if row["name"] == "pruned ONNX":
            row["speedup"] = speed
    (folder / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
    try:
        found = served_file(folder)
        assert found.path.name == name
        assert onnx_to_serve(folder).name == name
        said_why = "the fastest that its run has timed" if speed > 6 else "the usual one"
        assert found.why == said_why
    finally:
        (folder / "metrics.json").unlink()


def test_without_onnx_runtime_the_weights_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntime, "missing", lambda self: "onnxruntime is not installed")
    found = served_file(folder)
    assert found.path.name == "model.safetensors"
    assert "model_quantized.onnx: onnxruntime is not installed" in found.why
    assert len(list(Predictor(folder)([Row(text) for text in TEXTS]))) == 3


def test_nothing_to_answer_with(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model: give the output_dir of a run"):
        served_file(tmp_path)
    assert "there is no folder" in said(call(str(tmp_path / "none"), "text"))
    (tmp_path / "4x").mkdir()
    (tmp_path / "4x" / "metrics.json").write_text("{}")
    failed = call(str(tmp_path), "text")
    assert failed.exit_code == 1
    assert "holds a family of models: give" in said(failed)


def test_answers_are_those_of_the_model(folder: Path) -> None:
    model = load_saved(str(folder))
    tokenizer = tiny_tokenizer()
    result = call(str(folder), *TEXTS, "--json", "--batch-size", "2")
    assert result.exit_code == 0, said(result)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [line["text"] for line in lines] == TEXTS
    with torch.no_grad():
        shares = [
            model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0] for text in TEXTS
        ]
    for line, share in zip(lines, shares, strict=True):
        assert sum(line["scores"].values()) == pytest.approx(1)
        assert line["scores"][model.config.id2label[0]] == pytest.approx(float(share[0]), abs=0.02)
        assert line["label"] == max(line["scores"], key=line["scores"].__getitem__)


def test_files_and_streams(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("\ufeffreview\n" + "\n".join(TEXTS) + "\n", encoding="utf-8")
    assert is_file_of_rows(str(rows))
    of_file = call(str(folder), str(rows), "--column", "review", "--json")
    assert of_file.exit_code == 0, said(of_file)
    streamed = call(str(folder), "-", "--json", stdin="\n".join(TEXTS))
    given = call(str(folder), *TEXTS, "--json")
    nothing = call(str(folder), "--json", stdin="\n".join(TEXTS))
    found = {
        tuple(line for line in result.stdout.splitlines() if line.startswith("{"))
        for result in (of_file, streamed, given, nothing)
    }
    assert len(found) == 1
    shown = call(str(folder), "good\n film", "--top", "2")
    assert "good film" in shown.stdout
    assert shown.stdout.count("0.") == 2


def test_a_stream_is_answered_as_it_comes(folder: Path) -> None:
    asked = []

    def rows() -> Any:
        for text in TEXTS:
            asked.append(text)
            yield Row(text)

    answers = Predictor(folder, batch_size=1)(rows())
    next(answers)
    assert asked == TEXTS[:1]


def saved(folder: Path, **settings: Any) -> Path:
    model = tiny_model("bert", **settings)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_other_tasks(tmp_path: Path) -> None:
    number = saved(tmp_path / "number", labels=1)
    (told,) = Predictor(number)([Row(TEXTS[0])])
    assert set(told) == {"text", "value"}
    several = saved(tmp_path / "several", problem_type="multi_label_classification")
    (told,) = Predictor(several)([Row(TEXTS[0], "a second text")])
    assert len(told["scores"]) == 3
    assert told["text_pair"] == "a second text"
    with pytest.raises(DataError, match="give all or none one"):
        list(Predictor(several)([Row("a", "b"), Row("c")]))
    tags = saved(tmp_path / "tags", tokens=True, id2label={0: "O", 1: "B-X", 2: "I-X"})
    first, second = Predictor(tags)([Row("a good film"), Row("dull " * 200)])
    assert [word["word"] for word in first["words"]] == ["a", "good", "film"]
    assert isinstance(first["entities"], list)
    assert second["cut"] > 0
    result = call(str(tags), "a good film")
    assert result.exit_code == 0, said(result)


def test_images(tmp_path: Path) -> None:
    tiny_model("vit").save_pretrained(tmp_path / "model")
    tiny_image_processor().save_pretrained(tmp_path / "model")
    write_images(tmp_path / "images", 2)
    images = sorted(str(path) for path in (tmp_path / "images").rglob("*.png"))[:2]
    told = list(Predictor(tmp_path / "model")(Row(path) for path in images))
    assert [row["image"] for row in told] == images
    with pytest.raises(DataError, match="expected the path of one, got 'a text'"):
        list(Predictor(tmp_path / "model")([Row("a text")]))
