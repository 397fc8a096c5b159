"""Models made of parts: PEFT adapters, and encoders in the layout of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import (
    random_plan,
    save_tiny_classifier,
    tiny_model,
    tiny_tokenizer,
    write_reviews,
)
from torch import nn
from transformers import AutoModel, TrainingArguments

import hfprune
from hfprune import HFPruneTrainer, PruningConfig, load_encoder, load_recipe
from hfprune.core.errors import CheckpointError, DataError, MissingExtraError, UnsupportedModelError
from hfprune.models.adapters import base_of_adapter, check_adapter, load_merged
from hfprune.models.folders import model_folder
from hfprune.models.sentences import read_layout, save_encoder
from hfprune.pipeline import run
from hfprune.pruning.surgery import shrink_
from hfprune.report.console import Console

TEXTS = ["good fine film", "a bad dull story", "the plot"]


# -- PEFT -------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """As a LoRA layer stands in a model: around the projection."""

    __module__ = "peft.tuners.lora.layer"

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer


def test_a_model_with_adapters_is_refused_everywhere(tmp_path: Path) -> None:
    model = tiny_model("bert")
    attention = model.bert.encoder.layer[0].attention.self
    attention.query = Wrapped(attention.query)
    words = r"holds PEFT adapters.*merge them first: model = model.merge_and_unload\(\)"
    with pytest.raises(UnsupportedModelError, match=words):
        HFPruneTrainer(
            model,
            TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]),
            pruning=PruningConfig(sparsity=0.5),
        )
    with pytest.raises(UnsupportedModelError, match=words):
        hfprune.inspect(model)


def adapter_folder(folder: Path, base: str) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_without_peft_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfprune.models.adapters.find_spec", lambda name: None)
    adapter = adapter_folder(tmp_path / "adapter", "org/base")
    with pytest.raises(MissingExtraError, match=r"holds a PEFT adapter.*merge_and_unload\(\)"):
        check_adapter(adapter)
    write_reviews(tmp_path / "rows.csv", 40)
    recipe = {
        "model": {"name_or_path": str(adapter)},
        "data": {"train_file": str(tmp_path / "rows.csv")},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(MissingExtraError, match="Install peft, and hfprune merges it"):
        run(load_recipe(tmp_path / "recipe.yaml"), Console(quiet=True))
    assert not (tmp_path / "out.work").exists()
    with pytest.raises(MissingExtraError, match="not a whole model"):
        hfprune.inspect(adapter)


def test_an_adapter_must_name_its_base(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "adapter", "org/base")
    assert base_of_adapter(folder) == "org/base"
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapter_config.json names no base model"):
        base_of_adapter(folder)


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    save_tiny_classifier("bert", tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False
    )
    torch.manual_seed(0)
    adapted = peft.get_peft_model(base, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = adapted(**batch).logits
    with pytest.raises(UnsupportedModelError, match="holds PEFT adapters"):
        hfprune.inspect(adapted)
    merged, missing = load_merged(tmp_path / "adapter", AutoModelForSequenceClassification)
    assert missing == ()
    merged.eval()
    assert type(merged).__name__ == "BertForSequenceClassification"
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, want, atol=1e-5, rtol=0)
        plan = random_plan(merged)
        assert shrink_(merged, plan)(**batch).logits.shape == want.shape


# -- sentence encoders -------------------------------------------------------------------------


def sentence_folder(folder: Path, *, below: str = "", mode: str = "mean_tokens") -> Path:
    """As sentence-transformers writes it: ``below`` is the folder of the transformer."""
    model = tiny_model("bert").bert
    (folder / below).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / below)
    tiny_tokenizer().save_pretrained(folder / below)
    (folder / below / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    (folder / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": 32,
        **{
            f"pooling_mode_{name}": name == mode
            for name in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        },
        "include_prompt": True,
    }
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    kinds = (("Transformer", below), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "cosine"}')
    return folder


@torch.no_grad()
def pooled(model: Any, mode: str, text: str) -> np.ndarray[Any, Any]:
    """The embedding of one text, without padding, worked out plainly."""
    ids = tiny_tokenizer()(text)["input_ids"]
    ids = ids if len(ids) <= 6 else [*ids[:5], ids[-1]]
    states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    vector = {
        "mean_tokens": states.sum(0) / len(states),
        "cls_token": states[0],
        "max_tokens": states.max(0),
    }[mode]
    return vector / np.sqrt((vector**2).sum())


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token", "max_tokens"])
@pytest.mark.parametrize("below", ["", "0_Transformer"])
def test_embeddings_are_those_of_plain_pooling(below: str, mode: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "encoder", below=below, mode=mode)
    assert model_folder(str(folder)) == (str(folder / below) if below else str(folder))
    encoder = load_encoder(folder)
    model = AutoModel.from_pretrained(folder / below).eval()
    texts = [*TEXTS, "the plot was very very very dull but it was fine"]
    found = encoder.encode(texts, batch_size=3)
    assert found.shape == (4, 32)
    np.testing.assert_allclose(found, [pooled(model, mode, t) for t in texts], atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)


def test_a_pruned_encoder_is_saved_and_loaded_as_one(tmp_path: Path) -> None:
    source = sentence_folder(tmp_path / "encoder", below="0_Transformer")
    layout = read_layout(source)
    assert layout is not None
    model = tiny_model("bert", seed=4)
    shrink_(model, random_plan(model))
    save_encoder(model, tiny_tokenizer(), layout, tmp_path / "small")
    names = {p.relative_to(tmp_path / "small").as_posix() for p in (tmp_path / "small").rglob("*")}
    assert names >= {
        "modules.json",
        "1_Pooling/config.json",
        "2_Normalize",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (tmp_path / "small/1_Pooling/config.json").read_text() == json.dumps(
        json.loads((source / "1_Pooling/config.json").read_text()), indent=2
    ) + "\n"
    config = json.loads((tmp_path / "small/config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    encoder = load_encoder(tmp_path / "small")
    found = encoder.encode(TEXTS)
    want = [pooled(model.bert, "mean_tokens", text) for text in TEXTS]
    np.testing.assert_allclose(found, want, atol=1e-5)
    with pytest.raises(ValueError, match=r"sentence encoder with hfprune.load_encoder\(folder\)"):
        AutoModel.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"modules.json": "[]"}, UnsupportedModelError, r"lists the modules \[\]"),
        ({"modules.json": "{"}, CheckpointError, "modules.json cannot be read"),
        ({"modules.json": "[1]"}, CheckpointError, "lists no modules"),
        ({"1_Pooling/config.json": "{}"}, UnsupportedModelError, "expected exactly one of"),
        (
            {"1_Pooling/config.json": '{"pooling_mode_mean_sqrt_len_tokens": true}'},
            UnsupportedModelError,
            r"pooling by \['pooling_mode_mean_sqrt_len_tokens'\]; expected exactly one of",
        ),
    ],
)
def test_layouts_that_are_refused(
    change: dict[str, str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = sentence_folder(tmp_path / "encoder")
    for name, text in change.items():
        (folder / name).write_text(text)
    with pytest.raises(error, match=message):
        load_encoder(folder)


def test_what_is_no_sentence_encoder(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    assert read_layout(tmp_path / "model") is None
    with pytest.raises(CheckpointError, match=r"holds no modules.json that says how to pool"):
        load_encoder(tmp_path / "model")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/modules.json").write_text("3")
    with pytest.raises(DataError, match="does not name the modules of a sentence encoder"):
        model_folder(str(tmp_path / "odd"))


def test_a_sentence_encoder_goes_through_a_classifiers_recipe(tmp_path: Path) -> None:
    source = sentence_folder(tmp_path / "encoder", below="0_Transformer")
    write_reviews(tmp_path / "rows.csv", 60)
    recipe = {
        "model": {"name_or_path": str(source)},
        "data": {"train_file": str(tmp_path / "rows.csv"), "max_length": 16},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8},
        "pruning": {"sparsity": 0.4, "min_neurons": 4, "update_every_steps": 2},
        "export": {"quantization": {}},
        "benchmark": {"batch_sizes": [1], "repeats": 2},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(load_recipe(tmp_path / "recipe.yaml"), Console(quiet=True))
    encoder = load_encoder(tmp_path / "out/sentence-encoder")
    classifier = hfprune.from_pretrained(tmp_path / "out")
    assert encoder.model.config.hfprune == classifier.config.hfprune
    want = [pooled(classifier.bert, "mean_tokens", text) for text in TEXTS]
    np.testing.assert_allclose(encoder.encode(TEXTS), want, atol=1e-5)
    shutil.rmtree(tmp_path / "out")
