"""What an encoder's folder says besides its modules: the cut, prompts, the longest text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from loopback_hub import LoopbackHub
from tiny import random_plan, tiny_model, tiny_tokenizer
from transformers import AutoModel, AutoTokenizer

import hfprune
from hfprune.core.errors import CheckpointError, DataError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.embedding import EmbeddingOutput
from hfprune.models.layout import (
    longest_of,
    prompt_of,
    read_layout,
    search_prompts,
    served_as,
)
from hfprune.models.sentences import load_embedder, save_encoder
from hfprune.pruning.surgery import shrink_
from tests.api.test_embeddings import PROMPTS, by_hand, sentence_encoder
from tests.publish.test_hub import ROOT, TOKEN, environment

SETTINGS = "config_sentence_transformers.json"
TEXTS = ["a good film", "dull", "a very very weak plot"]


def told(folder: Path, **settings: Any) -> Path:
    """An encoder whose folder says this of prompts and the cut."""
    sentence_encoder(folder)
    (folder / SETTINGS).write_text(json.dumps({**PROMPTS, **settings}))
    return folder


def of_onnx(folder: Path, texts: list[str]) -> np.ndarray:
    batch = tiny_tokenizer()(["good " + text for text in texts], padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(None, {n.name: batch[n.name] for n in session.get_inputs()})[0]


# -- truncate_dim ----------------------------------------------------------------------------------


def test_embeddings_are_cut_after_they_are_normalised(tmp_path: Path) -> None:
    """As in SentenceTransformer.encode: modules first, then the first numbers as they are."""
    place = told(tmp_path / "e", truncate_dim=12)
    want = by_hand(place, TEXTS)[:, :12]
    encoder = hfprune.load_encoder(place)
    np.testing.assert_allclose(encoder.encode(TEXTS), want, atol=1e-5)
    assert (np.linalg.norm(want, axis=1) < 0.99).all(), "not of length 1 any more"
    assert encoder.encode([]).shape == (0, 12)
    model = load_embedder(str(place))
    assert model.embedding_width == 12
    batch = tiny_tokenizer()(["good " + text for text in TEXTS], padding=True, return_tensors="pt")
    with torch.no_grad():
        found: EmbeddingOutput = model(**batch)
    np.testing.assert_allclose(found.logits, want, atol=1e-5)
    export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    np.testing.assert_allclose(of_onnx(tmp_path / "onnx", TEXTS), want, atol=1e-4)
    shrink_(model, random_plan(model))
    model.save_pretrained(tmp_path / "small")
    assert json.loads((tmp_path / "small" / SETTINGS).read_text())["truncate_dim"] == 12
    assert load_embedder(str(tmp_path / "small")).embedding_width == 12


def test_a_cut_beyond_the_width_changes_nothing(tmp_path: Path) -> None:
    place = told(tmp_path / "e", truncate_dim=500)
    model = load_embedder(str(place))
    assert model.embedding_width == 32
    export_onnx(model, tiny_tokenizer(), tmp_path / "onnx")
    np.testing.assert_allclose(of_onnx(tmp_path / "onnx", TEXTS), by_hand(place, TEXTS), atol=1e-4)


@pytest.mark.parametrize("size", [0, -3, "16", 2.5, True])
def test_a_cut_that_is_no_count_is_refused(size: object, tmp_path: Path) -> None:
    place = told(tmp_path / "e", truncate_dim=size)
    with pytest.raises(CheckpointError, match=r"names the truncate_dim .*; expected a whole num"):
        hfprune.load_encoder(place)


# -- one text --------------------------------------------------------------------------------------


def test_a_text_alone_has_one_embedding(tmp_path: Path) -> None:
    encoder = hfprune.load_encoder(sentence_encoder(tmp_path / "e"))
    found = encoder.encode("a good film")
    assert found.shape == (32,)
    np.testing.assert_array_equal(found, encoder.encode(["a good film"])[0])
    np.testing.assert_array_equal(
        encoder.encode("a film", prompt_name="document"),
        encoder.encode(["a film"], prompt_name="document")[0],
    )
    assert encoder.encode("").shape == (32,)
    assert encoder.encode(np.array(TEXTS)).shape == (3, 32)


@pytest.mark.parametrize("named", [["token_type_ids"], []])
def test_an_encoder_takes_what_it_knows_of_a_tokenizer_s(named: list[str], tmp_path: Path) -> None:
    """DistilBERT has no token types, and its tokenizer may give them; all ways in agree."""
    place = sentence_encoder(tmp_path / "e")
    tiny_model("distilbert").base_model.save_pretrained(place)
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask", *named]
    tokenizer.save_pretrained(place)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path / "plain")
    batch = AutoTokenizer.from_pretrained(tmp_path / "plain")("good dull", return_tensors="pt")
    with torch.no_grad():
        mean = AutoModel.from_pretrained(place).eval()(**batch).last_hidden_state[0].mean(0)
    want = (mean / mean.norm()).numpy()
    np.testing.assert_allclose(hfprune.load_encoder(place).encode("dull"), want, atol=1e-5)
    (told,) = Predictor(place)([Row("dull")])
    np.testing.assert_allclose(told["embedding"], want, atol=1e-5)


def test_an_encoder_whose_tokenizer_names_no_padding_pads_by_the_end(tmp_path: Path) -> None:
    place = sentence_encoder(tmp_path / "e")
    tiny_model("gpt2").base_model.save_pretrained(place)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token, tokenizer.pad_token = tokenizer.sep_token, None
    tokenizer.save_pretrained(place)
    found = hfprune.load_encoder(place).encode(TEXTS)
    told = [one["embedding"] for one in Predictor(place)([Row(text) for text in TEXTS])]
    np.testing.assert_allclose(found, told, atol=1e-5)


def test_long_texts_are_read_as_far_as_the_folder_says(tmp_path: Path) -> None:
    """Also without a recipe: those of more than 512 tokens were cut there by ``predict`` alone."""
    place = sentence_encoder(tmp_path / "e")
    tiny_model("bert", max_position_embeddings=900).base_model.save_pretrained(place)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(place)
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 700}')
    text = "film " * 600 + "dull " * 90
    want = hfprune.load_encoder(place).encode(text)
    (told,) = Predictor(place)([Row(text)])
    np.testing.assert_allclose(told["embedding"], want, atol=1e-5)
    (place / "sentence_bert_config.json").unlink()
    assert Predictor(place).max_length == 900, "its positions"


@pytest.mark.parametrize("given", ["a film", ["a film"]])
def test_predictions_are_asked_of_rows(given: Any, tmp_path: Path) -> None:
    ask = Predictor(sentence_encoder(tmp_path / "e"))
    with pytest.raises(DataError, match="expected rows, got .*'a film'"):
        list(ask(given))


# -- prompts and lengths ---------------------------------------------------------------------------


def test_what_is_pruned_is_served_as_it_was_trained(tmp_path: Path) -> None:
    """The folder says which prompt and which length: once, for all who read it."""
    place = told(tmp_path / "e", prompts={"query": "good ", "title": "bad "})
    model = load_embedder(str(place))
    model.sentence_layout = served_as(model.sentence_layout, "title", 10)
    for name in ("small", "again"):  # also when it is saved anew
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        model = load_embedder(str(tmp_path / name))
    small = tmp_path / "again"
    settings = json.loads((small / SETTINGS).read_text())
    assert settings["default_prompt_name"] == "title"
    assert settings["prompts"] == {"query": "good ", "title": "bad "}
    layout = read_layout(small)
    assert layout is not None
    assert (prompt_of(layout), longest_of(layout)) == ("bad ", 10)
    export_onnx(model, tiny_tokenizer(), tmp_path / "served")
    long = [*TEXTS, "a very very weak plot " * 9]
    encoder = hfprune.load_encoder(small)
    assert encoder.max_length == 10
    ids = [tiny_tokenizer()("bad " + text)["input_ids"] for text in long]
    ids = [row if len(row) <= 10 else [*row[:9], row[-1]] for row in ids]
    plain = AutoModel.from_pretrained(place).eval()
    with torch.no_grad():
        want = [plain(torch.tensor([row])).last_hidden_state[0].mean(0).numpy() for row in ids]
    want = [vector / np.linalg.norm(vector) for vector in want]
    np.testing.assert_allclose(encoder.encode(long), want, atol=1e-5)
    for folder in (small, tmp_path / "served"):
        ask = Predictor(folder)
        assert (ask.prompt, ask.max_length) == ("bad ", 10)
        found = [row["embedding"] for row in ask([Row(text) for text in long])]
        np.testing.assert_allclose(found, want, atol=1e-4)


def test_a_folder_that_says_the_same_is_left_as_it_is(tmp_path: Path) -> None:
    layout = read_layout(sentence_encoder(tmp_path / "e"))
    assert layout is not None
    assert served_as(layout, None, 24) == served_as(layout, "query", 24) == layout
    with pytest.raises(CheckpointError, match="has no prompt 'title'"):
        prompt_of(served_as(layout, "title", 24))


@pytest.mark.parametrize(
    ("prompts", "default", "named", "want"),
    [
        ({"query": "q: ", "document": "d: "}, None, None, ("q: ", "d: ")),
        ({"query": "q: ", "passage": "p: ", "x": "x: "}, "x", None, ("q: ", "p: ")),
        ({"query": "q: ", "corpus": "c: "}, "query", None, ("q: ", "c: ")),
        ({"query": "q: "}, None, None, ("q: ", "")),
        ({"x": "x: ", "y": "y: "}, "x", None, ("x: ", "x: ")),
        ({"x": "x: ", "y": "y: "}, "x", "y", ("y: ", "y: ")),
        ({"query": "q: ", "document": ""}, "query", None, ("q: ", "")),
        ({}, None, None, ("", "")),
    ],
)
def test_prompts_of_a_search(
    prompts: dict[str, str], default: str | None, named: str | None, want: Any, tmp_path: Path
) -> None:
    """As encode_query and encode_document of sentence-transformers choose them."""
    place = told(tmp_path / "e", prompts=prompts, default_prompt_name=default)
    assert search_prompts(place, named) == want


# -- loading ---------------------------------------------------------------------------------------


def test_an_uneven_encoder_names_who_loads_it(tmp_path: Path) -> None:
    model = load_embedder(str(sentence_encoder(tmp_path / "e")))
    shrink_(model, random_plan(model))
    model.save_pretrained(tmp_path / "small")
    tiny_tokenizer().save_pretrained(tmp_path / "small")
    classifier = tiny_model("bert")
    shrink_(classifier, random_plan(classifier))
    layout = read_layout(tmp_path / "e")
    assert layout is not None
    save_encoder(classifier, tiny_tokenizer(), layout, tmp_path / "of-classifier")
    for name in ("small", "of-classifier"):
        with pytest.raises(ValueError, match=r"hfprune.load_encoder\(folder\) or hfprune.load_as"):
            AutoModel.from_pretrained(tmp_path / name)
        assert hfprune.load_encoder(tmp_path / name).encode(TEXTS).shape == (3, 32)
    hfprune.load_encoder(tmp_path / "small").model.save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match=r"hfprune.load_encoder\(folder\)"):
        AutoModel.from_pretrained(tmp_path / "again")
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"size, load it with hfprune.from_pretrained\(folder\)"):
        AutoModel.from_pretrained(tmp_path / "classifier")


LOAD = """
import sys
import numpy as np
import hfprune

np.save(sys.argv[1], hfprune.load_encoder("user/encoder").encode(["a good film", "dull"]))
for name in ("user/none", "no/such/folder"):
    try:
        hfprune.load_encoder(name)
    except hfprune.HFPruneError as error:
        print(type(error).__name__, error)
"""


def test_a_name_on_the_hub_is_looked_up(tmp_path: Path) -> None:
    place = sentence_encoder(tmp_path / "e")
    paths = [path for path in place.rglob("*") if path.is_file()]
    with LoopbackHub(TOKEN) as server:
        files = {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}
        server.add("user/encoder").commit("main", files)
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(tmp_path / "found.npy")],
            capture_output=True, text=True, check=True,
            env=environment(server.url, tmp_path / "home") | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, by_hand(place, ["a good film", "dull"]), atol=1e-5)
    first, second = done.stdout.splitlines()
    assert first.startswith("CheckpointError the sentence encoder 'user/none' cannot be loaded")
    assert "the sentence encoder 'no/such/folder' cannot be loaded: there is no such fo" in second


def test_a_folder_without_modules_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder here"):
        hfprune.load_encoder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no modules.json that says how to pool"):
        hfprune.load_encoder(tmp_path)
