"""Encoders as AutoModel gives them, where embeddings or labels are wanted: what to give instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import save_tiny_classifier, tiny_batch, tiny_model, tiny_tokenizer
from transformers import AutoModel, DataCollatorWithPadding, TrainingArguments

import hfprune
from hfprune.core.errors import CheckpointError, TrainingError
from hfprune.deploy.evaluation import evaluate


@pytest.fixture
def bare(tmp_path: Path) -> str:
    folder = tmp_path / "bare"
    tiny_model("bert").base_model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def options(folder: Path, **columns: Any) -> dict[str, Any]:
    tokenizer = tiny_tokenizer()
    rows = {k: v.tolist() for k, v in tiny_batch(8, 9, padded=False).items()}
    return {
        "args": TrainingArguments(
            str(folder), per_device_train_batch_size=8, num_train_epochs=1, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        ),
        "train_dataset": Dataset.from_dict(rows | columns),
        "processing_class": tokenizer, "data_collator": DataCollatorWithPadding(tokenizer),
    }  # fmt: skip


def test_a_trainer_is_told_to_take_embedders(bare: str, tmp_path: Path) -> None:
    given = options(tmp_path)
    said = "the model is a BertModel, an encoder without a head.*hfprune.load_embedder.folder, "
    for teacher in (bare, AutoModel.from_pretrained(bare), None):
        with pytest.raises(TrainingError, match=said):
            hfprune.HFPruneTrainer(
                AutoModel.from_pretrained(bare), teacher=teacher, pruning={"sparsity": 0.3}, **given
            )
    with pytest.raises(TrainingError, match="the teacher is a BertModel, an encoder without"):
        hfprune.HFPruneTrainer(
            hfprune.load_embedder(bare), teacher=AutoModel.from_pretrained(bare), **given
        )


def test_a_loss_of_ones_own_may_train_it(bare: str, tmp_path: Path) -> None:
    class Own(hfprune.HFPruneTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            return model(**inputs).last_hidden_state.square().mean()

    trainer = Own(AutoModel.from_pretrained(bare), pruning={"sparsity": 0.3}, **options(tmp_path))
    trainer.train()
    dense = AutoModel.from_pretrained(bare)
    assert trainer.model.num_parameters() < dense.num_parameters()


def test_what_it_is_loaded_with_is_named(bare: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\nit was good\n")
    with pytest.raises(CheckpointError, match="embeddings are measured against those of the dense"):
        evaluate(bare, [tmp_path / "rows.csv"])
    with pytest.raises(CheckpointError, match="load_embedder.folder, pooling='mean'.*a classifier"):
        hfprune.load_encoder(bare)
    save_tiny_classifier("bert", tmp_path / "classifier")
    with pytest.raises(CheckpointError, match="with hfprune.from_pretrained or transformers"):
        hfprune.load_encoder(tmp_path / "classifier")
    # What the messages say to do.
    hfprune.load_embedder(bare, pooling="mean").save_pretrained(tmp_path / "pooled")
    tiny_tokenizer().save_pretrained(tmp_path / "pooled")
    vector = hfprune.load_encoder(tmp_path / "pooled").encode("it was good")
    batch = tiny_tokenizer()("it was good", return_tensors="pt")
    with torch.no_grad():
        want = AutoModel.from_pretrained(bare)(**batch).last_hidden_state[0].mean(0)
    torch.testing.assert_close(torch.from_numpy(vector), want)
