"""``hfprune predict`` of models that read two texts: rerankers, CrossEncoders, recipes of pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_classifier, tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import hfprune.cli
from hfprune.core.errors import DataError, UnsupportedModelError
from hfprune.deploy.choose.present import choose_among
from hfprune.deploy.evaluation import evaluate
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.predict.answers import as_line, best_first
from hfprune.deploy.predict.rows import Row, given_rows
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.loading import check_model
from hfprune.models.saved import load_saved
from tests.api.test_embeddings import sentence_encoder

QUERY = "good film"
TEXTS = ["a dull plot", "the great story was moving", "weak but funny"]


def call(*words: object, stdin: str | None = None) -> Any:
    return CliRunner().invoke(hfprune.cli.app, ["predict", *map(str, words)], input=stdin)


def lines(result: Any) -> list[str]:
    """Answers, without the line that says which file gave them."""
    assert result.exit_code == 0, result.output
    found: list[str] = result.stdout.splitlines()
    return found


def change(folder: Path, **said: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pairs") / "reranker"
    save_tiny_classifier("bert", place, labels=1)
    change(place, problem_type="multi_label_classification", id2label={"0": "LABEL_0"})
    return place


def scores(folder: Path) -> dict[str, float]:
    """By text, of transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return {text: float(model(**tokenizer(QUERY, text, return_tensors="pt")).logits[0, 0])
                for text in TEXTS}  # fmt: skip


def test_a_query_with_its_texts_is_put_in_order(folder: Path) -> None:
    want = scores(folder)
    ordered = sorted(TEXTS, key=lambda text: -want[text])
    texts = [word for text in TEXTS for word in ("--pair", text)]
    found = [json.loads(line) for line in lines(call(folder, QUERY, *texts, "--json"))]
    assert [row["text"] for row in found] == ordered
    assert {row["query"] for row in found} == {QUERY}
    for row in found:
        assert row["value"] == pytest.approx(want[row["text"]], abs=1e-4)
    shown = lines(call(folder, QUERY, *texts))
    assert [line.partition("  ")[2] for line in shown] == [f"{QUERY}  |  {t}" for t in ordered]


def test_a_file_of_pairs_stays_in_its_order(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"query": QUERY, "text": t}) + "\n" for t in TEXTS))
    shown = lines(call(folder, file))
    assert [line.partition("  ")[2] for line in shown] == [f"{QUERY}  |  {t}" for t in TEXTS]
    streamed = call(folder, "-", stdin="".join(f"{QUERY}\t{text}\n" for text in TEXTS))
    assert lines(streamed) == shown
    refused = call(folder, file, "--pair", "a text")
    assert refused.exit_code == 1
    assert "--pair is for texts of the command line" in refused.output
    assert "with --pair-column" in refused.output


def test_a_query_alone_is_refused_with_the_right_call(folder: Path, tmp_path: Path) -> None:
    alone = call(folder, "just a text")
    assert alone.exit_code == 1
    assert alone.stdout == ""
    assert (
        f"the model scores a text for a query, and 'just a text' came alone: call hfprune predict "
        f'{folder} "a query" --pair "a text that may answer it", or name a file with the columns '
        "'query' and 'text' (in Python: Row(text, pair))"
    ) in alone.output
    with pytest.raises(DataError, match="came alone"):
        list(Predictor(folder)([Row(QUERY, TEXTS[0]), Row(QUERY)]))
    # A CrossEncoder's config does not say that it ranks.
    dense = tmp_path / "dense"
    save_tiny_classifier("bert", dense, labels=1)
    assert call(dense, "just a text").exit_code == 0, "a regression of one text"
    change(dense, sentence_transformers={"version": "5.1.0"})
    assert "'just a text' came alone" in call(dense, "just a text").output
    assert len(lines(call(dense, QUERY, "--pair", TEXTS[0]))) == 1


