"""What a small model learns from, and at which rate."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from shifted import shifted, shifted_tokenizer
from tiny import prepared_run, save_tiny_classifier, tiny_model, write_reviews

from hfprune import load_recipe
from hfprune.core.errors import CheckpointError
from hfprune.core.results import SizesCandidate
from hfprune.pipeline import run
from hfprune.pipeline.candidates import best_candidate
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, keep, plan_in
from hfprune.pipeline.results import Candidate, Candidates, Rate, SavedModel
from hfprune.pipeline.stages import rate, recover, trial, vocabulary
from hfprune.report.console import Console
from hfprune.training.distillation.reading import row_key


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_classifier("bert", folder / "model")
    write_reviews(folder / "reviews.csv", 120)
    return folder


def recipe_file(folder: Path, inputs: Path, **changes: Any) -> Path:
    recipe: dict[str, Any] = {
        "model": {"name_or_path": str(inputs / "model")},
        "data": {"train_file": str(inputs / "reviews.csv"), "max_length": 32},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8},
        "recovery": {"num_train_epochs": 1},
        "export": {"quantization": {}},
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
        "output_dir": str(folder / "out"),
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_tokens_of_texts_without_labels_are_kept(inputs: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.csv"
    lines = [" ".join(["clever"] * 20 + ["film"] * number) for number in range(30)]
    more.write_text("\n".join(["text", *lines]) + "\n")
    kept = []
    for unlabeled in ([], [f"data.unlabeled_file={more}"]):
        path = recipe_file(tmp_path, inputs, pruning={"sparsity": 0.5, "vocabulary": {}})
        recipe = load_recipe(path, ["overwrite=true", "data.max_length=64", *unlabeled])
        context, made, *_ = prepared_run(recipe, Console(quiet=True))
        dense = made.load(context, str(inputs / "model"), None)
        start = keep(context, dense, "dense", made.dense.processor)
        found = vocabulary.run(context, made, start, 600)
        kept.append(plan_in(context.path(found.folder)).vocabulary or ())
    clever = made.dense.processor.convert_tokens_to_ids("clever")
    assert [clever in some for some in kept] == [False, True]


def test_a_recovery_finds_its_learning_rate(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, noted = Console(quiet=True), list[str]()
    monkeypatch.setattr(console, "note", noted.append)
    path = recipe_file(
        tmp_path,
        inputs,
        teacher={"name_or_path": str(inputs / "model")},
        pruning={"keep_layers": [0, 2]},
        recovery={"num_train_epochs": 2, "learning_rate": "auto"},
    )
    context, made, *_ = prepared_run(load_recipe(path), console)
    dense = made.load(context, str(inputs / "model"), None)
    start = keep(context, dense, "dense", made.dense.processor)
    found = rate.run(context, made, "pruned", "dense", start)
    tried = [entry["learning_rate"] for entry in found.tried]
    assert tried[:4] == [1e-4, 2e-4, 5e-4, 1e-3]
    first = {entry["learning_rate"]: entry["divergence"] for entry in found.tried[:4]}
    assert tried[4:] == sorted(first, key=lambda one: first[one])[:2]
    assert [entry["epochs"] for entry in found.tried] == [0.125] * 4 + [0.25] * 2
    assert found.learning_rate in tried[4:]
    assert noted[-1] == f"learning rate of the recovery: {found.learning_rate:g}"
    # The rate is the one that the recovery trains with; here nearest is what moves least.
    seen = []

    def train(prepared: Prepared, trainer: Any, checkpoint: str | None = None) -> Any:
        seen.append(trainer.args.learning_rate)
        return trainer

    monkeypatch.setattr(recover, "train", train)
    monkeypatch.setattr(recover, "plan_in", lambda folder: None)
    for learning_rate in (None, 3e-4):
        recover.run(context, made, "pruned", start, start, 1, learning_rate)
    assert seen == [2e-4, 3e-4], "trials take the usual rate"


def test_a_rate_or_a_candidate_that_runs_away_loses_and_the_run_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe_file(
        tmp_path,
        inputs,
        teacher={"name_or_path": str(inputs / "model")},
        pruning={"keep_layers": [0, 2]},
        recovery={"num_train_epochs": 1, "learning_rate": "auto"},
        resume=True,
    )
    recipe = load_recipe(path)
    original = rate.recovery_trainer

    def overflowing(*args: Any, **changes: Any) -> Any:
        trainer = original(*args, **changes)
        if changes.get("learning_rate") == 1e-3 or "layers" in args[4]:
            trainer.model.classifier.weight.data.fill_(3e38)
        return trainer

    for module in (rate, trial):
        monkeypatch.setattr(module, "recovery_trainer", overflowing)
    told = []
    for _ in range(2):  # the second is an interrupted run that goes on
        context, made = prepared_run(recipe, Console(quiet=True))
        dense = made.load(context, str(inputs / "model"), None)
        start = keep(context, dense, "dense", made.dense.processor)
        rates = partial(rate.run, context, made, "pruned", "dense", start)
        found = context.stage("rate", Rate, rates, {})
        assert found.learning_rate != 1e-3
        assert [entry["divergence"] is None for entry in found.tried] == [False] * 3 + [
            True,
            *[False] * 2,
        ]
        known = Candidates(
            found={
                name: Candidate(folder="dense", sizes=[(4, 48)] * 3)
                for name in ("layers 0", "searched")
            }
        )
        best, record = best_candidate(context, made, "pruned", start, known, {})
        assert best == "searched"
        assert [entry["chosen"] for entry in record.values()] == [False, True]
        assert record["layers 0"]["divergence"] is None
        SizesCandidate.model_validate(record["layers 0"])
        told.append((found, record))
        monkeypatch.setattr(rate, "recovery_trainer", None)  # nothing is trained again
        monkeypatch.setattr(trial, "recovery_trainer", None)
    assert told[0] == told[1]


def test_all_processes_try_the_rates_of_the_main_one_longer(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe_file(tmp_path, inputs, pruning={"keep_layers": [0, 2]})
    context, made = prepared_run(load_recipe(path), Console(quiet=True))
    monkeypatch.setattr(rate, "recovery_trainer", lambda *args, **changes: changes)
    monkeypatch.setattr(rate, "briefly_trained", lambda context, made, changes: changes)
    monkeypatch.setattr(made.__class__, "teacher", lambda *args: None)
    monkeypatch.setattr(made.__class__, "saved", lambda *args: None)
    monkeypatch.setattr(rate, "by_rows", lambda context, made, model, dense: np.full(9, 0.1))
    monkeypatch.setattr(rate, "from_main", lambda mine: [1e-3, 2e-4])
    found = rate.run(context, made, "pruned", "dense", SavedModel(folder="dense"))
    assert [entry["learning_rate"] for entry in found.tried[4:]] == [1e-3, 2e-4]


@pytest.mark.parametrize("helps", [True, False])
def test_rounds_go_on_while_they_help(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helps: bool
) -> None:
    asked = list[tuple[float, float]]()

    def shown(before: Any, after: Any) -> bool:
        asked.append((float(before.mean()), float(after.mean())))
        return helps and len(asked) == 1

    monkeypatch.setattr(recover, "shown_nearer", shown)
    path = recipe_file(
        tmp_path,
        inputs,
        teacher={"name_or_path": str(inputs / "model")},
        pruning={"keep_layers": [0, 2]},
        recovery={"num_train_epochs": "auto"},
        export={"quantization": None, "temperature": False},
    )
    run(load_recipe(path), Console(quiet=True))
    out = tmp_path / "out"
    assert len(asked) == 1 + helps
    if helps:  # the third round begins with what the second one left
        assert asked[1][0] == pytest.approx(asked[0][1], rel=1e-5)
    log = json.loads((out / "details.json").read_text())["training"][-1]["log"]
    epochs = [entry["epoch"] for entry in log if "eval_loss" in entry]
    assert epochs == [1.0, 2.0, 3.0, *([4.0, 5.0, 6.0] if helps else [])]
    told = " ".join(str(entry) for entry in log)
    assert told.count("train_runtime") == 1 + helps


def recoveries(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The trainer and the teacher of each recovery from now on."""
    original, found = recover.recovery_trainer, list[tuple[Any, Any]]()

    def recovery(
        context: Context, made: Prepared, model: Any, teacher: Any, *args: Any, **more: Any
    ) -> Any:
        trainer = original(context, made, model, teacher, *args, **more)
        found.append((trainer, teacher))
        return trainer

    monkeypatch.setattr(recover, "recovery_trainer", recovery)
    return found


