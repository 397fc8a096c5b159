"""The task that a Trainer's files and reports are of, where no config says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny import tiny_batch, tiny_model, tiny_tokenizer
from transformers import DataCollatorWithPadding, TrainingArguments

import hfprune
from hfprune.api.about import contradicts, in_task_of


def trained(folder: Path, labels: list[list[float]], teacher: Any, **more: Any) -> Any:
    """A model whose config names no problem, pruned; ``query_row`` in rows of one label."""
    count = len(labels[0])
    columns: dict[str, Any] = {"labels": labels}
    if count == 1:
        columns["query_row"] = [n // 4 for n in range(16)]
    batch = tiny_batch(16, 9, padded=False)
    data = Dataset.from_dict({k: v.tolist() for k, v in batch.items()} | columns)
    tokenizer = tiny_tokenizer()
    trainer = hfprune.HFPruneTrainer(
        tiny_model("bert", labels=count),
        TrainingArguments(
            str(folder), per_device_train_batch_size=8, num_train_epochs=1, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        ),
        DataCollatorWithPadding(tokenizer), data, data, tokenizer,
        pruning={"sparsity": 0.3, "update_every_steps": 1}, teacher=teacher,
        export={"quantization": None}, benchmark={"repeats": 1, "warmup": 0}, **more,
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("loss", [None, "listwise", "margin_mse"])
def test_a_reranker_is_reported_as_one(loss: str | None, tmp_path: Path) -> None:
    """Its teacher lies in a folder that says nothing of ranking."""
    tiny_model("bert", labels=1).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    more = {} if loss is None else {"distillation": {"ranking_loss": loss}}
    labels = [[float(n % 4 == 0)] for n in range(16)]
    trainer = trained(tmp_path / "run", labels, str(tmp_path / "teacher"), **more)
    assert (trainer.export(tmp_path / "served") / "model.onnx").is_file()
    found = json.loads((trainer.report() / "metrics.json").read_text())
    assert found["task"] == "reranking"
    assert "ndcg_at_10" in found["evaluation"]["models"]["dense PyTorch"]["metrics"]


def test_what_labels_say_holds_for_the_dense_model_too(tmp_path: Path) -> None:
    teacher = tiny_model("bert", labels=3)
    labels = [[float(n % 2), 1.0, float(n % 3 == 0)] for n in range(16)]
    trainer = trained(tmp_path / "run", labels, teacher)
    found = json.loads((trainer.report() / "metrics.json").read_text())
    assert found["task"] == "multi_label_classification"
    assert teacher.config.problem_type is None, "a user's module is left as it is"


def test_a_teacher_of_another_problem_is_not_the_dense_model() -> None:
    model, teacher = (tiny_model("bert", labels=1) for _ in range(2))
    assert not contradicts(teacher, model)
    model.config.problem_type = "multi_label_classification"
    assert not contradicts(teacher, model)
    assert in_task_of(teacher, model).config.problem_type == "multi_label_classification"
    teacher.config.problem_type = "regression"
    assert contradicts(teacher, model)
    assert in_task_of(teacher, model) is teacher
