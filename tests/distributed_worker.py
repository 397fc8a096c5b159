"""Trains a tiny model under ``torch.distributed.run``, or alone; see test_distributed.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import by_length, tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from hfprune import HFPruneTrainer, PruningConfig


def rows(count: int) -> list[dict[str, Any]]:
    ids = torch.randint(5, 100, (count, 10), generator=torch.Generator().manual_seed(0))
    ids[::2, 3] = 7
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": int((row == 7).any())}
        for row in ids
    ]


def uneven(count: int) -> list[dict[str, Any]]:
    """The same rows, cut to lengths from 4 to 10 and as they are before padding."""
    return [
        {name: v if name == "labels" else v[: 4 + index % 7].tolist() for name, v in row.items()}
        for index, row in enumerate(rows(count))
    ]


def main(folder: Path, score: str, grouped: bool) -> None:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    args = TrainingArguments(
        str(folder / "trainer"),
        num_train_epochs=3,
        optim="sgd",
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **by_length(grouped),
    )
    # Half the batch for each of two processes.
    args.per_device_train_batch_size = 8 // args.world_size
    trainer = HFPruneTrainer(
        tiny_model("bert", labels=2, **quiet),
        args,
        train_dataset=uneven(64) if grouped else rows(64),
        eval_dataset=rows(20),
        pruning=PruningConfig(sparsity=0.6, score=score, update_every_steps=2, min_neurons=4),
        # The hidden states' loss is a mean over tokens, which uneven rows weigh by their batch.
        teacher=None if grouped else tiny_model("bert", labels=2, seed=3, **quiet),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    evaluation = trainer.predict(rows(21))
    if trainer.plan is None:
        raise SystemExit("no plan")
    if args.process_index == 0:
        save_file(trainer.model.state_dict(), folder / "model.safetensors")
        report = {
            "world": args.world_size,
            "plan": trainer.plan.to_dict(),
            "predictions": len(evaluation.predictions),
        }
        (folder / "report.json").write_text(json.dumps(report))
    if args.world_size > 1:  # a process that just ends can abort in gloo's threads
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "grouped")
