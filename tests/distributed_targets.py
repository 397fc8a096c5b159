"""Trains a tiny model to a target by stages, in one process or several; see test_distributed.py."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from distributed_worker import rows
from safetensors.torch import save_file
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from hfprune import HFPruneTrainer
from hfprune.core.results import read_results
from hfprune.models.embedding import as_embedder_
from hfprune.models.layout import usual_layout
from hfprune.pruning.cost import LatencyTable

TABLE = LatencyTable(
    batch_size=1,
    sequence_length=16,
    threads=1,
    baseline_ms=10.0,
    fixed_ms=0.4,
    attention=((0, 0.0), (1, 0.4), (4, 1.0)),
    ffn=((0, 0.0), (8, 0.2), (48, 1.0)),
)
SEARCHED = {"method": "reconstruction", "search_rounds": 2, "scoring_samples": 16}
TARGETS: dict[str, dict[str, Any]] = {
    "speedup": {"speedup": 2.0, "update_every_steps": 2},
    "reconstruction": {"sparsity": 0.5, **SEARCHED},
    "fast reconstruction": {"speedup": 2.0, **SEARCHED},
    "embeddings": {"sparsity": 0.5, **SEARCHED},
    "embeddings by gates": {"sparsity": 0.5, "update_every_steps": 2, "min_neurons": 4},
    "reranking": {"sparsity": 0.5, **SEARCHED},
    "reranking by gates": {"sparsity": 0.5, "update_every_steps": 2, "min_neurons": 4},
    "family": {"speedup": [1.5, 3.0], "update_every_steps": 2},
}


def as_pairs(some: list[dict[str, Any]]) -> Dataset:
    """Rows as texts of queries, four of each, with a relevance."""
    return Dataset.from_list(
        [
            {
                "input_ids": row["input_ids"].tolist(),
                "attention_mask": row["attention_mask"].tolist(),
                "labels": [float(row["labels"])],
                "query_row": number // 4,
            }
            for number, row in enumerate(some)
        ]
    )


def main(folder: Path, target: str) -> None:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    args = TrainingArguments(
        str(folder / "trainer"),
        num_train_epochs=2,
        optim="sgd",
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    args.per_device_train_batch_size = 8 // args.world_size  # half the batch for each of two
    model = tiny_model("bert", labels=2, **quiet)
    train, held_out, more = rows(32), rows(16), {}
    if target.startswith("reranking"):  # four texts a query, which batches of four keep whole
        model = tiny_model("bert", labels=1, **quiet)
        model.config.problem_type = "multi_label_classification"
        train, held_out = as_pairs(train), as_pairs(held_out)
        more = {
            "teacher": copy.deepcopy(model),
            "distillation": {"ranking_loss": "margin_mse", "hidden_weight": 0.0},
        }
    if target.startswith(
        "embeddings"
    ):  # of each text alone: a batch's similarities are a process's own
        model = as_embedder_(model.base_model, usual_layout(".", "mean", True, 32))
        train, held_out = (
            [{name: row[name] for name in row if name != "labels"} for row in some]
            for some in (train, held_out)
        )
        more = {
            "teacher": copy.deepcopy(model),
            "distillation": {"similarity_weight": 0.0, "hidden_weight": 0.0},
        }
    trainer = HFPruneTrainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=held_out,
        **more,
        processing_class=tiny_tokenizer(),
        pruning=TARGETS[target],
        latency=TABLE,
        benchmark={"batch_sizes": [1], "sequence_lengths": [8], "repeats": 1, "warmup": 0},
        export={"quantization": None},
    )
    trainer.train()
    asked = rows(21)
    if target.startswith("reranking"):
        asked = as_pairs(asked)
    if target.startswith("embeddings"):
        asked = [{name: row[name] for name in row if name != "labels"} for row in asked]
    predictions = trainer.predict(asked).predictions
    # Asked of all processes; the main one writes.
    processes = read_results(trainer.report()).processes if target == "family" else args.world_size
    if trainer.plan is None:
        raise SystemExit("no plan")
    if args.process_index == 0:
        save_file(trainer.model.state_dict(), folder / "model.safetensors")
        report = {
            "world": processes,
            "plan": trainer.plan.to_dict(),
            "predictions": len(predictions),
        }
        (folder / "report.json").write_text(json.dumps(report))
    if args.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
