"""HFPruneTrainer beyond one training: targets by stages, with nothing of Trainer lost."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from shifted import shifted, shifted_tokenizer
from tiny import random_rows as rows
from tiny import tiny_image_processor, tiny_model, tiny_tokenizer
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

import hfprune
from hfprune import HFPruneTrainer, PruningConfig
from hfprune.api.given import task_data
from hfprune.core.errors import CheckpointError, PlanError, RecipeError, TrainingError
from hfprune.families import model_sizes
from hfprune.pruning.cost import LatencyTable
from hfprune.training.arguments import training_arguments, training_section
from hfprune.training.distillation.reading import OtherTokenizer
from hfprune.training.trainer import HFPruneTrainer as OneTraining

TABLE = LatencyTable(
    batch_size=1,
    sequence_length=16,
    threads=1,
    baseline_ms=10.0,
    fixed_ms=0.4,
    attention=((0, 0.0), (1, 0.4), (4, 1.0)),
    ffn=((0, 0.0), (8, 0.2), (48, 1.0)),
)
LAYERS = {"keep_layers": [0, 2]}
SEARCHED = {
    "sparsity": 0.5, "method": "reconstruction", "search_rounds": 1, "scoring_samples": 16,
}  # fmt: skip


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        **changes,
    }
    return TrainingArguments(str(folder), **settings)


def make(folder: Path, cls: Any = HFPruneTrainer, **changes: Any) -> Any:
    settings = changes.pop("settings", {})
    given: dict[str, Any] = {
        "model": tiny_model("bert", labels=2),
        "train_dataset": rows(),
        "eval_dataset": rows(8, seed=1),
        "pruning": LAYERS,
        **changes,
    }
    return cls(args=arguments(folder, **settings), **given)


def same(left: Any, right: Any) -> bool:
    mine, theirs = left.state_dict(), right.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in mine.items()
    )


# -- an ordinary Trainer -------------------------------------------------------------------------


class Own(HFPruneTrainer):
    """A loss and a count of the user's own."""

    steps = 0

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.steps += model.training
        return super().compute_loss(model, inputs, *args, **kwargs)


class Seen(TrainerCallback):
    def __init__(self) -> None:
        self.sizes: list[Any] = []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sizes.append(model_sizes(kwargs["model"]))


def test_train_is_that_of_a_trainer(tmp_path: Path) -> None:
    """An ordinary result, the small model in place, own methods and callbacks in all stages."""
    seen = Seen()
    model = tiny_model("bert", labels=2)
    before = copy.deepcopy(model)
    trainer = make(tmp_path, Own, model=model, callbacks=[seen], processing_class=tiny_tokenizer())
    args = trainer.args
    output = trainer.train()
    assert isinstance(output, TrainOutput)
    assert output.global_step == trainer.steps == 2, "as long as the arguments say"
    assert seen.sizes == [((4, 48), (0, 0), (4, 48))]
    assert trainer.plan.sizes() == seen.sizes[0]
    # In its last form, which transformers loads by itself.
    assert model_sizes(trainer.model) == ((4, 48), (4, 48))
    assert trainer.pruning_metrics()["pruning/sparsity"] == pytest.approx(1 / 3, abs=1e-5)
    assert trainer.args is args
    assert args.output_dir == str(tmp_path)
    assert trainer.family == {}
    assert trainer.search is None
    assert same(model, before), "what came in is as it was"
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(tmp_path / "saved"))
    again = hfprune.from_pretrained(tmp_path / "saved")
    assert same(again, trainer.model)
    assert trainer.predict(rows(8)).predictions.shape == (8, 2)
    # A second train() fine-tunes the small model, as after one training.
    assert trainer.train().global_step == 2
    assert model_sizes(trainer.model) == ((4, 48), (4, 48))
    assert trainer.evaluate()["eval_loss"] != loss


def test_arguments_of_train_reach_the_trainings(tmp_path: Path) -> None:
    class Evaluates(HFPruneTrainer):
        def evaluate(self, *args: Any, ignore_keys: Any = None, **kwargs: Any) -> Any:
            ignored.append(ignore_keys)
            return super().evaluate(*args, ignore_keys=ignore_keys, **kwargs)

    ignored: list[Any] = []
    trainer = make(tmp_path, Evaluates, settings={"eval_strategy": "epoch"})
    trainer.train(ignore_keys_for_eval=["hidden_states"])
    assert ignored == [["hidden_states"]]
    with pytest.raises(TypeError, match="ignore_keys'"):
        make(tmp_path).train(ignore_keys=[])