def test_several_teachers_are_learned_from_and_one_is_pruned(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, noted = Console(quiet=True), list[str]()
    taught = recoveries(monkeypatch)
    monkeypatch.setattr(console, "note", noted.append)
    path = recipe_file(
        tmp_path,
        inputs,
        teacher={"num_seeds": 2, "num_train_epochs": 1},
        pruning={"keep_layers": [0, 2]},
    )
    recipe = load_recipe(path)
    results = run(recipe, console)
    assert results is not None
    assert any(text.startswith("teacher of 2 seeds: validation accuracy 0.") for text in noted)
    ((_, ensemble),) = taught
    first, second = ensemble.models
    differ = [
        name
        for (name, one), (_, other) in zip(
            first.named_parameters(), second.named_parameters(), strict=True
        )
        if not torch.equal(one, other)
    ]
    assert differ, "each seed draws its rows in an order of its own"
    assert "teacher 2" in results["seconds"]


def test_another_model_with_its_own_tokenizer_is_learned_from(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, noted = Console(quiet=True), list[str]()
    taught = recoveries(monkeypatch)
    monkeypatch.setattr(console, "note", noted.append)
    other = shifted(tiny_model("roberta", labels=2, seed=9))
    other.config.id2label = {0: "negative", 1: "positive"}
    other.config.label2id = {"negative": 0, "positive": 1}
    other.save_pretrained(tmp_path / "other")
    shifted_tokenizer(lowercase=False).save_pretrained(tmp_path / "other")
    path = recipe_file(
        tmp_path,
        inputs,
        teacher={"learn_from": [str(tmp_path / "other")], "num_train_epochs": 1},
        pruning={"keep_layers": [0, 2]},
        distillation={"augmentation": 1},  # so that what the teachers say is kept
    )
    assert run(load_recipe(path), console) is not None
    assert any(text.startswith("teacher of 1 other model(s): validation") for text in noted)
    ((trainer, teacher),) = taught
    # What is learned is what the other model says of the texts as they were written.
    reader = teacher.models[1]
    rows = trainer.train_dataset.select(range(8))
    texts = [reader.originals[row_key(ids)] for ids in rows["input_ids"]]
    batch = shifted_tokenizer(lowercase=False)(
        texts, padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    with torch.no_grad():
        wanted = other.eval()(**{n: batch[n] for n in ("input_ids", "attention_mask")}).logits
    found = trainer.teacher_cache.logits(torch.arange(8))
    torch.testing.assert_close(found.softmax(-1), wanted.softmax(-1), atol=1e-5, rtol=1e-4)


def test_a_model_to_learn_from_is_refused_before_anything_is_trained(
    inputs: Path, tmp_path: Path
) -> None:
    for name, labels in (("three", 3), ("bare", 2)):
        shifted(tiny_model("bert", labels=labels)).save_pretrained(tmp_path / name)
    shifted_tokenizer().save_pretrained(tmp_path / "three")
    for name, said in (("three", "teacher.learn_from"), ("bare", "holds no tokenizer")):
        path = recipe_file(
            tmp_path,
            inputs,
            teacher={"learn_from": [str(tmp_path / name)], "num_train_epochs": 1},
            pruning={"keep_layers": [0, 2]},
        )
        recipe = load_recipe(path, ["overwrite=true"])
        with pytest.raises(CheckpointError, match=said):
            run(recipe, Console(quiet=True))
        assert not (tmp_path / "out.work" / "teacher").exists()