def test_pairs_of_a_recipe_are_asked_for(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path, labels=3)
    recipe = {
        "model": {"name_or_path": "some/model"}, "output_dir": "runs/x",
        "pruning": {"sparsity": 0.5},
        "data": {"train_file": "x.csv", "text_column": "premise", "text_pair_column": "hypothesis",
                 "max_length": 32},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    told = call(tmp_path, "it was good").output
    assert "the model reads two texts together, and 'it was good' came alone" in told
    assert '"a text" --pair "the second text"' in told
    assert "columns 'premise' and 'hypothesis'" in told
    (line,) = lines(call(tmp_path, "it was good", "--pair", "it was fine"))
    assert line.endswith("  it was good  |  it was fine")


def test_a_cross_encoder_of_several_labels_reads_pairs(tmp_path: Path) -> None:
    """Of natural language inference, say: nothing reads the first text of each row alone."""
    save_tiny_classifier("bert", tmp_path, labels=3)
    change(tmp_path, sentence_transformers={"version": "5.1.0"})
    assert "columns 'text' and 'text_pair'" in call(tmp_path, "it was good").output
    rows = tmp_path / "rows.csv"
    some = [(text, f"{text} but {other}") for text in TEXTS for other in TEXTS]
    rows.write_text("".join(["text,text_pair,label\n", *(f"{a},{b},LABEL_1\n" for a, b in some)]))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        batch = tokenizer(*map(list, zip(*some, strict=True)), padding=True, return_tensors="pt")
        want = model(**batch).logits.argmax(1).tolist()
    found = [json.loads(line) for line in lines(call(tmp_path, rows, "--json"))]
    assert [told["label"] for told in found] == [f"LABEL_{number}" for number in want]
    with pytest.raises(DataError, match=r"holds a CrossEncoder, which reads two .*data.text_pair_"):
        evaluate(tmp_path, [rows])
    with pytest.raises(DataError, match="which reads two texts together"):
        evaluate(tmp_path, [rows], text_column="text")
    report = evaluate(tmp_path, [rows], text_pair_column="text_pair")
    assert report.models["PyTorch"].metrics["accuracy"] == pytest.approx(want.count(1) / 9)


def test_a_second_text_is_refused_where_it_would_count_as_none(tmp_path: Path) -> None:
    """By an encoder, which gives two texts two vectors, and by windows."""
    encoder = sentence_encoder(tmp_path / "encoder")
    told = call(encoder, "it was good", "--pair", "it was fine")
    assert told.exit_code == 1
    assert told.stdout == ""
    assert (
        "the model gives each text one vector, and 'it was good' came with a second text, "
        "'it was fine': give two texts as two arguments (hfprune predict "
        f'{encoder} "a text" "another text"), or of a file one column of texts'
    ) in told.output
    assert len(lines(call(encoder, "it was good", "it was fine"))) == 2
    recipe = {
        "model": {"name_or_path": "some/model"}, "output_dir": "runs/x",
        "pruning": {"sparsity": 0.5},
        "data": {"train_file": "x.csv", "max_length": 16, "stride": 4},
    }  # fmt: skip
    save_tiny_classifier("bert", tmp_path / "windows")
    (tmp_path / "windows" / "recipe.yaml").write_text(json.dumps(recipe))
    told = call(tmp_path / "windows", "it was good", "--pair", "it was fine")
    assert "the model reads long texts in windows, and 'it was good' came with" in told.output


def test_files_of_a_cross_encoder_are_told_to_read_pairs(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path, labels=1)
    change(tmp_path, sentence_transformers={"version": "5.1.0"})
    export_onnx(load_saved(str(tmp_path)), tiny_tokenizer(), tmp_path / "onnx")
    found = choose_among(tmp_path, uses=["batches"], batch_size=2, seconds=0.1)
    (best,) = found.uses.values()
    assert any('reader(["a query"], ["a text"], padding' in line for line in best.load)


def test_a_prompt_before_pairs_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    """Not left out in silence, by whatever reads the folder; one that must be asked for may be."""
    place = tmp_path / "prompted"
    shutil.copytree(folder, place)
    change(place, sentence_transformers={"version": "6.2.0"})
    said = {"prompts": {"web": "Rank: ", "none": ""}, "default_prompt_name": "web"}
    (place / "config_sentence_transformers.json").write_text(json.dumps(said))
    rows = tmp_path / "rows.csv"
    rows.write_text("query,text,label\nq,good,1\nq,bad,0\n")
    for read in (
        lambda: Predictor(place),
        lambda: evaluate(place, [rows]),
        lambda: check_model(str(place), "model.name_or_path"),
    ):
        with pytest.raises(UnsupportedModelError, match="'web', 'Rank: '.*default_prompt_name to"):
            read()
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    for default in ("none", None):
        said["default_prompt_name"] = default
        (place / "config_sentence_transformers.json").write_text(json.dumps(said))
        assert Predictor(place).max_length == 7, "as its modules say"
        assert evaluate(place, [rows]).max_length == 7


@pytest.mark.parametrize(("limit", "want"), [(700, 700), (int(1e30), 900)])
def test_pairs_are_read_as_far_as_the_model_reads(limit: int, want: int, tmp_path: Path) -> None:
    """By ``evaluate`` as by ``predict``, where no recipe says less."""
    tiny_model("bert", labels=1, max_position_embeddings=900).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = limit
    tokenizer.save_pretrained(tmp_path)
    rows = tmp_path / "rows.csv"
    rows.write_text(f"query,text,label\nq,{'good ' * 800},1\nq,bad,0\n")
    found = evaluate(tmp_path, [rows])
    assert (found.max_length, found.truncated) == (want, int(limit == want))
    assert Predictor(tmp_path).max_length == want


def test_answers_in_order() -> None:
    rows = [
        {"query": query, "text": text, "value": value}
        for query, text, value in (("b", "1", 0.1), ("a", "2", 5.0), ("b", "3", 0.3))
    ]
    assert [row["text"] for row in best_first(rows)] == ["3", "1", "2"]
    others = [{"text": "x", "value": 1.0}, {"text": "y", "value": 2.0}]
    assert best_first(others) == others
    assert as_line(rows[0]) == "0.1000  b  |  1"
    assert given_rows(["a"], ["b", "c"]) == [Row("a", "b"), Row("a", "c")]


def test_small_letters_before_pairs_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    """Modules that list a CrossEncoder may ask for them; of others the setting means nothing."""
    place = tmp_path / "lowered"
    shutil.copytree(folder, place)
    change(place, sentence_transformers={"version": "6.2.0"})
    (place / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    rows = tmp_path / "rows.csv"
    rows.write_text("query,text,label\nq,good,1\nq,bad,0\n")
    reads = (
        lambda: Predictor(place),
        lambda: evaluate(place, [rows]),
        lambda: check_model(str(place), "model.name_or_path"),
    )
    for read in reads:
        read()  # before there were modules, nothing read that file
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (place / "modules.json").write_text(json.dumps(modules))
    for read in reads:
        read()  # the tokenizer does it by itself
    tokenizer = json.loads((place / "tokenizer.json").read_text())
    for normalizer in (None, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}):
        (place / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": normalizer}))
        for read in reads:
            with pytest.raises(UnsupportedModelError, match="in small letters before .*do_lower"):
                read()
