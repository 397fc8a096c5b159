"""Weights of classes, against PyTorch and scikit-learn, and in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn.utils.class_weight import compute_class_weight
from tiny import save_tiny_classifier, tiny_model, write_reviews
from transformers import TrainingArguments

from hfprune import HFPruneTrainer, load_recipe
from hfprune.core.errors import DataError
from hfprune.pipeline import run
from hfprune.report.console import Console
from hfprune.training.imbalance import balanced_weights, weighted_loss

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.random.default_rng(0).choice(4, 200, p=[0.7, 0.2, 0.07, 0.03])
    want = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 4, SINGLE), want)
    tokens = np.full((3, 90), -100)
    tokens.flat[: len(labels)] = labels
    np.testing.assert_allclose(balanced_weights(tokens, 4, "token_classification"), want)
    assert balanced_weights(np.array([0, 0]), 3, SINGLE)[1:] == [1.0, 1.0]


def test_balanced_flags_weigh_the_same_on_both_sides() -> None:
    flags = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1.0]])
    assert balanced_weights(flags, 3, MULTI) == [3.0, 1.0, 1.0]


def test_losses_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator)
    labels = torch.tensor([0, 2, 1, 1, 0])
    weights = [0.5, 1.0, 4.0]
    log_p = F.log_softmax(logits, -1)
    want = -sum(weights[y] * log_p[i, y] for i, y in enumerate(labels.tolist())) / 5
    loss = weighted_loss(weights, SINGLE, 3)
    torch.testing.assert_close(loss({"logits": logits}, labels), want)
    # A batch in parts gives the loss of the whole.
    parts = [loss({"logits": logits[s]}, labels[s], 5) for s in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), want)

    flags = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    p = torch.sigmoid(logits)
    wanted = -(torch.tensor(weights) * flags * p.log() + (1 - flags) * (1 - p).log()).mean()
    torch.testing.assert_close(weighted_loss(weights, MULTI, 3)({"logits": logits}, flags), wanted)

    tokens, tags = (
        torch.randn(2, 3, 3, generator=generator),
        torch.tensor([[-100, 2, 0], [1, -100, 0]]),
    )
    q = F.log_softmax(tokens, -1)
    want = -(4 * q[0, 1, 2] + 0.5 * q[0, 2, 0] + q[1, 0, 1] + 0.5 * q[1, 2, 0]) / 4
    found = weighted_loss(weights, "token_classification", 3)({"logits": tokens}, tags)
    torch.testing.assert_close(found, want)


def test_one_weight_a_class() -> None:
    with pytest.raises(DataError, match="lists 2 weights, the data has 3 classes: give one for"):
        weighted_loss([1.0, 2.0], SINGLE, 3)


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    ids = torch.randint(5, 100, (16, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": int(i % 5 == 0)} for i, row in enumerate(ids)]
    states = []
    for batch, steps in ((16, 1), (4, 4)):
        model = tiny_model(
            "bert", labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        trainer = HFPruneTrainer(
            model,
            TrainingArguments(
                str(tmp_path / str(batch)),
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=steps,
                max_steps=2,
                learning_rate=0.1,
                optim="sgd",
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=rows,
            compute_loss_func=weighted_loss([0.6, 2.5], SINGLE, 2),
        )
        trainer.train()
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4)


def test_weights_and_windows_in_a_recipe(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "model")
    write_reviews(tmp_path / "rows.csv", 60)
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    kept = [line for i, line in enumerate(lines) if i == 0 or i % 2 or i % 6 == 0]
    (tmp_path / "rows.csv").write_text("\n".join(kept) + "\n")
    recipe: dict[str, Any] = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "rows.csv"), "max_length": 6, "stride": 1},
        "training": {
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
            "class_weights": "balanced",
            "group_by_length": True,
        },
        "pruning": {"sparsity": 0.3, "min_neurons": 4, "update_every_steps": 2},
        "export": {"quantization": {}},
        "benchmark": {"batch_sizes": [1], "repeats": 2},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = run(load_recipe(tmp_path / "recipe.yaml"), Console(quiet=True))
    assert results is not None
    data = results["data"]
    rare, common = data["class_weights"]
    assert rare > 1 > common
    assert sum(data["samples"].values()) == len(kept) - 1
    assert data["windows"]["train"] > data["samples"]["train"]
    assert data["stride"] == 1
    assert data["truncated"] == {"train": 0, "validation": 0, "test": 0}
    assert results["evaluation"]["samples"] == data["samples"]["test"]
    models = results["evaluation"]["models"]
    assert models["pruned ONNX"]["metrics"] == models["pruned PyTorch"]["metrics"]
