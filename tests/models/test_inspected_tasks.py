"""What inspection says that a model gives: sentence encoders, rerankers and bare encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from tiny import save_tiny_classifier, tiny_model, tiny_tokenizer

from hfprune.models.inspection import inspect, tables
from hfprune.models.sentences import load_embedder


def shown(found: Any) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables(found):
        console.print(table)
    return console.export_text()


def encoder(folder: Path, *kinds: str) -> Path:
    """As ``SentenceTransformer.save_pretrained`` leaves it."""
    tiny_model("bert").base_model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    modules = []
    for number, kind in enumerate(("Transformer", "Pooling", *kinds)):
        path = "" if number == 0 else f"{number}_{kind}"
        (folder / path).mkdir(exist_ok=True)
        modules.append({"idx": number, "name": str(number), "path": path,
                        "type": f"sentence_transformers.models.{kind}"})  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return folder


def test_a_sentence_encoder_says_how_it_pools(tmp_path: Path) -> None:
    place = encoder(tmp_path / "encoder", "Normalize")
    found = inspect(place)
    assert (found.task, found.predicts) == ("feature-extraction", "sentence_embedding")
    assert (found.pooling, found.normalize, found.embedding_size) == ("cls", True, 32)
    assert found.labels == ()
    text = shown(found)
    assert "BertModel of bert, sentence embedding" in text
    assert "32 numbers, cls pooling, scaled to length 1" in text
    assert "LABEL_0" not in text
    assert json.loads(json.dumps(found.to_dict()))["pooling"] == "cls"
    in_memory = inspect(load_embedder(str(place)))
    assert (in_memory.predicts, in_memory.pooling) == ("sentence_embedding", "cls")
    plain = inspect(encoder(tmp_path / "plain"))
    assert plain.normalize is False
    assert "32 numbers, cls pooling " in shown(plain)


def test_a_bare_encoder_says_that_it_has_no_head(tmp_path: Path) -> None:
    tiny_model("bert").base_model.save_pretrained(tmp_path)
    found = inspect(tmp_path)
    assert (found.task, found.predicts, found.labels) == ("feature-extraction", None, ())
    assert "BertModel of bert, an encoder without a head" in shown(found)


def test_a_cross_encoder_ranks(tmp_path: Path) -> None:
    """By the mark in its config, by its modules, or as hfprune leaves a reranker."""
    for name, change in (("marked", {"sentence_transformers": {"version": "5.1.0"}}),
                         ("old", {"sbert_ce_default_activation_function": "Identity"}),
                         ("listed", {}),
                         ("ours", {"problem_type": "multi_label_classification",
                                   "id2label": {"0": "LABEL_0"}})):  # fmt: skip
        place = tmp_path / name
        save_tiny_classifier("bert", place, labels=1)
        config = json.loads((place / "config.json").read_text()) | change
        (place / "config.json").write_text(json.dumps(config))
        if name == "listed":
            kind = "sentence_transformers.base.modules.transformer.Transformer"
            modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
            (place / "modules.json").write_text(json.dumps(modules))
        found = inspect(place)
        assert (found.task, found.predicts) == ("text-classification", "reranking"), name
        assert found.labels == ()
        assert "BertForSequenceClassification of bert, reranking" in shown(found)
    save_tiny_classifier("bert", tmp_path / "number", labels=1)
    assert inspect(tmp_path / "number").predicts == "regression"
    save_tiny_classifier("bert", tmp_path / "classes", labels=2)
    assert inspect(tmp_path / "classes").predicts == "single_label_classification"
