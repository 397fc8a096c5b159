"""What users of Trainer do, with pruning on: each of these once broke."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import datasets
import made_up_optuna
import pytest
import torch
import transformers
from accelerate.utils import find_executable_batch_size
from tiny import TRANSFORMERS_5, tiny_model, tiny_tokenizer
from transformers import (
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hfprune
from hfprune import DistillationConfig, HFPruneTrainer, PruningConfig
from hfprune.core.errors import CheckpointError, RecipeError, TrainingError, TrainingMemoryError
from hfprune.families import model_sizes
from hfprune.models.saved import load_saved
from hfprune.recipe.sections.training import TrainingConfig
from hfprune.training.arguments import stage_settings, training_arguments
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.losses import hidden_loss

PRUNING = PruningConfig(sparsity=0.5, min_neurons=4, update_every_steps=2)


def bert(seed: int = 0, **changes: Any) -> Any:
    return tiny_model("bert", labels=2, layers=2, seed=seed, **changes)


def rows(count: int = 48, length: int = 10) -> datasets.Dataset:
    ids = torch.randint(5, 100, (count, length), generator=torch.Generator().manual_seed(0))
    return datasets.Dataset.from_dict(
        {"input_ids": ids.tolist(), "labels": [i % 2 for i in range(count)]}
    )


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        **changes,
    }
    return TrainingArguments(str(folder), **settings)


def make(folder: Path, cls: Any = HFPruneTrainer, *, model: Any = None, **changes: Any) -> Any:
    """A trainer with pruning; ``settings`` are those of the arguments."""
    own: dict[str, Any] = {"pruning": PRUNING} if issubclass(cls, HFPruneTrainer) else {}
    settings = changes.pop("settings", {})
    if model is None and "model_init" not in changes:
        model = bert()
    given = {"train_dataset": rows(), **own, **changes}
    return cls(model, arguments(folder, **settings), **given)


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def logits(model: Any, data: datasets.Dataset | None = None) -> torch.Tensor:
    ids = torch.tensor((data or rows(8))["input_ids"][:])
    with torch.no_grad():
        return model.eval()(ids).logits  # type: ignore[no-any-return]


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.do()


# -- each train() begins from the configuration --------------------------------------------------


def test_every_training_of_a_new_model_prunes(tmp_path: Path) -> None:
    trainer = make(tmp_path, model_init=lambda: bert())
    sizes = []
    for _ in range(2):
        trainer.train()
        sizes.append(count(trainer.model))
    assert sizes[0] == sizes[1] < count(bert())
    assert trainer.pruning == PRUNING


def test_every_trial_of_a_search_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was stopped half-way hands nothing on."""
    optuna = made_up_optuna.install(monkeypatch)
    trainer = make(tmp_path, model_init=lambda trial=None: bert(), eval_dataset=rows(8))
    seen: list[int] = []

    def stop() -> None:
        if len(seen) == 1 and not stopped:
            stopped.append(trainer.plan)
            raise optuna.TrialPruned

    stopped: list[Any] = []
    begun: list[Any] = []

    class Begin(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                begun.append(trainer.plan.sizes())

    trainer.add_callback(At(7, stop))
    trainer.add_callback(Begin())
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3)},
        lambda metrics: seen.append(count(trainer.model)) or metrics["eval_loss"],
        n_trials=4,
        backend="optuna",
    )
    assert len(stopped) == 1
    assert stopped[0].sizes() != model_sizes(bert())
    assert begun == [model_sizes(bert())] * 4
    assert len(seen) == 3
    assert max(seen) < 0.75 * count(bert())


