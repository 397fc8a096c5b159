"""What a Trainer saves of a reranker that came from a CrossEncoder's folder."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    TrainingArguments,
)

import hfprune
from hfprune.models.cross_encoder import is_cross_encoder

IDENTITY = "torch.nn.modules.linear.Identity"


def cross_encoder(folder: Path, *, labels: int = 1) -> Path:
    """As ``CrossEncoder.save_pretrained`` of sentence-transformers 6 leaves it."""
    tiny_model("bert", labels=labels).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (folder / "modules.json").write_text(json.dumps(modules))
    lengths = {"transformer_task": "sequence-classification", "max_seq_length": 48}
    lengths["modality_config"] = {"text": {"method": "forward", "method_output_name": "logits"}}
    lengths["module_output_name"] = "scores"
    (folder / "sentence_bert_config.json").write_text(json.dumps(lengths))
    said = {"model_type": "CrossEncoder", "activation_fn": IDENTITY, "prompts": {}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    return folder


def save(source: Path, folder: Path, **config: Any) -> None:
    """Train a step with gates, and save."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 16
    texts = [("good film", "a good plot"), ("dull film", "a very weak plot")] * 4
    count = config.get("num_labels", 1)
    rows = [dict(tokenizer(*pair)) | {"labels": n % 2 if count > 1 else float(n % 2)}
            for n, pair in enumerate(texts)]  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(
        source, ignore_mismatched_sizes=True, **config
    )
    trainer = hfprune.HFPruneTrainer(
        model, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        args=TrainingArguments(
            str(folder / "run"), per_device_train_batch_size=4, num_train_epochs=1, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        pruning={"sparsity": 0.3, "update_every_steps": 1, "end": 0.6},
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(folder / "small"))


def test_a_reranker_keeps_its_activation(tmp_path: Path) -> None:
    """By which CrossEncoder makes scores of logits; without it, it took the sigmoid."""
    source = cross_encoder(tmp_path / "dense")
    save(source, tmp_path)
    small = tmp_path / "small"
    assert is_cross_encoder(small)
    said = json.loads((small / "config_sentence_transformers.json").read_text())
    assert said["activation_fn"] == IDENTITY
    lengths = json.loads((small / "sentence_bert_config.json").read_text())
    assert lengths["max_seq_length"] == 16, "as it was trained"
    if find_spec("sentence_transformers"):
        from sentence_transformers import CrossEncoder

        loaded = hfprune.load_as(CrossEncoder, small)
        assert type(loaded.activation_fn).__name__ == "Identity"
        assert loaded.max_seq_length == 16


@pytest.mark.parametrize("change", ["labels", "plain"])
def test_no_other_model_becomes_a_cross_encoder(tmp_path: Path, change: str) -> None:
    """One whose head is exchanged, or that came from a folder of transformers alone."""
    source = cross_encoder(tmp_path / "dense")
    if change == "plain":
        (source / "modules.json").unlink()
    save(source, tmp_path, **({"num_labels": 2} if change == "labels" else {}))
    small = tmp_path / "small"
    assert not is_cross_encoder(small)
    for name in ("modules", "sentence_bert_config", "config_sentence_transformers"):
        assert not (small / f"{name}.json").exists()
