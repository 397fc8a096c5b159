"""A recipe from end to end: on a tiny random model always, on the real MiniLM once."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import prepared_run, save_tiny_classifier, tiny_model, write_reviews

import hfprune
from hfprune import load_recipe
from hfprune.core.errors import CheckpointError, OutputError, TrainingError, UnsupportedModelError
from hfprune.core.memory import release_memory
from hfprune.families import model_sizes
from hfprune.pipeline import run
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import Precision, Recovered, SavedModel
from hfprune.pipeline.stages import recover
from hfprune.pipeline.stages import write as write_stage
from hfprune.pipeline.training import make_trainer, recovery_trainer
from hfprune.pruning.plan import PruningPlan
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.workplan import describe
from hfprune.report.console import Console
from hfprune.training.arguments import training_arguments

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "demo-assets"
MODELS = tuple(
    f"{size} {kind}" for size in ("dense", "pruned") for kind in ("PyTorch", "ONNX", "int8")
)


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
        "training": {
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
        },
        "pruning": {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 3},
        "recovery": {"num_train_epochs": 1},
        "export": {"quantization": {}},  # a search takes its time: one test makes one
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 3},
        "output_dir": str(folder / "out"),
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    results = run(load_recipe(recipe_file(folder, inputs)), Console(quiet=True))
    assert results is not None
    return folder / "out", results


def test_a_new_head_is_told_in_one_line(
    inputs: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    save_tiny_classifier("bert", tmp_path / "encoder")
    tiny_model("bert").bert.save_pretrained(tmp_path / "encoder")
    recipe = load_recipe(
        recipe_file(tmp_path, inputs), [f"model.name_or_path={tmp_path / 'encoder'}"]
    )
    context, made = prepared_run(recipe, Console(quiet=True))
    capfd.readouterr()
    made.load(context, str(tmp_path / "encoder"), None)
    said = [r.getMessage() for r in caplog.records if r.name == "hfprune.models.loading"]
    assert said == [
        f"{tmp_path / 'encoder'} has no weights for classifier.bias, classifier.weight: they start "
        "from random numbers, and training fits them"
    ]
    assert "newly initialized" not in "".join(capfd.readouterr())


def test_bfloat16_where_this_machine_is_faster_in_it(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(
        bf16: bool | str, gain: float, **changes: Any
    ) -> tuple[Context, Prepared, list[str]]:
        for module in ("core.machine", "pipeline.stages.data"):
            monkeypatch.setattr(f"hfprune.{module}.bfloat16_gain", lambda: gain)
        path = recipe_file(tmp_path, inputs, training={"bf16": bf16}, **changes)
        console, said = Console(quiet=True), list[str]()
        monkeypatch.setattr(console, "warn", said.append)
        return *prepared_run(load_recipe(path), console), said

    resumed = {"resume": True}
    fresh = {"overwrite": True}
    for gain, chosen in ((0.1, False), (1.1, False), (1.9, True)):
        context, made, said = prepared("auto", gain, **fresh)
        model = made.load(context, str(inputs / "model"), None)
        args = make_trainer(context, made, model, "teacher", made.dense).args
        assert (args.bf16, said) == (chosen, [])
        # A busy moment measures otherwise; what was begun goes on as it was begun.
        _, made, said = prepared("auto", 3.0 - gain, **resumed)
        assert made.bf16 is chosen
    _, made, said = prepared(True, 0.1, **fresh)
    assert made.bf16 is True
    assert said == [
        "training.bf16 is true, but this machine multiplies 10.0 times slower in bfloat16 than in "
        "float32; write bf16: auto, which uses it where it is faster"
    ]
    assert prepared(True, 0.9, **fresh)[2] == []
    assert prepared(False, 0.1, **fresh)[2] == []


def test_a_run_in_bfloat16_does_not_turn_it_on_for_later_trainers(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, seen = "ACCELERATE_MIXED_PRECISION", list[str | None]()

    def prepared(context: Context) -> None:
        training_arguments(context.recipe.training, tmp_path / "args")
        seen.append(os.environ.get(name))
        os.environ[name] = "bf16"  # as transformers 4 has done by now
        raise TrainingError("enough")

    monkeypatch.setattr(sys.modules["hfprune.pipeline.run"], "_prepare", prepared)
    recipe = load_recipe(recipe_file(tmp_path, inputs, training={"bf16": True}))
    for before in ("no", None):
        monkeypatch.delenv(name) if before is None else monkeypatch.setenv(name, before)
        with pytest.raises(TrainingError, match="enough"):
            run(recipe, Console(quiet=True))
        assert seen.pop() in {"bf16", before}
        assert os.environ.get(name) == before


def test_distilling_on_the_rest_of_long_texts(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(length: int, *changes: str) -> tuple[Context, Prepared, list[str], list[str]]:
        path = recipe_file(tmp_path, inputs, distillation={"rest_of_texts": True})
        recipe = load_recipe(
            path,
            [
                f"data.max_length={length}",
                "benchmark.sequence_lengths=[4]",
                "overwrite=true",
                *changes,
            ],
        )
        console, noted, warned = Console(quiet=True), list[str](), list[str]()
        monkeypatch.setattr(console, "note", noted.append)
        monkeypatch.setattr(console, "warn", warned.append)
        return *prepared_run(recipe, console), noted, warned

    context, made, noted, warned = prepared(5)
    rest = made.small.unlabeled
    assert rest is not None
    assert warned == []
    assert f"{len(rest)} more rows to distil on: the rest of training texts" in noted
    teacher, model = (made.load(context, str(inputs / "model"), None) for _ in range(2))
    trainer = recovery_trainer(context, made, model, teacher, "recover", num_train_epochs=1)
    trainer.train()
    assert len(trainer.train_dataset) == made.data.size("train") + len(rest)
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "a film that nobody labelled"}\n{"text": "dull"}\n')
    context, made, noted, _ = prepared(5, f"data.unlabeled_file={more}")
    assert made.small.unlabeled is not None
    assert len(made.small.unlabeled) == len(rest) + 2
    assert f"{len(rest)} more rows to distil on: the rest of training texts" in noted
    assert "2 unlabeled texts to learn from" in noted
    trainer = recovery_trainer(context, made, model, teacher, "recover", num_train_epochs=1)
    trainer.train()
    assert len(trainer.train_dataset) == made.data.size("train") + len(rest) + 2
    context, made, noted, _ = prepared(
        32, f"data.unlabeled_file={more}", "distillation.rest_of_texts=false"
    )
    assert made.small.unlabeled is not None
    assert len(made.small.unlabeled) == 2
    assert not any("rest of training texts" in text for text in noted)
    _, made, noted, warned = prepared(32)
    assert warned == [
        "distillation.rest_of_texts adds nothing: no training text goes on for a quarter of "
        "data.max_length (32) beyond it"
    ]


def test_output_directory(finished: tuple[Path, dict[str, Any]]) -> None:
    output, results = finished
    names = {path.name for path in output.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "onnx",
        "metrics.json",
        "plan.json",
        "recipe.yaml",
        "report.html",
        "details.json",
    }
    assert not output.with_name("out.work").exists()
    assert json.loads((output / "metrics.json").read_text()) == results
    text = (output / "metrics.json").read_text()
    assert str(output.parent) not in text, "results name no path of this machine"


def test_results_say_what_was_measured(finished: tuple[Path, dict[str, Any]]) -> None:
    output, results = finished
    assert results["format_version"] == 1
    assert results["labels"] == ["negative", "positive"]
    assert results["data"]["samples"] == {"train": 84, "validation": 12, "test": 24}
    assert tuple(results["evaluation"]["models"]) == MODELS
    assert {row["name"] for row in results["benchmark"]["rows"]} == set(MODELS)
    pruning = results["pruning"]
    config = json.loads((output / "config.json").read_text())
    assert config["hfprune"]["heads"] == pruning["heads"]
    assert config["hfprune"]["neurons"] == pruning["neurons"]
    assert pruning["sparsity"] >= 0.5
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    parameters = results["benchmark"]["parameters"]
    assert parameters["pruned"]["encoder"] < parameters["dense"]["encoder"]


def test_details_and_report_of_a_run(finished: tuple[Path, dict[str, Any]]) -> None:
    output, results = finished
    details = json.loads((output / "details.json").read_text())
    stages = [(entry["model"], entry["stage"]) for entry in details["training"]]
    assert stages == [("dense", "teacher"), ("pruned", "prune"), ("pruned", "recover")]
    assert any("pruning/sparsity" in line for line in details["training"][1]["log"])
    summary = results["evaluation"]["models"]["pruned int8"]["changes"]
    (name,) = details["changed"]
    assert name == "pruned int8"
    assert len(details["changed"][name]) == summary["changed"]
    assert all(row["text"] for row in details["changed"][name])
    for entry in results["evaluation"]["models"].values():
        table = np.asarray(entry["by_class"]["confusion"])
        assert table.sum() == 24
        assert table.trace() / 24 == pytest.approx(entry["metrics"]["accuracy"])
    assert "<h1>out</h1>" in (output / "report.html").read_text()


def test_a_stage_gives_back_what_refers_to_itself(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Ring:
        def __init__(self) -> None:
            self.me = self

    def do() -> Precision:
        seen.append(weakref.ref(Ring()))
        return Precision(bf16=False)

    recipe = load_recipe(recipe_file(tmp_path, inputs))
    context = Context.of(recipe, Console(quiet=True))
    context.store.open("digest", dump_recipe(recipe), resume=False, overwrite=False)
    monkeypatch.setattr("hfprune.pipeline.context.release_memory", lambda: release_memory(0))
    gc.disable()
    try:
        context.stage("one", Precision, do, {})
    finally:
        gc.enable()
    assert seen[0]() is None


def test_a_model_of_which_nothing_was_removed_is_not_trained_on_its_own_answers(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where int8 alone reaches the speed, training could only move the dense model away."""
    recipe = load_recipe(recipe_file(tmp_path, inputs))
    context, made = prepared_run(recipe, Console(quiet=True))
    said: list[str] = []
    monkeypatch.setattr(context.console, "note", said.append)
    model = made.load(context, str(inputs / "model"), None)
    whole, dense = PruningPlan.dense(model_sizes(model)), SavedModel(folder="dense")
    less = PruningPlan.first_units(whole.totals(), [(0, 0), *whole.totals()[1:]])
    for plan, name in ((whole, "whole"), (less, "less")):
        context.path(name).mkdir(parents=True)
        (context.path(name) / "plan.json").write_text(json.dumps(plan.to_dict()))

    def learns(name: str, start: SavedModel = dense) -> bool:
        return recover.has_to_learn(context, made, "2x", SavedModel(folder=name), start, dense)

    assert (learns("less"), said) == (True, [])
    assert learns("whole") is False
    told = "2x: nothing is removed for its speed: it is the dense model, and not trained"
    assert said == [told]
    assert learns("whole", SavedModel(folder="fewer-tokens"))
    made.taught.others = (SavedModel(folder="teacher-2"),)
    assert learns("whole"), "of other teachers there is more to learn"
    made.taught.others, made.trainer = (), make_trainer
    assert learns("whole"), "a Trainer's model learns from its user's labels"


