"""One stage on many rows, alone in a process; prints its peak memory as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from scripts.synthetic import write_model, write_rows


def rows(folder: Path) -> dict[str, Any]:
    """100,000 rows of 1,000 classes: read, checked, split, tokenized."""
    from transformers import AutoTokenizer

    from hfprune.data.loading import load_task_data
    from hfprune.recipe.sections.data import DataConfig

    write_model(folder / "m", layers=1, width=8, inner=8, heads=1)
    file = write_rows(folder / "rows.csv", 100_000, words=30, labels=1_000)
    config = DataConfig(train_file=str(file), max_length=64, test_fraction=0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "m")
    data = load_task_data(config, tokenizer, "single_label_classification")
    return {"labels": data.num_labels, "rows": sum(map(data.size, ("train", "validation", "test")))}


def million(folder: Path) -> dict[str, Any]:
    """A million short rows: read, split, tokenized, and the first steps with a teacher."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainingArguments,
    )

    from hfprune import HFPruneTrainer
    from hfprune.data.loading import load_task_data
    from hfprune.recipe.sections.data import DataConfig

    write_model(folder / "m", layers=2, width=64, inner=128, heads=2, vocabulary=8_000)
    file = write_rows(folder / "rows.csv", 1_000_000, words=8, labels=4, vocabulary=7_900)
    config = DataConfig(
        train_file=str(file), max_length=32, test_fraction=0.01, validation_fraction=0.01
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "m")
    data = load_task_data(config, tokenizer, "single_label_classification")
    small, dense = (
        AutoModelForSequenceClassification.from_pretrained(folder / "m", num_labels=4)
        for _ in range(2)
    )
    trainer = HFPruneTrainer(
        small,
        TrainingArguments(
            str(folder / "out"), max_steps=3, per_device_train_batch_size=32, use_cpu=True,
            report_to=[], save_strategy="no", eval_strategy="no", disable_tqdm=True,
        ),
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=tokenizer,
        teacher=dense,
    )  # fmt: skip
    return {"rows": len(data.train), "steps": trainer.train().global_step}


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = {"rows": rows, "million": million}[name](folder)
    found["seconds"] = time.process_time() - start
    found["added"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
