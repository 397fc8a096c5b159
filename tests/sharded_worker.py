"""Trains a pruned model under FSDP2, or alone; or carries out a recipe. See test_sharded.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from distributed_worker import rows
from safetensors.torch import save_file
from sharding_here import shard_on_cpus
from tiny import random_plan, tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from hfprune import HFPruneTrainer
from hfprune.cli import main as command_line
from hfprune.pruning.surgery import shrink_
from hfprune.training.sharding import is_sharded


class Seen(HFPruneTrainer):
    """Tells whether steps were of a sharded model."""

    sharded = False

    def training_step(
        self, model: torch.nn.Module, *args: object, **kwargs: object
    ) -> torch.Tensor:
        self.sharded = is_sharded(model)
        return super().training_step(model, *args, **kwargs)


def train(folder: Path, resume: bool) -> None:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_model("bert", labels=2, **quiet)
    shrink_(model, random_plan(model))  # uneven layers, odd sizes
    args = TrainingArguments(
        str(folder / "trainer"),
        num_train_epochs=3,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        disable_tqdm=True,
    )
    args.per_device_train_batch_size = 8 // args.world_size
    trainer = Seen(
        model,
        args,
        train_dataset=rows(64),
        eval_dataset=rows(20),
        teacher=tiny_model("bert", labels=2, seed=3, **quiet),
        processing_class=tiny_tokenizer(),
    )
    trainer.train(resume_from_checkpoint=resume)
    found = trainer.evaluate()
    predictions = trainer.predict(rows(21)).predictions
    trainer.save_model(str(folder / "saved"))
    if args.process_index == 0:
        save_file(trainer.model.state_dict(), folder / "model.safetensors")
        report = {
            "world": args.world_size,
            "sharded": trainer.sharded,
            "losses": [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e],
            "loss": found["eval_loss"],
            "predictions": len(predictions),
        }
        (folder / "report.json").write_text(json.dumps(report))


def main(what: str, place: str) -> int:
    if "ACCELERATE_USE_FSDP" in os.environ:
        shard_on_cpus()
    if what == "recipe":
        sys.argv[1:] = ["prune", place]
        code = command_line()
    else:
        train(Path(place), resume=what == "resume")
        code = 0
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