def test_an_interrupted_training_begins_anew(tmp_path: Path) -> None:
    def interrupt() -> None:
        if not begun[1:]:
            raise KeyboardInterrupt

    begun: list[Any] = []

    class Begin(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(None)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                begun[-1] = (trainer.plan.sizes(), trainer.pruner.complete)

    trainer = make(tmp_path, callbacks=[At(9, interrupt), Begin()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.plan.sizes() != model_sizes(bert())
    trainer.train()
    assert begun == [(model_sizes(bert()), False)] * 2
    assert model_sizes(trainer.model) == trainer.plan.sizes()


class Greedy(BertForSequenceClassification):
    """Runs out of memory at batches of more than four rows, from some call on."""

    patience = 0

    def forward(self, input_ids: Any = None, labels: Any = None, **inputs: Any) -> Any:
        if self.training and len(input_ids) > 4:
            self.patience -= 1
            if self.patience < 0:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        inputs.pop("num_items_in_batch", None)
        return super().forward(input_ids=input_ids, labels=labels, **inputs)


def greedy(patience: int) -> Any:
    model = Greedy(bert().config)
    model.patience = patience
    return model


@pytest.mark.slow
def test_a_smaller_batch_after_running_out_of_memory_begins_dense(tmp_path: Path) -> None:
    begun: list[Any] = []

    class Begin(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                begun.append((trainer.plan.sizes(), trainer.pruner.complete))

    trainer = make(
        tmp_path,
        model=greedy(10),
        callbacks=[Begin()],
        settings={"auto_find_batch_size": True},
    )
    trainer.train()
    assert len(begun) > 1
    assert set(begun) == {(model_sizes(bert()), False)}
    assert model_sizes(trainer.model) == trainer.plan.sizes() != model_sizes(bert())


def test_accelerate_retries_with_a_smaller_batch(tmp_path: Path) -> None:
    @find_executable_batch_size(starting_batch_size=8)
    def train(batch_size: int) -> int:
        settings = {"per_device_train_batch_size": batch_size, "num_train_epochs": 1}
        make(tmp_path, model=greedy(0), settings=settings).train()
        return batch_size

    assert train() == 4
    assert issubclass(TrainingMemoryError, TrainingError)


# -- what is saved is what was measured ----------------------------------------------------------


def test_files_of_a_training_are_the_pruned_model(tmp_path: Path) -> None:
    class Save(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                trainer.save_model(str(tmp_path / "saved"))
                sizes.append(trainer.plan.sizes())
                measured.append(logits(trainer.model))
                trainer.model.train()

    sizes: list[Any] = []
    measured: list[torch.Tensor] = []
    trainer = make(
        tmp_path / "run",
        callbacks=[Save()],
        settings={"save_strategy": "steps", "save_steps": 6},
    )
    trainer.train()
    place = tmp_path / "run" / "checkpoint-6"
    for folder in (tmp_path / "saved", place):
        found = hfprune.from_pretrained(folder)
        assert model_sizes(found) == sizes[0] != model_sizes(bert())
        torch.testing.assert_close(logits(found), measured[0], atol=1e-5, rtol=0)
    assert torch.equal(
        logits(hfprune.from_pretrained(place)), logits(hfprune.from_pretrained(tmp_path / "saved"))
    )
    assert torch.equal(logits(load_saved(str(place))), logits(hfprune.from_pretrained(place)))
    dense = BertForSequenceClassification.from_pretrained(place)
    assert model_sizes(dense) == model_sizes(bert()), "what it takes to resume is as it was"
    last = hfprune.from_pretrained(tmp_path / "run" / "checkpoint-12")
    assert torch.equal(logits(last), logits(trainer.model)), "bit for bit as at the end"


def test_callbacks_see_what_the_checkpoint_holds(tmp_path: Path) -> None:
    """At the end of a step; and at the end of all the small model, also by itself."""

    class Saves(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:  # when more is pruned
                trainer.save_model(str(tmp_path / "step"))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            sizes.append((model_sizes(kwargs["model"]), trainer.plan.sizes()))
            kwargs["model"].save_pretrained(tmp_path / "end")
            # As trackers that keep models do.
            Trainer(args=args, model=kwargs["model"]).save_model(str(tmp_path / "tracked"))

    sizes: list[Any] = []
    trainer = make(
        tmp_path / "run",
        callbacks=[Saves],
        settings={"save_strategy": "steps", "save_steps": 6},
    )
    trainer.train()
    step, checkpoint = (
        hfprune.from_pretrained(place)
        for place in (tmp_path / "step", tmp_path / "run/checkpoint-6")
    )
    assert model_sizes(step) == model_sizes(checkpoint) != model_sizes(bert())
    assert torch.equal(logits(step), logits(checkpoint))
    ((found, planned),) = sizes
    assert found == planned != model_sizes(bert())
    for name in ("end", "tracked"):
        saved = hfprune.from_pretrained(tmp_path / name)
        assert torch.equal(logits(saved), logits(trainer.model))


def test_saved_and_evaluated_after_an_interruption(tmp_path: Path) -> None:
    def interrupt() -> None:
        measured.append(trainer.evaluate(rows(16))["eval_loss"])
        raise KeyboardInterrupt

    measured: list[float] = []
    trainer = make(tmp_path / "run", callbacks=[At(8, interrupt)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.evaluate(rows(16))["eval_loss"] == measured[0]
    trainer.save_model(str(tmp_path / "saved"))
    saved = make(tmp_path, Trainer, model=hfprune.from_pretrained(tmp_path / "saved"))
    assert saved.evaluate(rows(16))["eval_loss"] == pytest.approx(measured[0], abs=1e-5)


def test_a_checkpoint_of_a_model_pruned_again(tmp_path: Path) -> None:
    make(tmp_path / "first").train()
    first = make(tmp_path / "first")
    first.train()
    again = make(
        tmp_path / "run",
        model=first.model,
        pruning=PruningConfig(sparsity=0.3, min_neurons=2, update_every_steps=2),
        settings={"save_strategy": "epoch"},
    )
    again.train()
    found = hfprune.from_pretrained(tmp_path / "run" / "checkpoint-12")
    assert model_sizes(found) == model_sizes(again.model)
    assert torch.equal(logits(found), logits(again.model))


def test_what_is_pushed_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        Trainer,
        "_push_from_checkpoint",
        lambda self, folder: seen.append((trainer.plan, hfprune.from_pretrained(folder))),
    )
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda *args, **kwargs: None)
    monkeypatch.setattr(Trainer, "_finish_current_push", lambda self: None)
    trainer = make(tmp_path, settings={"save_strategy": "epoch", "push_to_hub": True})
    trainer.train()
    assert len(seen) == 2
    assert [model_sizes(model) for _, model in seen] == [plan.sizes() for plan, _ in seen]


# -- ordinary subclassing ------------------------------------------------------------------------


class Weighted(HFPruneTrainer):
    """A loss of the user's own."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        weight = torch.tensor([1.0, 2.0])
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=weight)
        return (loss, outputs) if return_outputs else loss


class Calling(HFPruneTrainer):
    """Adds to our loss, which has the teacher's part."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, *args, **kwargs) + 1.0


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_of_ones_own_with_a_teacher(epochs: int, tmp_path: Path) -> None:
    settings = {"num_train_epochs": epochs}
    make(tmp_path, Weighted, teacher=bert(3), settings=settings).train()


@pytest.mark.parametrize("dropout", [True, False])
def test_the_teacher_counts_with_a_loss_of_ones_own(dropout: bool, tmp_path: Path) -> None:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, teacher = bert(**quiet), bert(3)
    weights = DistillationConfig(
        logits_weight=0.5, hidden_weight=2.0, label_weight=0.25, dropout=dropout
    )
    taught = {"teacher": teacher, "distillation": weights, "pruning": None}
    batch = {key: torch.tensor(value) for key, value in rows(8).to_dict().items()}
    batch["teacher_row"] = torch.arange(8)
    plain = make(tmp_path, model=model, **taught).compute_loss(model.train(), dict(batch))
    label = model(batch["input_ids"], labels=batch["labels"]).loss
    found = make(tmp_path, Weighted, model=model, **taught).compute_loss(model.train(), dict(batch))
    own = torch.nn.functional.cross_entropy(
        model(batch["input_ids"]).logits, batch["labels"], weight=torch.tensor([1.0, 2.0])
    )
    torch.testing.assert_close(found, plain + 0.25 * (own - label))
    calling = make(tmp_path, Calling, model=model, **taught)
    called = calling.compute_loss(model.train(), dict(batch))
    torch.testing.assert_close(called, plain + 1.0)
    model.eval()
    judged = make(tmp_path, Weighted, model=model, **taught).compute_loss(model, dict(batch))
    torch.testing.assert_close(judged, own), "evaluation has no teacher"


def test_a_loss_that_does_not_ask_the_model(tmp_path: Path) -> None:
    class Constant(HFPruneTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return next(model.parameters()).sum()

    with pytest.raises(TrainingError, match=r"Constant\.compute_loss does not call the model"):
        make(tmp_path, Constant, teacher=bert(3)).train()
    replaced = make(tmp_path, teacher=bert(3))
    replaced.compute_loss = lambda model, inputs, **kwargs: (
        model(input_ids=inputs["input_ids"], labels=inputs["labels"]).loss
    )
    with pytest.raises(TrainingError, match="computed without the teacher: compute_loss was repl"):
        replaced.train()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_collator_of_ones_own_with_a_teacher(epochs: int, tmp_path: Path) -> None:
    def collate(features: list[Any]) -> dict[str, Any]:
        columns = ("input_ids", "labels")
        return {name: torch.tensor([row[name] for row in features]) for name in columns}

    trainer = make(
        tmp_path, teacher=bert(3), data_collator=collate, settings={"num_train_epochs": epochs}
    )
    trainer.train()
    assert trainer.teaching.cache is None, "it might draw at random"
    more = make(
        tmp_path,
        teacher=bert(3),
        data_collator=collate,
        unlabeled_dataset=rows(8).select_columns(["input_ids"]),
    )
    more.train()
    assert len(more.train_dataset) == 56


def test_a_training_step_of_ones_own(tmp_path: Path) -> None:
    class Mine(HFPruneTrainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            return super().training_step(model, inputs, num_items_in_batch=num_items_in_batch)

    make(tmp_path, Mine).train()


class Plain(BertForSequenceClassification):
    """A forward method of the user's own, which takes one input more and returns a dict."""

    def forward(  # type: ignore[override]
        self, input_ids: Any = None, labels: Any = None, weights: Any = None
    ) -> Any:
        found = super().forward(input_ids=input_ids)
        loss = torch.nn.functional.cross_entropy(found.logits, labels, reduction="none")
        return {"loss": (loss * weights).mean(), "logits": found.logits}


def test_a_forward_of_ones_own_with_a_teacher(tmp_path: Path) -> None:
    model = Plain(bert().config)
    with pytest.raises(TrainingError, match=r"\(Plain\) takes no output_hidden_states.*hidden_wei"):
        make(tmp_path, model=model, teacher=bert(3))
    trainer = make(
        tmp_path,
        model=model,
        teacher=bert(3),
        distillation={"hidden_weight": 0.0},
        train_dataset=rows().add_column("weights", [1.0, 0.5] * 24),
    )
    trainer.train()
    assert model_sizes(trainer.model) == trainer.plan.sizes()


def test_the_teacher_stays_as_it_was(tmp_path: Path) -> None:
    teacher = bert(3).train()
    teacher.classifier.eval()
    before = copy.deepcopy(teacher.state_dict())
    trainer = make(tmp_path, teacher=teacher)
    trainer.train()
    assert trainer.teacher is teacher
    assert teacher.training
    assert teacher.bert.training
    assert not teacher.classifier.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_parameters_are_those_of_trainer() -> None:
    ours = inspect.signature(HFPruneTrainer.__init__).parameters
    theirs = inspect.signature(Trainer.__init__).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind is parameter.kind
        assert ours[name].default == parameter.default
    assert all(p.annotation is not p.empty for name, p in ours.items() if name != "self")


@pytest.mark.skipif(TRANSFORMERS_5, reason="transformers 5 has no such name")
def test_an_old_name_of_trainer_still_works(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="tokenizer"):
        trainer = make(tmp_path, tokenizer=tiny_tokenizer())
    assert trainer.processing_class is not None


# -- errors early, and of the right kind ---------------------------------------------------------


def test_what_is_to_be_pruned_can_be_written_in_several_ways(tmp_path: Path) -> None:
    assert make(tmp_path, pruning={"sparsity": 0.25}).pruning == PruningConfig(sparsity=0.25)
    recipe = (
        "model: {name_or_path: a}\ndata: {train_file: a.csv}\noutput_dir: b\n"
        "pruning: {sparsity: 0.75, score: taylor}\n"
    )
    (tmp_path / "recipe.yaml").write_text(recipe)
    for place in (tmp_path / "recipe.yaml", str(tmp_path / "recipe.yaml")):
        found = make(tmp_path, pruning=place).pruning
        assert found == PruningConfig(sparsity=0.75, score="taylor")
    with pytest.raises(RecipeError, match="sparsit: unknown key.*Did you mean 'sparsity'"):
        make(tmp_path, pruning={"sparsit": 0.5})
    (tmp_path / "recipe.yaml").write_text(recipe.replace("0.75", "1.75"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml.*line 4.*sparsity"):
        make(tmp_path, pruning=tmp_path / "recipe.yaml")
    with pytest.raises(TrainingError, match=r"a dict of its keys or the path of a recipe, got 0\.5 "
                       r"\(float\): write PruningConfig\(sparsity=0\.8\)"):  # fmt: skip
        make(tmp_path, pruning=0.5)
    with pytest.raises(TrainingError, match=r"distillation must be a DistillationConfig, a dict of "
                       r"its keys, got 2\.0"):  # fmt: skip
        make(tmp_path, teacher=bert(3), distillation=2.0)


def test_a_misspelt_metric_is_told_at_the_first_evaluation(tmp_path: Path) -> None:
    settings = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "metric_for_best_model": "acuracy",
    }
    trainer = make(tmp_path, eval_dataset=rows(8), settings=settings)
    with pytest.raises(KeyError, match="eval_acuracy"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_checkpoints_that_cannot_be_gone_on_from(tmp_path: Path) -> None:
    trainer = make(tmp_path, settings={"save_strategy": "epoch"})
    trainer.train()
    trainer.args.num_train_epochs = 3
    with pytest.raises(CheckpointError, match="checkpoint-12 is of the dense model while it was "
                       "pruned, and this trainer's model has been shrunk"):  # fmt: skip
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(
        CheckpointError, match="has no pruning: pass the same pruning .*or start fr"
    ):
        make(tmp_path, pruning=None).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    for number in (6, 12):
        (tmp_path / f"checkpoint-{number}" / "model.safetensors").unlink()
    with (
        pytest.warns(UserWarning, match="is not whole and is passed over"),
        pytest.raises(CheckpointError, match="none of the checkpoints in .* is whole"),
    ):
        make(tmp_path).train(resume_from_checkpoint=True)


def test_resumed_with_a_new_model_of_model_init(tmp_path: Path) -> None:
    trainer = make(tmp_path, model_init=lambda: bert(), settings={"save_strategy": "epoch"})
    trainer.train()
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.skipif(TRANSFORMERS_5, reason="transformers 5 writes safetensors only")
def test_checkpoints_of_torch_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"save_strategy": "epoch", "save_safetensors": False}
    whole = make(tmp_path / "a", settings=settings)
    whole.train()
    halted = make(tmp_path / "b", callbacks=[At(8, lambda: 1 / 0)], settings=settings)
    with pytest.raises(ZeroDivisionError):
        halted.train()
    resumed = make(tmp_path / "b", settings=settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(logits(resumed.model), logits(whole.model))
    with pytest.raises(CheckpointError, match="holds neither model.safetensors.*save_safetensors"):
        hfprune.from_pretrained(tmp_path / "a" / "checkpoint-6")


def test_checkpoints_of_adapters(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def model() -> Any:
        torch.manual_seed(0)
        return peft.get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", r=2))

    settings = {"save_strategy": "epoch"}
    whole = make(tmp_path / "a", model=model(), pruning=None, settings=settings)
    whole.train()
    halted = make(
        tmp_path / "b",
        model=model(),
        pruning=None,
        callbacks=[At(8, lambda: 1 / 0)],
        settings=settings,
    )
    with pytest.raises(ZeroDivisionError):
        halted.train()
    resumed = make(tmp_path / "b", model=model(), pruning=None, settings=settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step
    assert torch.equal(logits(resumed.model), logits(whole.model))


def test_an_optimizer_of_ones_own_is_not_replaced_in_silence(tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = make(tmp_path, model=model, optimizers=(optimizer, None))
    trainer.train()
    with pytest.raises(TrainingError, match=r"holds the weights of the model before it was shrunk"):
        trainer.train()
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.01)
    before = logits(trainer.model)
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    assert not torch.equal(before, logits(trainer.model))


def test_the_best_of_no_evaluation(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 5,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "max_steps": 12,
    }
    late = PruningConfig(sparsity=0.5, min_neurons=4, end=0.9)
    trainer = make(tmp_path, pruning=late, eval_dataset=rows(8), settings=settings)
    if TRANSFORMERS_5:  # evaluates after the last step
        trainer.train()
        return
    with pytest.raises(TrainingError, match="at step 11 of 12, but with eval_steps 5 the last one "
                       "is at step 10: evaluate more often"):  # fmt: skip
        trainer.train()
    assert trainer.state.global_step == 0


def test_an_early_end_without_an_evaluation_is_told(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop |= state.global_step == 4

    settings: dict[str, Any] = {
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 3,
        "save_steps": 3,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    }
    soon = PruningConfig(sparsity=0.5, min_neurons=4, end=1 / 3, update_every_steps=2)
    trainer = make(
        tmp_path, pruning=soon, eval_dataset=rows(8), callbacks=[Stop()], settings=settings
    )
    with pytest.warns(UserWarning, match="so the last model is kept, not the best"):
        trainer.train()


@pytest.mark.parametrize(("strategy", "steps"), [("no", []), ("epoch", [6, 12]), ("steps", None)])
def test_pruning_is_logged_where_losses_are(strategy: str, steps: Any, tmp_path: Path) -> None:
    trainer = make(tmp_path, settings={"logging_strategy": strategy, "logging_steps": 1})
    trainer.train()
    logged = [e["step"] for e in trainer.state.log_history if "pruning/sparsity" in e]
    losses = [e["step"] for e in trainer.state.log_history if "loss" in e]
    if steps is None:
        assert len(logged) > 2
        assert losses == list(range(1, 13))
    else:
        assert losses == steps
        assert logged == steps[:1], "the target is reached in the middle"


def test_without_pruning_the_callbacks_are_trainers(tmp_path: Path) -> None:
    theirs, ours, pruning = (
        [type(one).__name__ for one in trainer.callback_handler.callbacks]
        for trainer in (
            make(tmp_path, Trainer),
            make(tmp_path, pruning=None),
            make(tmp_path, callbacks=[At(1, list)]),
        )
    )
    assert ours == theirs
    assert pruning.index("DefaultFlowCallback") < pruning.index("PruningCallback")
    assert pruning.index("PruningCallback") < pruning.index("At")


def test_without_pruning_a_loss_that_is_no_number_is_as_with_trainer(tmp_path: Path) -> None:
    def broken() -> Any:
        model = bert()
        with torch.no_grad():
            model.classifier.bias.fill_(float("nan"))
        return model

    histories = []
    for cls in (Trainer, HFPruneTrainer):
        own = {"pruning": None} if cls is HFPruneTrainer else {}
        settings = {"logging_strategy": "steps", "logging_steps": 1, "max_steps": 2}
        trainer = make(tmp_path, cls, model=broken(), settings=settings, **own)
        trainer.train()
        histories.append([e["loss"] for e in trainer.state.log_history if "loss" in e])
    assert histories[0] == histories[1]
    with pytest.raises(TrainingError, match="the loss is nan at step 1"):
        make(tmp_path, model=broken(), pruning=None, careful=True).train()


# -- teachers of other kinds ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "inner", "removed", "expected"),
    [
        (1, 1, None, 4),
        (1, 2, None, 4),
        (2, 1, 0, 2),  # behind the first two layers, which do nothing, there is nothing to compare
        (2, 1, 1, 2),  # the last two pass on what the second gives: compared once, and the first
    ],
)
def test_albert_is_distilled_on_every_layer(
    groups: int, inner: int, removed: Any, expected: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sizes = {"num_hidden_groups": groups, "inner_group_num": inner, "num_hidden_layers": 4}
    model = tiny_model("albert", labels=2, **sizes)
    trainer = make(tmp_path, model=model, teacher=copy.deepcopy(model))
    trainer.pruner.begin(model, 10)
    if removed is not None:
        plan = trainer.plan
        for key in plan.keys():
            if key.layer == removed:
                plan = plan.with_block(key, [False] * len(plan.mask(key)))
        trainer.pruner.plan = plan
        trainer.pruner.gates.set_plan(plan)
    seen: list[int] = []

    def compared(mine: Any, theirs: Any, mask: Any) -> torch.Tensor:
        seen.append(len(mine))
        return hidden_loss(mine, theirs, mask)

    monkeypatch.setattr("hfprune.training.distillation.teaching.hidden_loss", compared)
    batch = {key: torch.tensor(value) for key, value in rows(4).to_dict().items()}
    trainer.compute_loss(model.train(), batch)
    inner_states = TRANSFORMERS_5 and inner == 2  # there, inner layers give their states too
    assert seen == [2 * expected if inner_states else expected]


def padding(side: str) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = tiny_tokenizer()
    tokenizer.padding_side = side
    return tokenizer


def uneven(seed: int = 0) -> datasets.Dataset:
    generator = torch.Generator().manual_seed(seed)
    lengths = [4, 4, 9, 9, 6, 11, 5, 7] * 3
    ids = [torch.randint(5, 100, (n,), generator=generator).tolist() for n in lengths]
    return datasets.Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": [[1] * n for n in lengths],
            "labels": [n % 2 for n in lengths],
        }
    )


@pytest.mark.parametrize(
    ("family", "side"),
    [("llama", "left"), ("llama", "right"), ("qwen2", "left"), ("roberta", "right")],
)
def test_a_model_learns_nothing_from_itself_on_either_side(
    family: str, side: str, tmp_path: Path
) -> None:
    model = tiny_model(family, labels=2, pad_token_id=0)
    collate = transformers.DataCollatorWithPadding(padding(side))
    data = uneven()
    cache = TeacherCache(model, data, collate, hidden=len(data), batch_size=2)
    chosen = [0, 5, 2, 7]
    batch = collate([data[row] for row in chosen])
    with torch.no_grad():
        found = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            output_hidden_states=True,
        )
    states = cache.hidden_states(torch.tensor(chosen), batch["input_ids"].shape[1])
    loss = hidden_loss(found.hidden_states[1:], states, batch["attention_mask"])
    assert float(loss) < 1e-5
    torch.testing.assert_close(cache.logits(torch.tensor(chosen)), found.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "side", "pads", "kept"),
    [
        ("gpt2", "left", 0, False),  # counts positions from the padding
        ("roberta", "left", 0, False),  # its head reads the first token
        ("gpt2", "right", 0, True),
        ("llama", "left", 0, True),
        ("llama", "right", 1, False),  # takes the padding for the last token
    ],
)
def test_outputs_that_depend_on_padding_are_computed_at_every_step(
    family: str, side: str, pads: int, kept: bool, tmp_path: Path
) -> None:
    trainer = make(
        tmp_path,
        model=tiny_model(family, labels=2, pad_token_id=0),
        teacher=tiny_model(family, labels=2, seed=3, pad_token_id=pads),
        train_dataset=uneven(),
        processing_class=padding(side),
        settings={"max_steps": 6},
    )
    trainer.train()
    assert (trainer.teaching.cache is not None) == kept


def test_steps_say_how_often_the_rows_are_seen(tmp_path: Path) -> None:
    """Not num_train_epochs, which max_steps overrules."""
    for steps, epochs, kept in ((13, 1, True), (5, 9, False)):
        settings = {"max_steps": steps, "num_train_epochs": epochs}
        trainer = make(tmp_path, teacher=bert(3), settings=settings)
        trainer._prepare_rows()
        assert (trainer.teaching.cache is not None) == kept


@pytest.mark.parametrize("by_init", [False, True])
def test_half_precision_is_trained_as_float32(by_init: bool, tmp_path: Path) -> None:
    def half() -> Any:
        return bert().to(torch.bfloat16)

    settings = {"learning_rate": 1e-5, "max_steps": 4, "max_grad_norm": 0.0}
    given: dict[str, Any] = {"model_init": half} if by_init else {"model": half()}
    with pytest.warns(UserWarning, match=r"are torch.bfloat16, in which most steps .*as float32"):
        trainer = make(tmp_path, pruning=None, careful=True, settings=settings, **given)
    before = half().float().state_dict()
    if by_init:
        with pytest.warns(UserWarning, match="torch.bfloat16"):
            trainer.train()
    else:
        trainer.train()
    weight = trainer.model.classifier.weight
    assert weight.dtype == torch.float32
    assert bool((weight != before["classifier.weight"]).all()), "every weight has moved"
    trainer.save_model(str(tmp_path / "saved"))
    again = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert again.classifier.weight.dtype == torch.float32
    plain = make(tmp_path, model=half(), pruning=None)
    assert plain.model.dtype == torch.bfloat16, "without any of ours, as Trainer does"


def test_epochs_of_a_stage_are_not_overruled_by_steps(tmp_path: Path) -> None:
    section = TrainingConfig(max_steps=7, num_train_epochs=2, bf16=False)
    own = stage_settings(section, num_train_epochs=3.0, learning_rate=None)
    assert (own.num_train_epochs, own.max_steps) == (3.0, -1)
    assert own.learning_rate == section.learning_rate
    args = training_arguments(own, tmp_path)
    trainer = HFPruneTrainer(bert(), args, train_dataset=rows(), eval_dataset=rows(8))
    assert trainer.args.max_steps == -1
    assert stage_settings(section, bf16=True).max_steps == 7
