"""Folders of sentence encoders for servers, held against each server's source, or run in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny import random_plan, tiny_model, tiny_tokenizer
from transformers import AutoModel, AutoTokenizer

import hfprune
from hfprune.core.errors import ExportError
from hfprune.deploy.choose.present import choose_among
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import write_layout
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.saved import load_saved
from hfprune.models.sentences import load_embedder
from hfprune.pruning.surgery import shrink_
from tests.api.test_embeddings import PROMPTS, sentence_encoder
from tests.deploy.test_layouts import left_by_a_run
from tests.models.test_layouts_6 import new_folder

TEXTS = ["a good film", "dull", "a very very weak plot " * 9]
SETTINGS = "config_sentence_transformers.json"


def finished(folder: Path, source: Path, *, cut: int | None = None) -> Path:
    """A pruned encoder with its ONNX files, as a run leaves it."""
    if cut is not None:
        (source / SETTINGS).write_text(json.dumps({**PROMPTS, "truncate_dim": cut}))
    return left_by_a_run(load_embedder(str(source)), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a prompt, a cut and a longest text."""
    place = tmp_path_factory.mktemp("runs")
    return finished(place / "encoder", sentence_encoder(place / "dense"), cut=12)


def run(file: Path, texts: list[str]) -> tuple[list[str], Any]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    batch = tiny_tokenizer()(
        texts, padding=True, truncation=True, max_length=24, return_tensors="np"
    )
    names = [node.name for node in session.get_outputs()]
    return names, session.run(None, {n.name: batch[n.name] for n in session.get_inputs()})[0]


def test_what_is_exported_embeds_as_the_run_does(folder: Path, tmp_path: Path) -> None:
    """The folder of the ONNX files alone, the layout for ONNX Runtime, and the run's."""
    rows = [Row(text) for text in TEXTS]
    want = [row["embedding"] for row in Predictor(folder)(rows)]
    plain = write_layout(folder, "plain", tmp_path / "plain")
    for place in (folder / "onnx", plain):
        ask = Predictor(place)
        assert (ask.prompt, ask.max_length) == ("good ", 24)
        np.testing.assert_array_equal([row["embedding"] for row in ask(rows)], want)
    # What was exported is still an encoder's: its tokens come out again.
    place = write_layout(folder / "onnx", "transformersjs", tmp_path / "js")
    assert run(place / "onnx" / "model.onnx", TEXTS)[0] == ["last_hidden_state"]


