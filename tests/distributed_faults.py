"""Trains under ``torch.distributed.run`` where one process goes wrong; see test_distributed.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from distributed_worker import rows
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from hfprune import HFPruneTrainer
from hfprune.core.errors import NotFiniteError


class Odd(HFPruneTrainer):
    """In the second process the third step has no finite loss, or gradients that are none."""

    what = "loss"
    steps = 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.steps += 1
        return super().training_step(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        odd = self.args.process_index == 1 and self.steps == 3
        if not odd:
            return loss
        # A loss of zero, whose gradient is no number.
        return loss * float("nan") if self.what == "loss" else torch.sqrt(loss * 0.0)


def main(folder: Path, what: str) -> None:
    args = TrainingArguments(
        str(folder / "trainer"), max_steps=5, per_device_train_batch_size=4, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = tiny_model("bert", labels=2)
    trainer = Odd(
        model, args, train_dataset=rows(64), processing_class=tiny_tokenizer(), careful=True
    )
    trainer.what = what
    told = "nothing"
    try:
        trainer.train()
    except NotFiniteError as error:
        told = str(error)
    # That nobody waits for the other shows when both do something together once more.
    whole = trainer.accelerator.reduce(torch.ones(1))
    report = {"told": told, "steps": trainer.steps, "processes": float(whole)}
    (folder / f"{args.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