def test_recovery_says_how_long(tmp_path: Path) -> None:
    none = make(tmp_path / "a", recovery={"num_train_epochs": 0})
    output = none.train()
    assert (output.global_step, output.training_loss) == (0, 0.0)
    assert output.metrics["train_runtime"] > 0
    longer = make(tmp_path / "b", recovery={"num_train_epochs": 2, "freeze_embeddings": True})
    assert longer.train().global_step == 4
    word = "bert.embeddings.word_embeddings.weight"
    whole = tiny_model("bert", labels=2).state_dict()[word]
    assert torch.equal(longer.model.state_dict()[word], whole)
    # After gates too: a training with gates, and one of what is left.
    gates = {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 2}
    both = make(tmp_path / "c", pruning=gates, recovery={"num_train_epochs": 2})
    assert both.train().global_step == 4
    assert [output.global_step for output in both.outputs] == [2, 4]


def test_one_training_is_that_of_the_lower_class(tmp_path: Path) -> None:
    """Targets that one training reaches are reached by it alone, to the last bit."""
    gates = {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 2}
    found = []
    for cls in (HFPruneTrainer, OneTraining):
        trainer = make(tmp_path / cls.__module__, cls, pruning=gates)
        trainer.train()
        found.append(trainer.model)
    assert same(*found)
    assert not (tmp_path / HFPruneTrainer.__module__ / "pruned.work").exists()


def test_a_family_by_a_given_table(tmp_path: Path) -> None:
    """Nothing is measured: neither tokenizer nor exporter is needed."""
    pruning = PruningConfig(speedup=[2.0, 4.0], update_every_steps=2)
    trainer = make(tmp_path, pruning=pruning, latency=TABLE)
    trainer.train()
    assert list(trainer.family) == ["2x", "4x"]
    assert trainer.model is trainer.family["4x"]
    sizes = [model_sizes(model) for model in trainer.family.values()]
    assert all(TABLE.speedup(of) >= speed - 1e-9 for of, speed in zip(sizes, (2, 4), strict=True))
    assert not trainer.family["2x"].training
    assert trainer.plan.totals() == ((4, 48),) * 3, "from the dense model"
    with pytest.raises(PlanError, match="a speed-up of 30 allows .* lower pruning.speedup"):
        make(tmp_path / "b", pruning={**SEARCHED, "sparsity": None, "speedup": 30.0},
             latency=TABLE).train()  # fmt: skip


def test_candidates_are_searched_and_distilled(tmp_path: Path) -> None:
    teacher = tiny_model("bert", labels=2)
    trainer = make(tmp_path, pruning=SEARCHED, teacher=teacher, settings={"num_train_epochs": 2})
    trainer.train()
    assert trainer.teacher is teacher
    assert len(trainer.outputs) >= 2, "trials, and the recovery"
    assert trainer.pruning_metrics()["pruning/sparsity"] >= 0.5
    assert trainer.teacher_cache is not None


def test_callbacks_begin_anew_in_each_training(tmp_path: Path) -> None:
    """An early stop in one training says nothing of the next; a trial has none."""
    early = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = make(
        tmp_path,
        pruning=PruningConfig(speedup=[2.0, 4.0], update_every_steps=1, end=0.1, start=0.1),
        latency=TABLE,
        callbacks=[early],
        settings={
            "num_train_epochs": 4, "learning_rate": 1.0, "eval_strategy": "epoch",
            "save_strategy": "epoch", "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
        },
    )  # fmt: skip
    counts = []
    real = early.on_train_begin

    def begin(*args: Any, **kwargs: Any) -> None:
        counts.append(early.early_stopping_patience_counter)
        real(*args, **kwargs)

    early.on_train_begin = begin  # type: ignore[method-assign]
    trainer.train()
    assert counts == [0, 0]
    early.early_stopping_patience_counter = 0
    searched = make(
        tmp_path / "b",
        pruning=SEARCHED,
        callbacks=[early],
        settings={
            "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
        },
    )  # fmt: skip
    searched.train()
    assert counts == [0, 0, 0], "of the recovery alone"
    assert early in searched.callback_handler.callbacks