def test_the_lines_of_the_choice_embed_as_the_run_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the prompt before the text, and cut where it was measured."""
    place = tmp_path / "chosen"
    shutil.copytree(folder, place)
    chosen = choose_among(place, uses=["batches"], batch_size=2, seconds=0.1).uses["batches"]
    text = TEXTS[-1]
    monkeypatch.chdir(place)
    space: dict[str, Any] = {}
    exec("\n".join(chosen.load).replace("a text", text), space)  # noqa: S102 - as users do
    ((want,), (cut,)) = (list(Predictor(place)([Row(t)])) for t in (text, text[: len(text) // 4]))
    np.testing.assert_allclose(space["embeddings"], [want["embedding"]], atol=1e-6)
    assert want["embedding"] != cut["embedding"]


def test_text_embeddings_inference(folder: Path, tmp_path: Path) -> None:
    """backends/ort/src/lib.rs of 1.9.3: an output sentence_embedding is given as it is.

    router/src/lib.rs: PoolConfig has two keys without a default, STConfig max_seq_length, a whole
    number; prompts are texts by name.
    """
    place = write_layout(folder, "tei", tmp_path / "served")
    texts = ["good " + text for text in TEXTS]  # its --default-prompt-name
    names, found = run(place / "model.onnx", texts)
    assert names == ["sentence_embedding"]
    want = run(folder / "onnx" / "model_quantized.onnx", texts)[1]
    np.testing.assert_array_equal(found, want)
    pooling = json.loads((place / "1_Pooling" / "config.json").read_text())
    assert pooling == {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    length = json.loads((place / "sentence_bert_config.json").read_text())
    assert length["max_seq_length"] == 24
    settings = json.loads((place / SETTINGS).read_text())
    assert settings["prompts"] == PROMPTS["prompts"]
    config = json.loads((place / "config.json").read_text())
    assert not any(name.endswith("Classification") for name in config["architectures"])
    assert isinstance(config["hidden_size"], int)
    assert "hfprune" not in config
    assert (place / "tokenizer.json").is_file()


def test_forms_that_text_embeddings_inference_does_not_read(tmp_path: Path) -> None:
    """Those of sentence-transformers 5.4 on, and pooling by the maximum, which the graph does."""
    source = new_folder(tmp_path / "dense", "Transformer", "Pooling", "Dense", mode="max")
    folder = finished(tmp_path / "encoder", source)
    place = write_layout(folder, "tei", tmp_path / "served")
    pooling = json.loads((place / "1_Pooling" / "config.json").read_text())
    assert sorted(map(type, pooling.values()), key=str) == [bool, bool]
    assert sum(pooling.values()) == 1
    length = json.loads((place / "sentence_bert_config.json").read_text())
    assert type(length["max_seq_length"]) is int
    assert run(place / "model.onnx", TEXTS)[1].shape == (3, 8)
    assert not (place / "modules.json").exists(), "whose Dense layers are in the graph"


def test_transformers_js_cuts_where_the_encoder_does(folder: Path, tmp_path: Path) -> None:
    place = write_layout(folder, "transformersjs", tmp_path / "js")
    assert AutoTokenizer.from_pretrained(place).model_max_length == 24


@pytest.mark.parametrize(
    ("kinds", "mode", "what"),
    [
        (("Transformer", "Pooling"), "max", "no pooling by the maximum, as"),
        (("Transformer", "Pooling", "Dense"), "mean", "no Dense layers, as"),
        (("Transformer", "Pooling", "Dense"), "max", "by the maximum and no Dense layers, as"),
    ],
)
def test_transformers_js_is_not_given_what_it_would_pool_otherwise(
    kinds: tuple[str, ...], mode: str, what: str, tmp_path: Path
) -> None:
    """Its vectors would differ from those of the run without a word."""
    source = new_folder(tmp_path / "dense", *kinds, mode=mode)
    with pytest.raises(ExportError, match=f"{what} this encoder has: take the layout plain"):
        write_layout(source, "transformersjs", tmp_path / "js")
    assert not (tmp_path / "js").exists()


def test_sentence_transformers(folder: Path, tmp_path: Path) -> None:
    """backend/load.py of 5.7: onnx/model.onnx, or another by its name; hidden states come out."""
    place = write_layout(folder, "sentence-transformers", tmp_path / "st")
    found = {path.relative_to(place).as_posix() for path in place.rglob("*")}
    assert found >= {
        "modules.json", "1_Pooling/config.json", SETTINGS, "sentence_bert_config.json",
        "config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model_quantized.onnx",
    }  # fmt: skip
    assert "model.safetensors" not in found
    config = json.loads((place / "config.json").read_text())
    assert not {"hfprune", "attn_implementation", "_attn_implementation"} & config.keys()
    assert json.loads((place / SETTINGS).read_text())["truncate_dim"] == 12
    for name in ("model.onnx", "model_quantized.onnx"):
        names, states = run(place / "onnx" / name, TEXTS)
        assert (names, states.shape[2]) == (["last_hidden_state"], 32)
        # Pooled by hand they are the embeddings of the file that pools.
        texts = tiny_tokenizer()(
            TEXTS, padding=True, truncation=True, max_length=24, return_tensors="np"
        )
        mask = texts["attention_mask"][:, :, None]
        mean = (states * mask).sum(1) / mask.sum(1)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        want = run(folder / "onnx" / name, TEXTS)[1]
        np.testing.assert_allclose(mean[:, :12], want, atol=1e-5)


def test_sentence_transformers_runs_it(folder: Path, tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    pytest.importorskip("optimum.onnxruntime")
    place = write_layout(folder, "sentence-transformers", tmp_path / "st")
    want = hfprune.load_encoder(folder).encode(TEXTS)
    settings = {"provider": "CPUExecutionProvider"}
    model = st.SentenceTransformer(str(place), backend="onnx", model_kwargs=settings)
    np.testing.assert_allclose(model.encode(TEXTS), want, atol=1e-5)
    settings["file_name"] = "onnx/model_quantized.onnx"
    model = st.SentenceTransformer(str(place), backend="onnx", model_kwargs=settings)
    int8 = [row["embedding"] for row in Predictor(folder)([Row(text) for text in TEXTS])]
    np.testing.assert_allclose(model.encode(TEXTS), int8, atol=1e-5)


def cross_encoder(folder: Path) -> Path:
    model = tiny_model("bert", labels=1)
    model.config.problem_type = "multi_label_classification"
    shrink_(model, random_plan(model))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    modules = [{"idx": 0, "name": "0", "path": "",
                "type": "sentence_transformers.base.modules.transformer.Transformer"}]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    export_onnx(load_saved(str(folder)), tiny_tokenizer(), folder / "onnx")
    return folder


def test_a_cross_encoder_keeps_its_logits(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "reranker")
    place = write_layout(folder, "sentence-transformers", tmp_path / "st")
    assert run(place / "onnx" / "model.onnx", TEXTS)[0] == ["logits"]
    assert (place / "modules.json").read_bytes() == (folder / "modules.json").read_bytes()
    tokens = tiny_model("bert", tokens=True)
    tokens.save_pretrained(tmp_path / "tokens")
    with pytest.raises(ExportError, match="sentence-transformers serves classifiers of texts"):
        write_layout(tmp_path / "tokens", "sentence-transformers", tmp_path / "x")


def test_code_of_an_uneven_encoder(folder: Path, tmp_path: Path) -> None:
    """transformers builds the encoder of it, by the name that a SentenceTransformer looks for."""
    place = write_layout(folder, "remote-code", tmp_path / "code")
    config = json.loads((place / "config.json").read_text())
    assert config["auto_map"] == {"AutoModel": "modeling_pruned.PrunedBertModel"}
    trusted = AutoModel.from_pretrained(place, trust_remote_code=True).eval()
    batch = tiny_tokenizer()(["a good film"], return_tensors="pt")
    own = hfprune.load_encoder(place).model
    np.testing.assert_array_equal(
        trusted(**batch).last_hidden_state.detach(), own(**batch).last_hidden_state.detach()
    )
    assert (place / "modules.json").is_file()
    with pytest.raises(ValueError, match="load_encoder.folder.*or with trust_remote_code"):
        AutoModel.from_pretrained(place)
