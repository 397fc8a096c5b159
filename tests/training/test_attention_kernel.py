"""Steps in bfloat16 on a CPU: which attention kernel, and that it is the same attention."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from hfprune import HFPruneTrainer
from hfprune.training.attention import SHORT, quick_attention


class Seen(HFPruneTrainer):
    """Notes whether PyTorch may take its fused kernel."""

    fused: bool | None = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.fused = torch.backends.cuda.flash_sdp_enabled()
        return super().compute_loss(*args, **kwargs)


def step(folder: Path, tokens: int, **settings: Any) -> tuple[Seen, dict[str, torch.Tensor]]:
    """A trainer after one step on a batch of so many tokens, and its gradients."""
    model = tiny_model("bert", labels=2, seed=1, max_position_embeddings=2 * SHORT)
    trainer = Seen(
        model,
        TrainingArguments(str(folder), use_cpu=True, report_to=[], disable_tqdm=True, **settings),
        train_dataset=Dataset.from_dict({"input_ids": [[1]], "labels": [0]}),
        processing_class=tiny_tokenizer(),
    )
    ids = torch.arange(4 * tokens).reshape(4, tokens) % 20
    mask = torch.ones_like(ids)
    mask[0, tokens // 2 :] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(model, batch)
    return trainer, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("tokens", "bf16", "fused"),
    [(SHORT, True, False), (SHORT + 1, True, True), (SHORT, False, True)],
)
def test_short_texts_in_bfloat16_leave_the_fused_kernel(
    tmp_path: Path, tokens: int, bf16: bool, fused: bool
) -> None:
    trainer, _ = step(tmp_path, tokens, bf16=bf16)
    assert trainer.fused is fused
    assert torch.backends.cuda.flash_sdp_enabled()  # and afterwards everything is allowed again


@pytest.mark.parametrize(("longest", "fused"), [(SHORT, False), (SHORT + 1, True)])
def test_of_several_texts_a_row_the_longest_counts(longest: int, fused: bool) -> None:
    """As trainers of sentence-transformers name them."""
    args = SimpleNamespace(bf16=True, device=torch.device("cpu"))
    batch = {
        "sentence_0_input_ids": torch.ones(2, 8, dtype=torch.long),
        "sentence_1_input_ids": torch.ones(2, longest, dtype=torch.long),
    }
    with quick_attention(args, batch):
        assert torch.backends.cuda.flash_sdp_enabled() is fused


def test_the_gradients_are_those_of_float32(tmp_path: Path) -> None:
    _, half = step(tmp_path, 12, bf16=True)
    _, whole = step(tmp_path, 12)
    assert half.keys() == whole.keys()
    for name, gradient in whole.items():
        scale = float(gradient.abs().max()) or 1.0
        assert float((half[name] - gradient).abs().max()) < 0.05 * scale + 1e-4, name