def test_a_new_model_for_each_training(tmp_path: Path) -> None:
    """Also where an earlier one left several; of one that was interrupted nothing is left."""
    steps: list[Any] = []

    class Interrupts(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)
            if len(steps) == 11:
                raise KeyboardInterrupt

    trainer = make(
        tmp_path,
        model=None,
        model_init=lambda: tiny_model("bert", labels=2),
        pruning=PruningConfig(speedup=[2.0, 4.0], update_every_steps=1),
        latency=TABLE,
        callbacks=[Interrupts()],
    )
    found = []
    for _ in range(2):
        trainer.train()
        found.append(copy.deepcopy(trainer.model))
    assert same(*found)
    assert trainer.model_init is not None
    assert list(trainer.family) == ["2x", "4x"]
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.family == {}
    assert model_sizes(trainer.model) == ((4, 48),) * 3


def test_what_is_saved_on_the_way_is_what_was_measured(tmp_path: Path) -> None:
    """In every stage, by the Trainer and in its checkpoints, at the step that is evaluated."""
    seen: list[tuple[str, Any]] = []

    class Compares(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loss = trainer.evaluate(rows(8, 1))["eval_loss"]
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            trainer.save_model(str(tmp_path / "saved"))
            for folder in (place, tmp_path / "saved"):
                found = hfprune.from_pretrained(folder)
                again = Trainer(found, copy.copy(trainer.args)).evaluate(rows(8, 1))["eval_loss"]
                assert again == pytest.approx(loss, abs=1e-5)
            seen.append((place.parent.name, model_sizes(found)))

    trainer = make(
        tmp_path / "run",
        pruning=PruningConfig(speedup=[2.0, 4.0], update_every_steps=1, end=0.9),
        latency=TABLE,
        callbacks=[Compares()],
        settings={"save_strategy": "epoch", "num_train_epochs": 2},
    )
    trainer.train()
    assert [stage for stage, _ in seen] == ["prune-2x", "prune-2x", "prune-4x", "prune-4x"]
    assert len({sizes for _, sizes in seen}) >= 3
    assert [seen[1][1], seen[3][1]] == [model_sizes(model) for model in trainer.family.values()]


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Stages that are done are not repeated, a training goes on from its checkpoint."""

    class Interrupts(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                raise KeyboardInterrupt

    settings = {"num_train_epochs": 3, "save_strategy": "epoch"}
    whole = make(tmp_path / "whole", settings=settings)
    whole.train()
    place = tmp_path / "run"
    stopped = make(place, settings=settings, callbacks=[Interrupts()])
    dense = copy.deepcopy(stopped.model)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert same(stopped.model, dense), "as it came in: the stages are on the disk"
    saved = place / "pruned.work" / "checkpoints" / "recover-pruned"
    assert (saved / "checkpoint-2").is_dir()
    resumed = make(place, settings=settings)
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed.model, whole.model)
    with pytest.raises(CheckpointError, match=r"alone does not say where.*=True\)"):
        make(place, settings=settings).train(resume_from_checkpoint=str(saved / "checkpoint-2"))
    other = make(place, settings=settings, model=tiny_model("bert", labels=2, seed=5))
    other.train(resume_from_checkpoint=True)
    assert not same(other.model, whole.model), "another model: done again"


def test_stages_publish_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a stage ends with is not the last model, and nobody is to take it for that."""
    pushed: list[Any] = []
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, place: pushed.append(place))

    class Exports(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with pytest.raises(TrainingError, match="nothing has been pruned yet"):
                trainer.export(tmp_path / "exported")
            ended.append(args.output_dir)

    ended: list[str] = []
    trainer = make(
        tmp_path / "run",
        pruning=PruningConfig(speedup=[2.0, 4.0], update_every_steps=1),
        latency=TABLE,
        callbacks=[Exports()],
        settings={"push_to_hub": True, "save_strategy": "epoch"},
    )
    trainer.train()
    assert len(ended) == 2
    assert pushed == []
    assert (
        "not pushed while they train: call push_to_hub() after train()" in capsys.readouterr().err
    )
    assert trainer.args.push_to_hub


# -- rows of all kinds ---------------------------------------------------------------------------


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(rows())


def test_rows_as_a_trainer_takes_them(tmp_path: Path) -> None:
    """Tensors in a list, several evaluation sets; a stream, with labels by their usual names."""
    listed = [{**row, "input_ids": torch.tensor(row["input_ids"])} for row in rows()]
    found = []
    for number, (train, evaluation) in enumerate(
        [(rows(), rows(8, 1)), (listed, {"first": rows(8, 1), "second": rows(4)})]
    ):
        trainer = make(
            tmp_path / str(number),
            pruning=SEARCHED,
            recovery={"num_train_epochs": 0},
            train_dataset=train,
            eval_dataset=evaluation,
        )
        trainer.train()
        found.append(trainer.model)
    # Made by a transform from texts, which no column of ids shows.
    tokens = [" ".join(map(str, ids)) for ids in rows()["input_ids"]]
    under = datasets.Dataset.from_dict({"words": tokens, "y": rows()["label"][:]})

    def to_inputs(batch: dict[str, Any]) -> dict[str, Any]:
        ids = [[int(word) for word in text.split()] for text in batch["words"]]
        return {"input_ids": ids, "labels": batch["y"]}

    transformed = make(
        tmp_path / "t",
        pruning=SEARCHED,
        recovery={"num_train_epochs": 0},
        train_dataset=under.with_transform(to_inputs),
        settings={"remove_unused_columns": False},
    )
    transformed.train()
    found.append(transformed.model)
    assert all(same(found[0], other) for other in found[1:])
    streamed = make(tmp_path / "s", train_dataset=Stream(), settings={"max_steps": 2})
    assert streamed.train().global_step == 2


def test_what_is_known_of_rows() -> None:
    """The longest row, and rows of evaluation that are also trained on."""
    model = tiny_model("bert", labels=2)
    train = [{"input_ids": [5, 6, 7], "labels": 0}, {"input_ids": [8] * 9, "labels": 1}]
    evaluation = [{"input_ids": [5, 6, 7], "labels": 1}, {"input_ids": [5, 6], "labels": 0}]
    for wrapped in (lambda rows: rows, datasets.Dataset.from_list):
        found = task_data(model, wrapped(train), wrapped(evaluation), None)
        assert found.max_length == 9
        assert found.seen_in_train == {"validation": 1, "test": 1}
    words = datasets.Dataset.from_list([{"text": "5 6 7", "y": 0}, {"text": "8 8", "y": 1}])
    made = words.with_transform(
        lambda batch: {
            "input_ids": [[int(word) for word in text.split()] for text in batch["text"]],
            "labels": batch["y"],
        }
    )
    found = task_data(model, made, evaluation, None)
    assert (found.max_length, found.seen_in_train["validation"]) == (3, 1)
    assert found.texts == {}, "there are none of the evaluation rows"
    assert task_data(model, made, made, None).texts["train"] == ["5 6 7", "8 8"]
    assert task_data(model, made, None, None).seen_in_train == {"validation": 0, "test": 0}


def test_images(tmp_path: Path) -> None:
    """Pixels as the model reads them."""
    draw = torch.Generator().manual_seed(0)
    images = [
        {"pixel_values": torch.randn(3, 12, 12, generator=draw), "labels": i % 2} for i in range(16)
    ]
    trainer = make(
        tmp_path,
        model=tiny_model("vit", labels=2),
        train_dataset=images,
        eval_dataset=images,
        processing_class=tiny_image_processor(),
        pruning=SEARCHED,
        recovery={"num_train_epochs": 0},
    )
    trainer.train()
    assert trainer.pruning_metrics()["pruning/sparsity"] >= 0.5


def test_a_class_of_the_users_own(tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    class Mine(BertForSequenceClassification):  # type: ignore[misc]
        def forward(self, input_ids: Any, labels: Any = None, **kwargs: Any) -> Any:
            return super().forward(input_ids, labels=labels, **kwargs)

    model = Mine(tiny_model("bert", labels=2).config)
    trainer = make(tmp_path, model=model)
    trainer.train()
    assert type(trainer.model) is Mine


# -- refused before anything is trained ----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"pruning": {"keep_layers": [7]}}, PlanError, "the model has layers 0 to 2"),
        ({"pruning": SEARCHED, "eval_dataset": None}, TrainingError,
         "compares candidates on evaluation rows before it trains one: pass eval_dataset"),
        ({"pruning": {"max_metric_drop": 0.1}}, TrainingError, "pass processing_class"),
        ({"pruning": {"speedup": 2}}, TrainingError, "pass processing_class"),
        ({"pruning": {"sparsity": 0.5, "vocabulary": {}}, "eval_dataset": None}, TrainingError,
         "vocabulary is compared on evaluation rows: pass eval_dataset"),
        ({"train_dataset": None}, TrainingError, "pruning needs rows: pass train_dataset"),
        ({"optimizers": (object(), None)}, TrainingError, "pass optimizer_cls_and_kwargs"),
        ({"recovery": {"num_train_epoch": 1}}, RecipeError, "Did you mean 'num_train_epochs'"),
        ({"recovery": 3}, TrainingError, "recovery must be a RecoveryConfig, a dict of its keys"),
        ({"benchmark": {"threads": 0}}, RecipeError, "threads"),
        ({"pruning": None, "recovery": {"num_train_epochs": 1}}, TrainingError,
         "nothing is removed: pass pruning"),
        ({"pruning": {"sparsity": 0.5}, "recovery": {"freeze_embeddings": True}}, TrainingError,
         "not for how long: give num_train_epochs"),
        ({"distillation": {"rest_of_texts": True}}, RecipeError, "as unlabeled_dataset"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_once(
    changes: dict[str, Any], kind: type[Exception], told: str, tmp_path: Path
) -> None:
    if "distillation" in changes:
        changes = {**changes, "teacher": tiny_model("bert", labels=2)}
    with pytest.raises(kind, match=told):
        make(tmp_path, **changes)


def test_a_teacher_of_other_tokens_has_none_to_take(tmp_path: Path) -> None:
    other = shifted(tiny_model("bert", labels=2))
    teacher = OtherTokenizer(other, shifted_tokenizer(), tiny_tokenizer(), 64)
    with pytest.raises(TrainingError, match="this one has a vocabulary of its own"):
        make(
            tmp_path,
            pruning={"sparsity": 0.5, "vocabulary": {}},
            processing_class=tiny_tokenizer(),
            teacher=teacher,
            distillation={"hidden_weight": 0},
        )


def test_texts_that_are_split_anew_must_be_there(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    pruning = {"sparsity": 0.5, "vocabulary": {}, "min_neurons": 4}
    trainer = make(tmp_path / "a", pruning=pruning, processing_class=tokenizer)
    with pytest.raises(TrainingError, match="hold no column 'text' of raw texts: keep it beside"):
        trainer.train()
    texts = ["good film", "bad plot"] * 8
    data = datasets.Dataset.from_dict({"text": texts, "label": [0, 1] * 8})
    wrong = data.map(lambda row: tokenizer(row["text"] + " story"))
    given = {"train_dataset": wrong, "eval_dataset": wrong, "processing_class": tokenizer}
    with pytest.raises(TrainingError, match="row 1 of train does not hold the tokens"):
        make(tmp_path / "b", pruning=pruning, **given).train()


# -- arguments as a recipe's section -------------------------------------------------------------


def test_the_section_of_arguments(tmp_path: Path) -> None:
    """The reverse of ``training_arguments``; what a recipe cannot say is left out."""
    from hfprune.recipe.sections.training import TrainingConfig

    section = TrainingConfig(
        num_train_epochs=2.5,
        learning_rate=3e-4,
        warmup_ratio=0.1,
        eval_strategy="steps",
        eval_steps=10,
        save_strategy="steps",
        save_steps=20,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        group_by_length=True,
        seed=7,
    )
    found = training_section(training_arguments(section, tmp_path))
    assert found == section.model_copy(update={"greater_is_better": None})
    odd = arguments(tmp_path, lr_scheduler_type="cosine_with_min_lr", num_train_epochs=4)
    assert training_section(odd).num_train_epochs == 4
    assert training_section(odd).lr_scheduler_type == "linear"
