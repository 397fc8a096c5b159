"""What Trainer promises, each tried with Trainer, without a target, and while something is pruned.

Without a target the numbers are Trainer's, to the last bit. With one it works, and the model ends
at the sizes of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import made_up_optuna
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import by_length, tiny_model, tiny_tokenizer
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import hfprune
from hfprune import HFPruneTrainer, PruningConfig
from hfprune.families import model_sizes
from hfprune.models.checkpoint import WEIGHTS_NAME

PRUNING = PruningConfig(sparsity=0.5, min_neurons=4, update_every_steps=2, end=0.4)
Numbers = dict[str, Any]
Promise = Callable[..., Numbers]
PROMISES: list[Promise] = []


def promise(function: Promise) -> Promise:
    PROMISES.append(function)
    return function


def rows(count: int = 40, seed: int = 0) -> datasets.Dataset:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 12, (count,), generator=generator).tolist()
    ids = [torch.randint(5, 100, (n,), generator=generator).tolist() for n in lengths]
    return datasets.Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": [[1] * n for n in lengths],
            "labels": [int(7 in row or row[0] > 50) for row in ids],
            "note": ["is dropped"] * count,
        }
    )


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def trainer_of(folder: Path, cls: Any, own: dict[str, Any], **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 2,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        **changes.pop("settings", {}),
    }
    given: dict[str, Any] = {
        "model": tiny_model("bert", labels=2, layers=2),
        "train_dataset": rows(),
        "eval_dataset": rows(12, seed=1),
        "processing_class": tiny_tokenizer(),
        "compute_metrics": accuracy,
        **changes,
    }
    if "model_init" in given:
        del given["model"]
    return cls(args=TrainingArguments(str(folder), **settings), **given, **own)


def numbers(trainer: Any) -> Numbers:
    """All that a training ends with, but for times."""
    logged = [
        {k: v for k, v in entry.items() if "runtime" not in k and "per_second" not in k}
        for entry in trainer.state.log_history
    ]
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return {"step": trainer.state.global_step, "log": logged, "weights": weights}


def run(folder: Path, cls: Any, own: dict[str, Any], **changes: Any) -> Numbers:
    trainer = trainer_of(folder, cls, own, **changes)
    trainer.train()
    check_sizes(trainer)
    return numbers(trainer)


def check_sizes(trainer: Any) -> None:
    plan = getattr(trainer, "plan", None)
    if plan is not None:
        # Layers in which nothing is left are gone once the model is finished.
        left = tuple(size for size in plan.sizes() if any(size))
        assert model_sizes(trainer.model) in (plan.sizes(), left)
        assert plan.sizes() != plan.totals()


@promise
def plain(folder: Path, cls: Any, own: Any) -> Numbers:
    return run(folder, cls, own)


@promise
def accumulation(folder: Path, cls: Any, own: Any) -> Numbers:
    """40 rows in batches of 6, 4 of them a step: the last step of an epoch has fewer."""
    settings = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 6}
    return run(folder, cls, own, settings={**settings, "num_train_epochs": 4})


@promise
def resume(folder: Path, cls: Any, own: Any) -> Numbers:
    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 7:
                raise KeyboardInterrupt

    settings = {"save_strategy": "steps", "save_steps": 7}
    with pytest.raises(KeyboardInterrupt):
        trainer_of(folder, cls, own, settings=settings, callbacks=[Stop()]).train()
    resumed = trainer_of(folder, cls, own, settings=settings)
    resumed.train(resume_from_checkpoint=True)
    check_sizes(resumed)
    whole = run(folder / "whole", cls, own, settings=settings)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole["weights"][name])
    return whole


@promise
def best_model(folder: Path, cls: Any, own: Any) -> Numbers:
    settings = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "num_train_epochs": 4,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "save_total_limit": 1,
    }
    trainer = trainer_of(folder, cls, own, settings=settings)
    trainer.train()
    check_sizes(trainer)
    left = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert left == [Path(trainer.state.best_model_checkpoint).name]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, abs=1e-5)
    return {**numbers(trainer), "best": left}


@promise
def early_stopping(folder: Path, cls: Any, own: Any) -> Numbers:
    """A learning rate that makes it worse: the first evaluation that counts is the best."""
    settings = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "num_train_epochs": 5,
        "learning_rate": 0.0,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
    }
    trainer = trainer_of(folder, cls, own, settings=settings, callbacks=[EarlyStoppingCallback(1)])
    trainer.train()
    check_sizes(trainer)
    assert trainer.state.epoch == (3 if own.get("pruning") else 2)
    return numbers(trainer)


@promise
def several_evaluation_sets(folder: Path, cls: Any, own: Any) -> Numbers:
    sets = {"one": rows(8, seed=1), "two": rows(8, seed=2)}
    settings = {"eval_strategy": "epoch", "metric_for_best_model": "one_loss"}
    found = run(folder, cls, own, eval_dataset=sets, settings=settings)
    keys = {key for entry in found["log"] for key in entry}
    assert {"eval_one_loss", "eval_two_accuracy"} <= keys
    return found


@promise
def evaluation_on_start(folder: Path, cls: Any, own: Any) -> Numbers:
    found = run(folder, cls, own, settings={"eval_strategy": "epoch", "eval_on_start": True})
    assert found["log"][0]["step"] == 0
    return found


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        data = rows().remove_columns("note")
        return (data[index % len(data)] for index in range(10_000))


@promise
def iterable_dataset(folder: Path, cls: Any, own: Any) -> Numbers:
    return run(folder, cls, own, train_dataset=Stream(), settings={"max_steps": 8})


@promise
def label_smoothing(folder: Path, cls: Any, own: Any) -> Numbers:
    return run(folder, cls, own, settings={"label_smoothing_factor": 0.2})


@promise
def a_loss_function(folder: Path, cls: Any, own: Any) -> Numbers:
    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        found = torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
        return found / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    settings = {"gradient_accumulation_steps": 2}
    return run(folder, cls, own, compute_loss_func=loss, settings=settings)


@promise
def prediction(folder: Path, cls: Any, own: Any) -> Numbers:
    trainer = trainer_of(
        folder, cls, own, preprocess_logits_for_metrics=lambda logits, labels: logits * 2
    )
    trainer.train()
    found = trainer.predict(rows(9, seed=3), metric_key_prefix="held_out")
    assert found.predictions.shape == (9, 2)
    assert found.metrics["held_out_accuracy"] >= 0
    with torch.no_grad():
        row = torch.tensor([rows(9, seed=3)[4]["input_ids"]])
        logits = trainer.model.eval()(row).logits[0] * 2
    np.testing.assert_allclose(found.predictions[4], logits, atol=1e-5)
    return {**numbers(trainer), "predictions": torch.tensor(found.predictions)}


@promise
def callbacks(folder: Path, cls: Any, own: Any) -> Numbers:
    """Given as a class or an object, added and taken away; they can stop the training."""
    seen: list[str] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append("begin")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(f"step {state.global_step} {type(kwargs['model']).__name__}")
            control.should_training_stop = state.global_step == 6

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append("end")

    class Never(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pytest.fail("it was taken away")

    trainer = trainer_of(folder, cls, own, callbacks=[Watch, Never()])
    trainer.remove_callback(Never)
    trainer.train()
    steps = [f"step {number} BertForSequenceClassification" for number in range(1, 7)]
    assert seen == ["begin", *steps, "end"]
    return numbers(trainer)


@promise
def an_optimizer(folder: Path, cls: Any, own: Any) -> Numbers:
    model = tiny_model("bert", labels=2, layers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.1)
    found = run(folder, cls, own, model=model, optimizers=(optimizer, scheduler))
    rates = [entry["learning_rate"] for entry in found["log"] if "learning_rate" in entry]
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(1e-4)
    return found


@promise
def an_optimizer_class(folder: Path, cls: Any, own: Any) -> Numbers:
    kind = (torch.optim.SGD, {"lr": 0.05})
    return run(folder, cls, own, optimizer_cls_and_kwargs=kind)


@promise
def a_scheduler_that_reads_the_metric(folder: Path, cls: Any, own: Any) -> Numbers:
    settings = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "eval_strategy": "epoch",
        "metric_for_best_model": "loss",
    }
    return run(folder, cls, own, settings=settings)


@promise
def rows_grouped_by_length(folder: Path, cls: Any, own: Any) -> Numbers:
    return run(folder, cls, own, settings=by_length())


@promise
def checkpoints(folder: Path, cls: Any, own: Any) -> Numbers:
    """The newest are kept, without what it takes to resume if that is asked for."""
    settings = {
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 2,
        "save_only_model": True,
    }
    found = run(folder, cls, own, settings=settings)
    left = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert left == ["checkpoint-10", "checkpoint-9"]
    files = {path.name for path in (folder / "checkpoint-10").iterdir()}
    assert {"model.safetensors", "config.json", "trainer_state.json"} <= files
    assert "optimizer.pt" not in files
    return {**found, "left": left}


@promise
def gradient_checkpointing(folder: Path, cls: Any, own: Any) -> Numbers:
    settings = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    return run(folder, cls, own, settings=settings)


@promise
def a_model_of_model_init(folder: Path, cls: Any, own: Any) -> Numbers:
    trainer = cls(
        model_init=lambda: tiny_model("bert", labels=2, layers=2),
        args=trainer_of(folder, Trainer, {}).args,
        train_dataset=rows(),
        processing_class=tiny_tokenizer(),
        **own,
    )
    trainer.train()
    first = numbers(trainer)["weights"]
    trainer.train()
    check_sizes(trainer)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, first[name])
    return numbers(trainer)


@promise
def a_second_training_goes_on(folder: Path, cls: Any, own: Any) -> Numbers:
    trainer = trainer_of(folder, cls, own)
    trainer.train()
    first = numbers(trainer)["weights"]
    trainer.train()
    check_sizes(trainer)
    assert not torch.equal(trainer.model.classifier.weight, first["classifier.weight"])
    return numbers(trainer)


@promise
def a_search(folder: Path, cls: Any, own: Any) -> Numbers:
    """Trials in folders of their own, each of a new model; the best one is told."""

    def objective(metrics: dict[str, float]) -> float:
        found.append(metrics["eval_loss"])
        return metrics["eval_loss"]

    found: list[float] = []
    rates = [1e-5, 5e-3]
    trainer = trainer_of(
        folder,
        cls,
        own,
        model_init=lambda trial=None: tiny_model("bert", labels=2, layers=2),
        settings={"eval_strategy": "epoch", "save_strategy": "epoch"},
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        made_up_optuna.install(monkeypatch)
        best = trainer.hyperparameter_search(
            lambda trial: {"learning_rate": rates[trial.number]}, objective, n_trials=2
        )
    assert len(found) == 4
    assert best.objective == min(found[1], found[3])
    assert trainer.args.learning_rate == rates[-1]
    left = sorted(str(path.relative_to(folder)) for path in folder.glob("*/checkpoint-*"))
    assert left == [f"run-{n}/checkpoint-{step}" for n in (0, 1) for step in (10, 5)]
    last = folder / "run-1" / "checkpoint-10"
    if own.get("pruning"):
        small = hfprune.from_pretrained(last)
        assert model_sizes(small) == trainer.plan.sizes() != trainer.plan.totals()
    return {"best": best.run_id, "objectives": found, "weights": load_file(last / WEIGHTS_NAME)}


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else bool(left == right)


# The order of rows grouped by length follows from seed and epoch alone, so that it can be resumed
# within an epoch: see test_resumed_within_an_epoch_of_rows_grouped_by_length.
SAME = [of for of in PROMISES if of is not rows_grouped_by_length]


@pytest.mark.parametrize("of", SAME, ids=lambda function: function.__name__)
def test_without_a_target_the_numbers_are_those_of_trainer(of: Promise, tmp_path: Path) -> None:
    theirs = of(tmp_path / "theirs", Trainer, {})
    ours = of(tmp_path / "ours", HFPruneTrainer, {})
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        assert same(value, ours[key]), key


@pytest.mark.parametrize("of", PROMISES, ids=lambda function: function.__name__)
def test_with_a_target_it_works(of: Promise, tmp_path: Path) -> None:
    of(tmp_path, HFPruneTrainer, {"pruning": PRUNING})


@pytest.mark.slow
def test_a_compiled_model(tmp_path: Path) -> None:
    settings = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 6}
    theirs, ours, pruned = (
        run(tmp_path / str(number), cls, own, settings=settings)
        for number, (cls, own) in enumerate(
            [(Trainer, {}), (HFPruneTrainer, {}), (HFPruneTrainer, {"pruning": PRUNING})]
        )
    )
    assert same(theirs, ours)
    assert pruned["step"] == 6