@pytest.mark.parametrize("by_main", [False, True])
def test_a_stage_that_hands_on_an_earlier_result_keeps_what_its_own_class_says(
    inputs: Path, tmp_path: Path, by_main: bool
) -> None:
    """A model whose layers cannot be dropped is finished as it was recovered, and resumed so."""
    context = Context.of(load_recipe(recipe_file(tmp_path, inputs)), Console(quiet=True))
    context.store.open("a", "task: x", resume=False, overwrite=False)
    (context.path("m")).mkdir()
    earlier = Recovered(folder="m", log=None, nearer=True, divergence=(2.0, 1.0))
    for _ in range(2):  # done, and taken
        found = context.stage("finish", SavedModel, lambda: earlier, {}, by_main=by_main)
        assert (type(found), found) == (SavedModel, SavedModel(folder="m"))


def test_a_report_that_fails_is_a_warning(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(recipe_file(tmp_path, inputs))
    write_stage.report(Context.of(recipe, Console(quiet=True)), tmp_path)
    told = " ".join(capsys.readouterr().err.split())
    assert "no report was made (OutputError" in told
    assert "`hfprune report" in told


def test_reload_pipeline_and_onnx_agree(finished: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("optimum.onnxruntime", reason="needs Optimum, which needs transformers 4")
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    output, _ = finished
    model = hfprune.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    texts = ["good fine film", "bad dull film", "fine"]
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    answers = classify(texts, top_k=None)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    want = torch.softmax(logits, -1)
    for row, answer in zip(want, answers, strict=True):
        found = {entry["label"]: entry["score"] for entry in answer}
        assert found["positive"] == pytest.approx(float(row[1]), abs=1e-5)
    for name, tolerance in (("model.onnx", 1e-4), ("model_quantized.onnx", 0.5)):
        ort = ORTModelForSequenceClassification.from_pretrained(
            output, subfolder="onnx", file_name=name
        )
        np.testing.assert_allclose(ort(**batch).logits.numpy(), logits.numpy(), atol=tolerance)


def test_finished_output_is_not_overwritten(
    finished: tuple[Path, dict[str, Any]], inputs: Path
) -> None:
    output, _ = finished
    before = (output / "model.safetensors").read_bytes()
    recipe = load_recipe(recipe_file(output.parent, inputs))
    with pytest.raises(OutputError, match="is not empty: choose another output folder"):
        run(recipe, Console(quiet=True))
    assert (output / "model.safetensors").read_bytes() == before


def test_resume_equals_uninterrupted(
    finished: tuple[Path, dict[str, Any]],
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = recipe_file(tmp_path, inputs)
    calls: list[str] = []
    for stop in ("prune", "recover", "export", "benchmark"):
        module = import_module(f"hfprune.pipeline.stages.{stop}")
        real = module.run

        def interrupted(*args: Any, real: Any = real, stop: str = stop) -> Any:
            calls.append(stop)
            result = real(*args)
            if calls.count(stop) == 1:
                raise KeyboardInterrupt  # the work is done, but not yet recorded
            return result

        monkeypatch.setattr(module, "run", interrupted)
    overrides: list[str] = []
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run(load_recipe(path, overrides), Console(quiet=True))
        overrides = ["resume=true"]
    with pytest.raises(CheckpointError, match="holds an unfinished run; add resume=true"):
        run(load_recipe(path), Console(quiet=True))
    with pytest.raises(CheckpointError, match="was begun with another recipe"):
        run(load_recipe(path, ["resume=true", "pruning.sparsity=0.4"]), Console(quiet=True))
    run(load_recipe(path, overrides), Console(quiet=True))
    assert calls == ["prune"] * 2 + ["recover"] * 2 + ["export"] * 2 + ["benchmark"] * 2
    for name in ("model.safetensors", "plan.json"):
        assert (tmp_path / "out" / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_shrunk_model_is_pruned_again(
    finished: tuple[Path, dict[str, Any]], inputs: Path, tmp_path: Path
) -> None:
    before = finished[1]["pruning"]
    path = recipe_file(
        tmp_path,
        inputs,
        model={"name_or_path": str(finished[0])},
        teacher={"name_or_path": str(finished[0])},
        pruning={"sparsity": 0.4, "method": "reconstruction", "search_rounds": 2},
        recovery={"num_train_epochs": 0},
    )
    results = run(load_recipe(path), Console(quiet=True))
    assert results is not None
    after = results["pruning"]
    assert after["of_heads"] == before["heads"], "what the first run kept is what this one prunes"
    assert sum(after["neurons"]) < sum(before["neurons"])
    assert set(after["candidates"]) == {"searched"}, "fewer layers are for those who train"
    again = load_recipe(path, ["overwrite=true", "data.label_names=[a, negative, positive]"])
    with pytest.raises(CheckpointError, match="was shrunk for 2 labels, the data has 3; start"):
        run(again, Console(quiet=True))


@pytest.mark.slow
def test_a_reduced_vocabulary(
    finished: tuple[Path, dict[str, Any]],
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pruned models read fewer tokens, the dense ones all."""
    from transformers import AutoTokenizer

    from hfprune.pipeline.stages import reconstruct

    fewer = {"vocabulary": {"min_count": 15}}
    path = recipe_file(
        tmp_path,
        inputs,
        pruning={
            "sparsity": 0.5,
            "method": "reconstruction",
            "selection": "kprune",
            "search_rounds": 2,
            **fewer,
        },
        training={"num_train_epochs": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 8},
        benchmark={
            "batch_sizes": [1], "sequence_lengths": [16], "repeats": 3, "full_table": True,
        },
    )  # fmt: skip
    recipe = load_recipe(path)
    assert any("the training rows hold 15 times or more" in line for line in describe(recipe))
    assert any("by reconstruction (kprune) on 1024 rows" in line for line in describe(recipe))
    chosen: list[str] = []
    real = reconstruct.Reconstruction
    monkeypatch.setattr(
        reconstruct,
        "Reconstruction",
        lambda *args, **options: chosen.append(options["selection"]) or real(*args, **options),
    )
    results = run(recipe, Console(quiet=True))
    assert results is not None
    assert chosen == ["kprune"]
    timed = {row["name"] for row in results["benchmark"]["full_table"]}
    assert "pruned int8" in timed, "on ids that the small vocabulary has as well"
    report, output = results["vocabulary"], tmp_path / "out"
    assert report["tokens_before"] == 100
    assert 5 < report["tokens_after"] < 28
    assert report["unknown_after"] > report["unknown_before"] == 0
    assert 0 < report["changed"] <= 1
    assert finished[1]["vocabulary"] is None

    tokenizer = AutoTokenizer.from_pretrained(output)
    model = hfprune.from_pretrained(output)
    plan = hfprune.PruningPlan.from_dict(json.loads((output / "plan.json").read_text()))
    assert plan.vocabulary is not None
    assert len(tokenizer) == model.config.vocab_size == report["tokens_after"]
    assert len(plan.vocabulary) == report["tokens_after"]
    sizes = results["benchmark"]["parameters"]
    removed = sizes["dense"]["embeddings"] - sizes["pruned"]["embeddings"]
    assert removed == 32 * (100 - report["tokens_after"])
    # The dense models are those of the run that kept all tokens: same teacher, same numbers.
    for kind in ("PyTorch", "ONNX"):
        mine, theirs = (r["evaluation"]["models"][f"dense {kind}"] for r in (results, finished[1]))
        assert mine == theirs


def test_unknown_family_is_refused_before_any_work(inputs: Path, tmp_path: Path) -> None:
    model = tmp_path / "xlnet"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "xlnet"}')
    path = recipe_file(tmp_path, inputs, model={"name_or_path": str(model)})
    with pytest.raises(UnsupportedModelError, match="'xlnet'; supported: .*bert"):
        run(load_recipe(path), Console(quiet=True))
    assert not (tmp_path / "out.work").exists()


def prune_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/prune.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize("flag", ["--recipe", "--config"])
def test_dry_run_loads_nothing_and_shows_overrides(flag: str) -> None:
    done = prune_script(flag, "recipes/bert-base-sst2.yaml", "--dry-run", "pruning.sparsity=0.9")
    assert done.returncode == 0, done.stderr
    assert "sparsity: 0.9" in done.stdout
    assert "prune: 90% of the encoder's weights" in done.stdout
    assert not (ROOT / "runs/bert-base-sst2.work").exists()


def test_script_errors_are_one_line_and_exit_1() -> None:
    done = prune_script("--recipe", "recipes/bert-base-sst2.yaml", "pruning.sparsty=0.9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "sparsity" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_can_be_described(path: Path) -> None:
    lines = describe(load_recipe(path))
    assert lines[0].startswith("data: ")
    assert any(line.startswith("prune: ") for line in lines)
    recipe = load_recipe(path)
    assert ("tokens" in lines[0]) == (recipe.task != "image_classification")


def test_windows_are_described() -> None:
    changes = ["data.stride=32", "distillation.rest_of_texts=false"]
    recipe = load_recipe(ROOT / "recipes/bbc-news-minilm.yaml", changes)
    assert "long texts in windows of 256 tokens that share 32" in describe(recipe)[0]
