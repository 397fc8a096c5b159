"""HFPruneTrainer: prunes to target, and everything else goes on as in Trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tiny import TRANSFORMERS_5, random_plan, tiny_batch, tiny_model, tiny_tokenizer
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from hfprune import DistillationConfig, Gates, HFPruneTrainer, PruningConfig, shrink_
from hfprune.core.errors import (
    CheckpointError,
    PlanError,
    TrainingError,
    UnsupportedModelError,
)
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.search import plan_sparsity
from hfprune.training.distillation.losses import hidden_loss, logits_loss


class Toy(Dataset):  # type: ignore[type-arg]
    """Label = whether token 7 occurs: learnable, of constant length so that batches just stack."""

    def __init__(self, size: int = 64, seed: int = 0) -> None:
        ids = torch.randint(5, 100, (size, 10), generator=torch.Generator().manual_seed(seed))
        ids[::2, 3] = 7
        self.rows = [
            {
                "input_ids": row,
                "attention_mask": torch.ones_like(row),
                "labels": int((row == 7).any()),
            }
            for row in ids
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 4,
        **changes,
    }
    return TrainingArguments(str(folder), **settings)


def make(folder: Path, *, model: Any = None, cls: Any = HFPruneTrainer, **changes: Any) -> Any:
    extra = {
        name: changes.pop(name)
        for name in ("pruning", "distillation", "teacher", "callbacks", "eval_dataset", "careful")
        if name in changes
    }
    return cls(
        model if model is not None else tiny_model("bert", labels=2),
        arguments(folder, **changes),
        train_dataset=Toy(),
        compute_metrics=accuracy,
        **extra,
    )


def sparsity(sizes: tuple[tuple[int, int], ...]) -> float:
    head, neuron = 3 * (8 * 32 + 8) + 8 * 32, 32 + 1 + 32
    return 1 - sum(h * head + n * neuron for h, n in sizes) / (3 * (4 * head + 48 * neuron))


@pytest.mark.parametrize(
    ("allocation", "score"),
    [
        ("global", "fisher"),
        ("global", "random"),
        ("uniform", "taylor"),
        ("uniform", "magnitude"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("uniform", "fisher"),
                ("uniform", "random"),
                ("global", "taylor"),
                ("global", "magnitude"),
            )
        ),
    ],
)
def test_reaches_the_target_and_shrinks(score: str, allocation: str, tmp_path: Path) -> None:
    trainer = make(
        tmp_path,
        pruning=PruningConfig(
            sparsity=0.6, score=score, allocation=allocation, update_every_steps=2, min_neurons=4
        ),
    )
    gated: dict[str, torch.Tensor] = {}

    class Peek(TrainerCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            trainer.model.eval()
            with torch.no_grad():
                gated["logits"] = trainer.model(**tiny_batch()).logits

    trainer.add_callback(Peek())
    trainer.train()
    assert trainer.plan is not None
    assert model_sizes(trainer.model) == trainer.plan.sizes()
    assert 0.6 <= sparsity(trainer.plan.sizes()) < 0.8
    with torch.no_grad():
        small = trainer.model.eval()(**tiny_batch()).logits
    torch.testing.assert_close(small, gated["logits"], atol=1e-5, rtol=0)
    logged = [entry for entry in trainer.state.log_history if "pruning/sparsity" in entry]
    values = [entry["pruning/sparsity"] for entry in logged]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(sparsity(trainer.plan.sizes()), abs=1e-5)
    assert logged[-1]["pruning/heads"] == sum(h for h, _ in trainer.plan.sizes())
    assert trainer.evaluate(Toy(16, seed=1))["eval_accuracy"] >= 0


@pytest.mark.parametrize(("schedule", "updates"), [("one_shot", 1), ("linear", 4), ("cubic", 4)])
def test_schedules(schedule: str, updates: int, tmp_path: Path) -> None:
    pruning = PruningConfig(
        sparsity=0.5,
        schedule=schedule,
        score="magnitude",
        start=0.25,
        end=0.75,
        update_every_steps=3,
        min_heads=0,
        min_neurons=0,
    )
    trainer = make(tmp_path, pruning=pruning)
    trainer.train()  # 24 steps
    steps = {
        entry["step"]: entry["pruning/sparsity"]
        for entry in trainer.state.log_history
        if "pruning/sparsity" in entry
    }
    if schedule == "one_shot":
        assert list(steps) == [6]
        return
    assert list(steps) == [9, 12, 15, 18]
    for step, value in steps.items():
        t = (step / 24 - 0.25) / 0.5
        want = 0.5 * (t if schedule == "linear" else 1 - (1 - t) ** 3)
        assert value == pytest.approx(want, abs=0.05)  # a head is 4.8 per cent of the model
    assert len(steps) == updates


def test_without_pruning_it_is_trainer(tmp_path: Path) -> None:
    plain = make(tmp_path / "a", cls=Trainer)
    plain.train()
    ours = make(tmp_path / "b")
    ours.train()
    for left, right in zip(plain.model.parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_accumulation_equals_one_big_batch(tmp_path: Path) -> None:
    pruning = PruningConfig(sparsity=0.5, update_every_steps=1, min_neurons=4)
    models = []
    for name, sizes in (
        ("big", {"per_device_train_batch_size": 32}),
        ("small", {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}),
    ):
        model = tiny_model(
            "bert", labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        trainer = make(
            tmp_path / name,
            model=model,
            pruning=pruning,
            teacher=tiny_model("bert", labels=2, seed=3),
            optim="sgd",
            learning_rate=0.05,
            **sizes,
        )
        trainer.train()
        models.append(trainer)
    assert models[0].plan.digest() == models[1].plan.digest()
    for left, right in zip(models[0].model.parameters(), models[1].model.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_resume_equals_uninterrupted(tmp_path: Path) -> None:
    pruning = PruningConfig(sparsity=0.6, update_every_steps=3, min_neurons=4, end=0.8)
    settings = {"save_strategy": "steps", "save_steps": 5, "pruning": pruning}
    whole = make(tmp_path / "whole", **settings)
    whole.train()

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 10:
                raise KeyboardInterrupt

    halted = make(tmp_path / "halted", callbacks=[Stop()], **settings)
    with pytest.raises(KeyboardInterrupt):
        halted.train()
    resumed = make(tmp_path / "halted", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.plan == whole.plan
    for left, right in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_resume_needs_a_pruning_state(tmp_path: Path) -> None:
    make(tmp_path, save_strategy="epoch").train()
    pruned = make(
        tmp_path, pruning=PruningConfig(sparsity=0.5), save_strategy="epoch", num_train_epochs=4
    )
    with pytest.raises(CheckpointError, match="holds no pruning state.*cannot be resumed from"):
        pruned.train(resume_from_checkpoint=True)


def test_best_model_is_looked_for_after_the_target_only(tmp_path: Path) -> None:
    class Rigged(HFPruneTrainer):
        """Pretends that the metric only falls: the first evaluation would win."""

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            result = super().evaluate(*args, **kwargs)
            result["eval_accuracy"] = 1.0 - self.state.global_step / 1000
            return result

    trainer = make(
        tmp_path,
        cls=Rigged,
        pruning=PruningConfig(sparsity=0.5, end=0.5, update_every_steps=4, min_neurons=4),
        eval_dataset=Toy(16),
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    assert trainer.state.best_global_step == 12  # of 24: the first at the full target
    assert trainer.state.global_step == 20  # stopped two evaluations later, not before the target
    assert sparsity(model_sizes(trainer.model)) >= 0.5


@pytest.mark.parametrize(
    ("scores", "losses", "best"),
    [
        ([0.8, 0.9, 0.9, 0.9], [0.7, 0.6, 0.5, 0.55], 12),  # the first of the best would be 8
        ([0.8, 0.9, 0.9, 0.8], [0.7, 0.6, 0.65, 0.3], 8),
        ([0.8, 0.7, 0.6, 0.5], [0.7, 0.6, 0.5, 0.4], 4),
    ],
)
def test_of_equal_checkpoints_the_one_with_the_least_loss(
    scores: list[float], losses: list[float], best: int, tmp_path: Path
) -> None:
    class Rigged(HFPruneTrainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "eval_loss" in logs:
                logs["eval_accuracy"], logs["eval_loss"] = scores.pop(0), losses.pop(0)
            super().log(logs, *args, **kwargs)

    trainer = make(
        tmp_path,
        cls=Rigged,
        max_steps=16,
        eval_dataset=Toy(16),
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        careful=True,
    )
    trainer.train()
    assert trainer.state.best_global_step == best
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")


def test_training_again_fine_tunes_the_small_model(tmp_path: Path) -> None:
    trainer = make(
        tmp_path, pruning=PruningConfig(sparsity=0.5, min_neurons=4, update_every_steps=2)
    )
    trainer.train()
    sizes = model_sizes(trainer.model)
    before = trainer.model.classifier.weight.detach().clone()
    inner = next(
        view for view in trainer.model.bert.encoder.layer if hasattr(view.attention, "self")
    )
    weight = inner.attention.self.query.weight.detach().clone()
    trainer.train()
    assert model_sizes(trainer.model) == sizes
    assert not torch.equal(before, trainer.model.classifier.weight)
    assert not torch.equal(weight, inner.attention.self.query.weight)


def test_shrunk_model_can_be_pruned_again(tmp_path: Path) -> None:
    model = tiny_model("bert", labels=2)
    shrink_(model, random_plan(model, removed=(BlockKey(0, "attention"),)))
    before = model_sizes(model)
    total = sum(p.numel() for p in model.parameters())
    trainer = make(
        tmp_path,
        model=model,
        pruning=PruningConfig(sparsity=0.5, min_neurons=2, update_every_steps=2),
    )
    costs = parameter_costs(model)
    trainer.train()
    assert plan_sparsity(trainer.plan, costs) >= 0.5
    assert all(a >= c and b >= d for (a, b), (c, d) in zip(before, model_sizes(model), strict=True))
    assert sum(p.numel() for p in model.parameters()) < total


def test_bf16_and_gradient_checkpointing(tmp_path: Path) -> None:
    trainer = make(
        tmp_path,
        pruning=PruningConfig(sparsity=0.5, min_neurons=4, update_every_steps=2),
        teacher=tiny_model("bert", labels=2, seed=3),
        bf16=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_steps=8,
    )
    trainer.train()
    assert sparsity(model_sizes(trainer.model)) >= 0.5


def test_distillation_loss_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    settings = DistillationConfig(
        temperature=3.0, logits_weight=0.5, hidden_weight=2.0, label_weight=0.25
    )
    model = tiny_model("bert", labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    teacher = tiny_model("bert", labels=2, seed=3)
    trainer = make(tmp_path, model=model, distillation=settings, teacher=copy.deepcopy(teacher))
    batch = {**tiny_batch(), "labels": torch.tensor([0, 1, 1, 0])}
    model.train()
    found = trainer.compute_loss(model, dict(batch))
    model.eval()
    with torch.no_grad():
        mine = model(**batch, output_hidden_states=True)
        theirs = teacher(**tiny_batch(), output_hidden_states=True)
        p = torch.softmax(theirs.logits / 3, -1)
        kl = (p * (p.log() - torch.log_softmax(mine.logits / 3, -1))).sum(-1).mean()
        mask = batch["attention_mask"].bool()
        mse = torch.stack(
            [
                (a[mask] - b[mask]).square().mean()
                for a, b in zip(mine.hidden_states[1:], theirs.hidden_states[1:], strict=True)
            ]
        ).mean()
        want = 0.25 * mine.loss + 0.5 * 9 * kl + 2 * mse
        plain = trainer.compute_loss(model, dict(batch))
    torch.testing.assert_close(found.detach(), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, mine.loss)  # evaluation reports the task's own loss


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_distillation_without_dropout(family: str, checkpointing: bool, tmp_path: Path) -> None:
    """As the training of a model that has none; layers are recomputed all the same."""
    teacher = tiny_model(family, labels=2, seed=3)
    noisy = tiny_model(family, labels=2)
    quiet = copy.deepcopy(noisy)
    dropped = 0
    for module in noisy.modules():
        for name in ("p", "dropout_prob", "attention_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.5)
                dropped += 1
    assert dropped
    for module in quiet.modules():
        for name in ("p", "dropout_prob", "attention_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    calls: list[Any] = []

    for model, dropout in ((noisy, False), (quiet, True)):
        inner = next(m for m in model.modules() if isinstance(m, torch.nn.Linear))
        inner.register_forward_hook(lambda *_: calls.append(1))
        trainer = make(
            tmp_path,
            model=model,
            teacher=copy.deepcopy(teacher),
            distillation=DistillationConfig(dropout=dropout),
            max_steps=3,
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        )
        trainer.train()
        assert len(calls) == (6 if checkpointing else 3), "once more for the gradients"
        calls.clear()
    for name, weights in noisy.state_dict().items():
        torch.testing.assert_close(weights, quiet.state_dict()[name])


def test_distillation_losses_vanish_for_the_teacher_itself() -> None:
    logits = torch.randn(5, 4)
    for problem in ("single_label_classification", "multi_label_classification", "regression"):
        assert float(logits_loss(logits, logits, 2.0, problem)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(TrainingError, match="cannot distil a model with problem_type 'ranking'"):
        logits_loss(logits, logits, 2.0, "ranking")
    states = [torch.randn(2, 3, 4) for _ in range(3)]
    assert float(hidden_loss(states, states, None)) == 0
    with pytest.raises(TrainingError, match="has 3 layers and the teacher 2; hidden"):
        hidden_loss(states, states[:2], None)
    with pytest.raises(TrainingError, match="the teacher's \\(2, 3, 5\\)"):
        hidden_loss(states, [torch.randn(2, 3, 5)] * 3, None)


def test_teacher_mistakes(tmp_path: Path) -> None:
    model = tiny_model("bert", labels=2)
    with pytest.raises(TrainingError, match="the teacher is the very model that is trained"):
        make(tmp_path, model=model, teacher=model)
    with pytest.raises(TrainingError, match="the teacher has 3 labels, the student 2"):
        make(tmp_path, teacher=tiny_model("bert", labels=3))
    with pytest.raises(TrainingError, match="vocabulary has 90 tokens, the student's 100"):
        make(tmp_path, teacher=tiny_model("bert", labels=2, vocab_size=90))
    with pytest.raises(TrainingError, match="distillation needs a teacher: pass teacher="):
        make(tmp_path, distillation=DistillationConfig())


def test_unknown_family_is_refused_before_training(tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.for_model("xlnet", d_model=16, n_layer=1, n_head=2, d_inner=16)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(UnsupportedModelError, match="'xlnet'; supported: .*bert"):
        make(tmp_path, model=model, pruning=PruningConfig(sparsity=0.5))


def test_nan_gradients_stop_with_the_step(tmp_path: Path) -> None:
    model = tiny_model("bert", labels=2)
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    trainer = make(tmp_path, model=model, pruning=PruningConfig(sparsity=0.5))
    with pytest.raises(
        TrainingError,
        match=r"the loss is nan at step 1 \(a batch of 8 rows of 10 tokens\): lower the",
    ):
        trainer.train()


def test_gates_are_gone_after_an_interruption(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    trainer = make(tmp_path, pruning=PruningConfig(sparsity=0.5), callbacks=[Stop()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.model.eval()
    with torch.no_grad():
        bare = trainer.model(**tiny_batch()).logits
        with Gates(trainer.model):
            assert torch.equal(trainer.model(**tiny_batch()).logits, bare)


def test_stopping_before_the_target_is_an_error(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    trainer = make(tmp_path, pruning=PruningConfig(sparsity=0.5), callbacks=[Stop()])
    with pytest.raises(TrainingError, match="training ended before pruning reached its target"):
        trainer.train()


@pytest.mark.parametrize("hidden_weight", [0.0, 1.0])
def test_cached_teacher_teaches_the_same(hidden_weight: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (40,), generator=generator).tolist()
    rows = [torch.randint(5, 100, (n,), generator=generator).tolist() for n in lengths]
    dataset = datasets.Dataset.from_dict(
        {
            "input_ids": rows,
            "attention_mask": [[1] * len(row) for row in rows],
            "labels": [len(row) % 2 for row in rows],
            "note": ["unused"] * len(rows),
        }
    )
    results = {}
    for limit in (0.0, 4.0, 1e-6):  # none; in memory; hidden states in a file
        trainer = HFPruneTrainer(
            tiny_model("bert", labels=2),
            arguments(tmp_path / str(limit), num_train_epochs=2, learning_rate=0.05, optim="sgd"),
            train_dataset=dataset,
            processing_class=tiny_tokenizer(),
            teacher=tiny_model("bert", labels=2, seed=3),
            distillation=DistillationConfig(hidden_weight=hidden_weight, cache_limit_gb=limit),
        )
        trainer.train()
        assert (trainer.teaching.cache is not None) == (limit > 0)
        results[limit] = trainer.model.state_dict()
        trainer.evaluate(dataset)
    for name, value in results[0.0].items():
        torch.testing.assert_close(results[4.0][name], value, atol=2e-5, rtol=1e-3)
        assert torch.equal(results[1e-6][name], results[4.0][name])


def test_a_model_trained_in_bf16_can_be_exported(tmp_path: Path) -> None:
    """Accelerate leaves an autocast wrapper on ``forward``, which the exporter cannot trace."""
    trainer = make(
        tmp_path / "run",
        pruning=PruningConfig(sparsity=0.5, min_neurons=4, update_every_steps=2),
        bf16=True,
        max_steps=4,
    )
    trainer.train()
    file = export_onnx(trainer.model, tiny_tokenizer(), tmp_path / "onnx")
    assert file.is_file()
    assert trainer.evaluate(Toy(16))["eval_accuracy"] >= 0, "the trainer's own model still works"


def test_the_loss_is_logged_where_pruning_is(tmp_path: Path) -> None:
    trainer = make(
        tmp_path, logging_steps=2, pruning=PruningConfig(sparsity=0.5, update_every_steps=2)
    )
    trainer.train()
    logged = {entry["step"] for entry in trainer.state.log_history if "loss" in entry}
    pruned = {entry["step"] for entry in trainer.state.log_history if "pruning/heads" in entry}
    assert logged == set(range(2, 25, 2))
    assert len(pruned & logged) > 3, "the same steps are logged for both"


def test_trackers_get_the_pruning_metrics_under_one_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back by TensorBoard itself. The Trainer puts ``train/`` before what is no evaluation."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    where = {} if TRANSFORMERS_5 else {"logging_dir": str(tmp_path / "events")}
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make(
        tmp_path,
        pruning=PruningConfig(sparsity=0.5, score="magnitude", update_every_steps=2),
        report_to=["tensorboard"],
        **where,
    )
    trainer.train()
    read = events.EventAccumulator(str(tmp_path / "events")).Reload()
    names = ("sparsity", "heads", "neurons", "blocks")
    tags = {tag for tag in read.Tags()["scalars"] if "pruning" in tag}
    assert tags == {f"train/pruning/{name}" for name in names}
    logged = {
        entry["step"]: entry["pruning/sparsity"]
        for entry in trainer.state.log_history
        if "pruning/sparsity" in entry
    }
    shown = {event.step: event.value for event in read.Scalars("train/pruning/sparsity")}
    assert shown == pytest.approx(logged)
    assert shown[max(shown)] >= 0.5


def test_ties_are_trainers_where_nothing_is_pruned(tmp_path: Path) -> None:
    class Rigged(HFPruneTrainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "eval_loss" in logs:
                logs["eval_accuracy"], logs["eval_loss"] = 0.9, 1 / self.state.global_step
            super().log(logs, *args, **kwargs)

    for changes, best in (({"careful": True}, 8), ({}, 4)):
        trainer = make(
            tmp_path / str(best),
            cls=Rigged,
            max_steps=8,
            eval_dataset=Toy(16),
            eval_strategy="steps",
            eval_steps=4,
            save_strategy="steps",
            save_steps=4,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            **changes,
        )
        trainer.train()
        assert trainer.state.best_global_step == best


@pytest.mark.parametrize("score", ["magnitude", "fisher"])
def test_layers_that_are_alike_make_a_model_of_transformers(score: str, tmp_path: Path) -> None:
    settings = {"layout": "uniform", "score": score, "update_every_steps": 2, "min_neurons": 4}
    trainer = make(tmp_path / "run", pruning=PruningConfig(sparsity=0.6, **settings))
    trainer.train()
    model = trainer.model
    assert trainer.pruning_metrics()["pruning/sparsity"] >= 0.6
    sizes = model_sizes(model)
    assert len(set(sizes)) == 1
    assert all(model.config.intermediate_size == neurons for _, neurons in sizes)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = type(model).from_pretrained(tmp_path / "saved").eval()
    assert "hfprune" not in (tmp_path / "saved" / "config.json").read_text()
    with torch.no_grad():
        batch = tiny_batch()
        assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)


def test_layers_that_differ_cannot_be_made_alike(tmp_path: Path) -> None:
    model = tiny_model("bert", labels=2)
    shrink_(model, random_plan(model))
    with pytest.raises(PlanError, match="the model's layers differ already"):
        make(tmp_path, model=model, pruning=PruningConfig(sparsity=0.6, layout="uniform"))
