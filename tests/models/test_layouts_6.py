"""Folders of sentence-transformers from 5.4 on, with dense layers, and of CrossEncoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import random_plan, save_tiny_classifier, tiny_model, tiny_tokenizer, write_reviews

import hfprune
from hfprune import load_encoder, load_recipe
from hfprune.core.errors import UnsupportedModelError
from hfprune.models.layout import cross_encoder_files, layout_or_note, read_layout
from hfprune.models.sentences import load_embedder, save_encoder
from hfprune.pipeline import run
from hfprune.pruning.surgery import shrink_
from hfprune.report.console import Console
from tests.models.test_composition import TEXTS, pooled, sentence_folder

BASE = "sentence_transformers.base.modules"
NEW = {
    "Transformer": f"{BASE}.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": f"{BASE}.dense.Dense",
    "Normalize": f"{BASE}.normalize.Normalize",
}
# As sentence-transformers 6 writes them.
SETTINGS = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "last_hidden_state"}
    },
    "module_output_name": "token_embeddings",
}  # fmt: skip


def new_folder(
    folder: Path, *kinds: str, mode: Any = "mean", dense: dict[str, Any] | None = None
) -> Path:
    save_tiny_classifier("bert", folder)
    tiny_model("bert").bert.save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps(SETTINGS))
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], 1))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": NEW.get(kind, f"{BASE}.x.{kind}")}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for kind, path in zip(kinds[1:], paths[1:], strict=True):
        (folder / path).mkdir()
        config: dict[str, Any] = {}
        if kind == "Pooling":
            config = {"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": True}
        if kind == "Dense":
            config = {"in_features": 32, "out_features": 8, "bias": True,
                      "activation_function": "torch.nn.modules.activation.Tanh",
                      "module_input_name": "sentence_embedding", "module_output_name": None,
                      "use_residual": False, **(dense or {})}  # fmt: skip
            generator = torch.Generator().manual_seed(0)
            tensors = {"linear.weight": torch.randn(8, 32, generator=generator),
                       "linear.bias": torch.randn(8, generator=generator),
                       "residual.weight": torch.randn(8, 32, generator=generator)}  # fmt: skip
            save_file(tensors, folder / path / "model.safetensors")
        (folder / path / "config.json").write_text(json.dumps(config))
    return folder


def plain(model: Any, mode: str, text: str) -> Any:
    """Without the normalisation and the cut of the other tests."""
    ids = tiny_tokenizer()(text)["input_ids"]
    with torch.no_grad():
        states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    return {"mean": states.mean(0), "cls": states[0], "max": states.max(0)}[mode]


@pytest.mark.parametrize("mode", ["mean", "cls", "max", ["mean"]], ids=str)
def test_the_new_form_is_read(mode: Any, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "e", "Transformer", "Pooling", "Normalize", mode=mode)
    encoder = load_encoder(folder)
    model = tiny_model("bert").bert
    name = mode[0] if isinstance(mode, list) else mode
    want = [plain(model, name, text) for text in TEXTS]
    want = [vector / np.linalg.norm(vector) for vector in want]
    np.testing.assert_allclose(encoder.encode(TEXTS), want, atol=1e-5)
    assert encoder.layout.normalize
    assert encoder.max_length == 64, "the tokenizer's"


@pytest.mark.parametrize("lower", [False, True])
def test_small_letters_where_the_folder_asks_for_them(lower: bool, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "e", "Transformer", "Pooling")
    settings = folder / "sentence_bert_config.json"
    settings.write_text(json.dumps({**SETTINGS, "do_lower_case": lower}))
    texts, read = [text.upper() for text in TEXTS], []
    encoder = load_encoder(folder)
    own = encoder.tokenizer
    encoder.tokenizer = lambda some, **options: read.extend(some) or own(some, **options)
    assert encoder.encode(texts).shape == (len(texts), 32)
    assert read == ([text.lower() for text in texts] if lower else texts)


@pytest.mark.parametrize("residual", [False, True])
def test_dense_layers_are_run(residual: bool, tmp_path: Path) -> None:
    folder = new_folder(
        tmp_path / "e", "Transformer", "Pooling", "Dense", dense={"use_residual": residual}
    )
    tensors = {k: v.numpy() for k, v in load_file(folder / "2_Dense/model.safetensors").items()}
    model = tiny_model("bert").bert
    want = []
    for text in TEXTS:
        vector = plain(model, "mean", text)
        one = np.tanh(tensors["linear.weight"] @ vector + tensors["linear.bias"])
        want.append(one + (tensors["residual.weight"] @ vector if residual else 0))
    found = load_encoder(folder).encode(TEXTS)
    np.testing.assert_allclose(found, want, atol=1e-4)
    assert load_encoder(folder).encode([]).shape == (0, 8)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_dense_layers_in_half_precision_are_run(half: Any, tmp_path: Path) -> None:
    """As sentence-transformers saves them of a model that is loaded so."""
    folder = new_folder(
        tmp_path / "e", "Transformer", "Pooling", "Dense", dense={"use_residual": True}
    )
    want = load_encoder(folder).encode(TEXTS)
    tiny_model("bert").bert.to(half).save_pretrained(folder)
    file = folder / "2_Dense" / "model.safetensors"
    save_file({name: value.to(half) for name, value in load_file(file).items()}, file)
    np.testing.assert_allclose(load_encoder(folder).encode(TEXTS), want, atol=0.1)
    model = load_embedder(str(folder)).to(half)
    batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(model(**batch).logits, want, atol=0.1)


@pytest.mark.parametrize(
    "dense", [{"activation_function": "os.system"}, {"module_input_name": "token_embeddings"}]
)
def test_other_dense_layers_are_refused(dense: dict[str, Any], tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "e", "Transformer", "Pooling", "Dense", dense=dense)
    with pytest.raises(UnsupportedModelError, match="Dense layer with the activation"):
        load_encoder(folder)


def test_what_scales_something_else_is_refused(tmp_path: Path) -> None:
    """A Normalize of version 6 names what it scales; by default that is the embedding."""
    folder = new_folder(tmp_path / "e", "Transformer", "Pooling", "Normalize")
    plain = load_encoder(folder).encode(TEXTS)
    config = folder / "2_Normalize" / "config.json"
    names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    config.write_text(json.dumps(names))
    np.testing.assert_array_equal(load_encoder(folder).encode(TEXTS), plain)
    config.write_text(json.dumps(dict.fromkeys(names, "token_embeddings")))
    for load in (load_encoder, lambda folder: load_embedder(str(folder))):
        with pytest.raises(UnsupportedModelError, match="2_Normalize scales token_embeddings to l"):
            load(folder)


@torch.no_grad()
def test_a_pruned_encoder_keeps_its_form(tmp_path: Path) -> None:
    source = new_folder(tmp_path / "e", "Transformer", "Pooling", "Dense", "Normalize")
    layout = read_layout(source)
    assert layout is not None
    model = tiny_model("bert", seed=4)
    shrink_(model, random_plan(model))
    save_encoder(model, tiny_tokenizer(), layout, tmp_path / "small")
    small = tmp_path / "small"
    for name in ("modules.json", "1_Pooling/config.json", "2_Dense/config.json",
                 "sentence_bert_config.json"):  # fmt: skip
        assert json.loads((small / name).read_text()) == json.loads((source / name).read_text())
    tensors = load_file(small / "2_Dense/model.safetensors")
    vectors = np.array([plain(model.bert, "mean", text) for text in TEXTS])
    want = np.tanh(vectors @ tensors["linear.weight"].numpy().T + tensors["linear.bias"].numpy())
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(load_encoder(small).encode(TEXTS), want, atol=1e-4)


def test_the_old_form_is_written_as_it_came(tmp_path: Path) -> None:
    source = sentence_folder(tmp_path / "e")
    layout = read_layout(source)
    assert layout is not None
    save_encoder(tiny_model("bert"), tiny_tokenizer(), layout, tmp_path / "small")
    written = (tmp_path / "small" / "modules.json").read_text()
    assert json.loads(written) == json.loads((source / "modules.json").read_text())
    assert pooled(tiny_model("bert").bert, "mean_tokens", TEXTS[0]).shape == (32,)


def test_a_cross_encoder_is_a_classifier(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path)
    modules = [{"idx": 0, "name": "0", "path": "", "type": NEW["Transformer"]}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert read_layout(tmp_path) is None
    assert layout_or_note(tmp_path) == (None, None)
    assert hfprune.inspect(tmp_path).architecture == "BertForSequenceClassification"
    assert cross_encoder_files(tmp_path) == {"modules.json": tmp_path / "modules.json"}
    for changed in ({"path": "0_Transformer"}, {"type": "someone.else.Transformer"}):
        (tmp_path / "modules.json").write_text(json.dumps([{**modules[0], **changed}]))
        assert cross_encoder_files(tmp_path) == {}, changed
    assert cross_encoder_files(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("kinds", [("Transformer",), ("Transformer", "Pooling", "LSTM")], ids=str)
def test_what_is_unknown_is_told_before_and_the_classifier_is_finished(
    kinds: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = new_folder(tmp_path / "e", *kinds)
    write_reviews(tmp_path / "rows.csv", 60)
    recipe = {
        "model": {"name_or_path": str(source)},
        "data": {"train_file": str(tmp_path / "rows.csv"), "max_length": 16},
        "training": {"max_steps": 2, "per_device_train_batch_size": 8},
        "pruning": {"sparsity": 0.4, "min_neurons": 4, "update_every_steps": 1},
        "export": {"quantization": None},
        "benchmark": {"batch_sizes": [1], "repeats": 2},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = run(load_recipe(tmp_path / "recipe.yaml"), Console())
    said = " ".join(capsys.readouterr().err.split())
    note = "warning: no sentence encoder will be written, only the classifier"
    assert (note in said) == (len(kinds) > 1)
    if note in said:
        assert said.index(note) < said.index("== data"), "before any work"
    assert results is not None
    assert hfprune.from_pretrained(tmp_path / "out").config.num_labels == 2
    assert not (tmp_path / "out" / "sentence-encoder").exists()
