"""Where what a Trainer saved cuts texts: as its tokenizer says, whatever the dense folder does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import tiny_tokenizer
from transformers import AutoTokenizer, DataCollatorWithPadding, TrainingArguments

import hfprune
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.layout import longest_of, read_layout
from tests.api.test_embeddings import sentence_encoder, texts

LENGTH = 8


def dense(folder: Path, modules: bool) -> str:
    """An encoder's folder that cuts at 24 tokens, or says nothing of it."""
    sentence_encoder(folder)
    if not modules:
        (folder / "modules.json").unlink()
        (folder / "sentence_bert_config.json").unlink()
    return str(folder)


def trainer_of(name: str, folder: Path, most: int, *, init: bool = False) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = most
    rows = [dict(tokenizer(text, truncation=True, max_length=LENGTH)) for text in texts(24)]
    model: dict[str, Any] = {"model": hfprune.load_embedder(name)}
    if init:
        model = {"model_init": lambda: hfprune.load_embedder(name)}
    return hfprune.HFPruneTrainer(
        **model, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:8]),
        args=TrainingArguments(
            str(folder), per_device_train_batch_size=8, num_train_epochs=1, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        ),
        processing_class=tokenizer, data_collator=DataCollatorWithPadding(tokenizer),
        pruning={"sparsity": 0.3, "update_every_steps": 1, "end": 0.6},
        teacher=hfprune.load_embedder(name), export={"quantization": None},
    )  # fmt: skip


@pytest.mark.parametrize(("modules", "init"), [(True, False), (False, False), (True, True)])
def test_the_length_of_the_tokenizer_is_kept(modules: bool, init: bool, tmp_path: Path) -> None:
    name = dense(tmp_path / "dense", modules)
    trainer = trainer_of(name, tmp_path / "run", LENGTH, init=init)
    trainer.train()
    trainer.save_model(str(tmp_path / "small"))
    encoder = hfprune.load_encoder(tmp_path / "small")
    assert encoder.max_length == LENGTH
    long = " ".join(texts()[:5])
    prompted = f"good {long}" if modules else long
    batch = tiny_tokenizer()(prompted, truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        want = trainer.model.eval()(**batch).logits[0].numpy()
    np.testing.assert_allclose(encoder.encode(long), want, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "small").model_max_length == LENGTH
    served = trainer.export(tmp_path / "served")
    layout = read_layout(served)
    assert layout is not None
    assert longest_of(layout) == LENGTH, "for servers, which ask no tokenizer"
    assert Predictor(served).max_length == LENGTH
    assert longest_of(hfprune.load_embedder(name).sentence_layout) == (24 if modules else None)


def test_a_longer_tokenizer_changes_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(dense(tmp_path / "dense", True), tmp_path / "run", 64)
    assert not trainer.model.sentence_layout.said
    assert longest_of(trainer.model.sentence_layout) == 24
