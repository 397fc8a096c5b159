"""HFPruneTrainer after training: files, times, a report, the model card, the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from tiny import TRANSFORMERS_5, tiny_model, tiny_tokenizer
from transformers import Trainer, TrainerCallback, TrainingArguments

import hfprune
from hfprune import HFPruneTrainer
from hfprune.api.card import edited
from hfprune.core.details import read_details
from hfprune.core.errors import OutputError, TrainingError
from hfprune.core.results import read_results
from hfprune.families import model_sizes
from hfprune.measure.sizes import count_parameters
from hfprune.pipeline.stages import benchmark, evaluate
from hfprune.pruning.cost import LatencyTable
from hfprune.publish.card import model_card
from hfprune.publish.push import push
from tests.publish.test_hub import TOKEN, UPLOADED, go_online, no_session_is_kept  # noqa: F401

PRUNING = {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 1}
MEASURED: dict[str, Any] = {
    "benchmark": {"batch_sizes": [1], "sequence_lengths": [8], "repeats": 1, "warmup": 0},
    "export": {"quantization": {}},
}


def rows(count: int = 16, seed: int = 0) -> datasets.Dataset:
    ids = torch.randint(5, 100, (count, 8), generator=torch.Generator().manual_seed(seed))
    return datasets.Dataset.from_dict(
        {"input_ids": ids.tolist(), "labels": [i % 2 for i in range(count)]}
    )


def make(folder: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        **changes.pop("settings", {}),
    }
    given: dict[str, Any] = {
        "model": tiny_model("bert", labels=2, layers=2),
        "train_dataset": rows(),
        "eval_dataset": rows(8, seed=1),
        "processing_class": tiny_tokenizer(),
        "pruning": PRUNING,
        **MEASURED,
        **changes,
    }
    return HFPruneTrainer(args=TrainingArguments(str(folder), **settings), **given)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trained once; what is asked of it is measured once too."""
    made = make(tmp_path_factory.mktemp("after") / "run", test_dataset=rows(12, seed=2))
    made.train()
    return made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(TOKEN) as server:
        go_online(monkeypatch, server.url)
        yield server


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model.eval()(torch.tensor(rows(8, seed=3)["input_ids"])).logits.numpy()


def test_files_for_a_server(trainer: Any, tmp_path: Path) -> None:
    from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier

    assert trainer.export(tmp_path / "served") == tmp_path / "served"
    names = {path.name for path in (tmp_path / "served").iterdir()}
    assert {"model.onnx", "model_quantized.onnx", "config.json", "tokenizer.json"} <= names
    ids = np.asarray(rows(8, seed=3)["input_ids"])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids),
             "token_type_ids": np.zeros_like(ids)}  # fmt: skip
    found = OnnxClassifier(tmp_path / "served" / "model.onnx").logits(batch)
    np.testing.assert_allclose(found, logits(trainer.model), atol=1e-4)
    with pytest.raises(OutputError, match="is not empty"):
        trainer.export(tmp_path / "served")


def test_times(trainer: Any) -> None:
    found = trainer.benchmark()
    assert [row.name for row in found.rows] == [
        "dense PyTorch", "dense ONNX", "dense int8", "pruned PyTorch", "pruned ONNX", "pruned int8",
    ]  # fmt: skip
    assert found.shapes() == [(1, 8)]
    assert found.parameters["pruned"]["encoder"] < found.parameters["dense"]["encoder"]


def test_a_report_is_what_a_run_leaves(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trainer.report()
    assert folder == Path(trainer.args.output_dir) / "pruned"
    results = read_results(folder)
    assert results.data["judged_on"] == "test_dataset"
    assert results.data["samples"] == {"train": 16, "validation": 8, "test": 12}
    assert results.evaluation.samples == 12
    assert results.members["pruned"].sparsity >= 0.5
    (log,) = read_details(folder).training
    assert (log.model, log.stage) == ("pruned", "prune")
    saved = hfprune.from_pretrained(folder)
    assert np.array_equal(logits(saved), logits(trainer.model))
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")

    def never(*args: Any) -> Any:
        raise AssertionError("measured before")

    for stage in (evaluate, benchmark):
        monkeypatch.setattr(stage, "run", never)
    other = trainer.report(tmp_path / "report")
    assert read_results(other).evaluation == results.evaluation
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(OutputError, match="holds no results of hfprune"):
        trainer.report(tmp_path / "mine")


def test_the_card_says_what_was_measured(trainer: Any) -> None:
    trainer.create_model_card()
    place = Path(trainer.args.output_dir)
    text = (place / "README.md").read_text(encoding="utf-8")
    assert text == model_card(place / "pruned"), "that of a recipe and of the command"
    assert "model = hfprune.from_pretrained(name)" in text
    assert "The test split is what the Trainer was given as test_dataset: 12 texts." in text
    trainer.create_model_card(
        language="en", license="mit", tags="reviews", model_name="small", dataset_tags="imdb",
        dataset="IMDB", dataset_args="plain_text", tasks="text-classification",
        finetuned_from="google-bert/bert-base-uncased",
    )  # fmt: skip
    data: Any = ModelCard.load(place / "README.md").data
    assert (data.language, data.license, data.base_model) == (
        "en", "mit", "google-bert/bert-base-uncased",
    )  # fmt: skip
    assert data.tags[0] == "hfprune"
    assert data.tags[-1] == "reviews"
    assert data.datasets == ["imdb"]
    assert data.eval_results[0].dataset_name == "IMDB"
    assert data.eval_results[0].dataset_config == "plain_text"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_pushed_is_what_the_command_pushes(
    trainer: Any, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "hub_model_id", "user/from-trainer")
    url = trainer.push_to_hub("Pruned")
    assert "user/from-trainer/commit/" in url
    push(trainer.report(), "user/from-command")
    mine, theirs = (hub.repos[f"user/from-{who}"].files() for who in ("trainer", "command"))
    assert mine.keys() == theirs.keys()
    assert mine.keys() == {name for name in UPLOADED if not name.startswith("figures/")}
    for name in mine.keys() - {"README.md"}:
        assert mine[name] == theirs[name], name
    card = mine["README.md"].decode()
    assert card == theirs["README.md"].decode().replace("from-command", "from-trainer")
    future = trainer.push_to_hub(blocking=False, license="mit", revision="small")
    assert "user/from-trainer/commit/" in future.result(timeout=60)
    card = hub.repos["user/from-trainer"].files("small")["README.md"].decode()
    assert "license: mit" in card
    shutil.rmtree(Path(trainer.args.output_dir) / "pruned")  # the card of others is unedited


# Two exports, and nothing in it is of the stack.
@pytest.mark.skipif(TRANSFORMERS_5, reason="runs on the other stack")
def test_a_model_trained_further_is_measured_anew(tmp_path: Path) -> None:
    """And without rows of their own, report and card say by which rows the numbers are."""
    trainer = make(tmp_path)
    trainer.train()
    trainer.export(tmp_path / "first")
    before = logits(trainer.model)
    trainer.train()
    assert not np.array_equal(before, logits(trainer.model))
    folder = trainer.report()
    assert np.array_equal(logits(hfprune.from_pretrained(folder)), logits(trainer.model))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "8 evaluation texts, 95% intervals" in card
    assert "(the Trainer's eval_dataset), so they flatter the model" in card
    assert "The test split" not in card
    assert "split: validation" in card
    assert "evaluation rows, by which checkpoints were chosen" in (
        folder / "report.html"
    ).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_family_is_exported_reported_and_pushed(tmp_path: Path, hub: LoopbackHub) -> None:
    table = LatencyTable(1, 8, 1, 10.0, 0.4, ((0, 0.0), (1, 0.4), (4, 1.0)),
                         ((0, 0.0), (8, 0.2), (48, 1.0)))  # fmt: skip
    pruning = {"speedup": [2.0, 4.0], "update_every_steps": 1}
    trainer = make(tmp_path, pruning=pruning, latency=table)
    trainer.train()
    trainer.export(tmp_path / "served")
    assert {path.name for path in (tmp_path / "served").iterdir()} == {"2x", "4x"}
    folder = trainer.report()
    assert list(read_results(folder).members) == ["2x", "4x"]
    for label, model in trainer.family.items():
        assert model_sizes(hfprune.from_pretrained(folder / label)) == model_sizes(model)
    trainer.hub_model_id = "user/family"
    assert len(trainer.push_to_hub()) == 2
    assert {"user/family-2x", "user/family-4x"} <= hub.repos.keys()
    trainer.create_model_card()
    assert "family-4x" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_nothing_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path / "a")
    for ask in (trainer.benchmark, trainer.report, lambda: trainer.export(tmp_path / "x")):
        with pytest.raises(TrainingError, match=r"nothing has been pruned yet: call train\(\)"):
            ask()
    plain = make(tmp_path / "b", pruning=None)
    plain.train()
    with pytest.raises(TrainingError, match="this trainer has no pruning, so there is no model"):
        plain.benchmark()
    unread = make(tmp_path / "c", processing_class=None)
    unread.train()
    with pytest.raises(TrainingError, match="with their tokenizer .* pass processing_class"):
        unread.export(tmp_path / "x")
    blind = make(tmp_path / "d", eval_dataset=None)
    blind.train()
    with pytest.raises(TrainingError, match="pass test_dataset, or eval_dataset"):
        blind.report()
    with pytest.raises(TrainingError, match="create_model_card has no argument 'licence'"):
        edited("", {"licence": "mit"})
    called: list[Any] = []
    monkeypatch.setattr(Trainer, "create_model_card", lambda self, **about: called.append(about))
    monkeypatch.setattr(Trainer, "push_to_hub", lambda self, *args, **more: called.append(args))
    plain.create_model_card(language="en")
    trainer.push_to_hub()
    assert called[0]["language"] == "en", "Trainer's own card, where nothing was pruned"
    assert called[1][0] == "End of training"


def test_the_card_of_an_interrupted_training_says_how_to_load(tmp_path: Path) -> None:
    class Interrupts(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    trainer = make(tmp_path / "run", callbacks=[Interrupts()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert 'hfprune.from_pretrained("run")' in card
    assert "was being pruned" in card
    saved = hfprune.from_pretrained(tmp_path / "run")
    assert model_sizes(saved) == trainer.plan.sizes() != trainer.plan.totals()


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints", "every_save"])
def test_the_pruned_model_is_pushed_whatever_the_strategy(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it, to resume from, the checkpoint, which carries its plan."""
    pushed: list[tuple[str | None, Path]] = []

    def upload(**given: Any) -> Any:
        kept = tmp_path / f"pushed-{len(pushed)}"
        shutil.copytree(given["folder_path"], kept, ignore=shutil.ignore_patterns("checkpoint-*"))
        pushed.append((given.get("path_in_repo"), kept))

        class Done:
            def done(self) -> bool:
                return True

        return Done()

    if TRANSFORMERS_5:
        monkeypatch.setattr(
            "transformers.trainer.hf_api", lambda: SimpleNamespace(upload_folder=upload)
        )
    else:
        monkeypatch.setattr("transformers.trainer.upload_folder", upload)
    monkeypatch.setattr("hfprune.training.pushing.upload_folder", upload)
    monkeypatch.setattr(
        Trainer, "init_hf_repo", lambda self, *args, **kw: setattr(self, "push_in_progress", None)
    )
    settings = {"save_strategy": "epoch", "push_to_hub": True, "hub_strategy": strategy}
    trainer = make(tmp_path / "run", settings=settings)
    trainer.hub_model_id = "user/name"
    trainer.train()
    models = [place for path, place in pushed if path is None]
    assert len(models) == 2
    assert trainer.args.hub_strategy == strategy
    small = hfprune.from_pretrained(models[-1])
    assert model_sizes(small) == model_sizes(trainer.model)
    assert np.array_equal(logits(small), logits(trainer.model))
    whole = [(path, place) for path, place in pushed if path is not None]
    names = {"checkpoint": ["last-checkpoint"] * 2, "every_save": []}
    steps = ["checkpoint-2", "checkpoint-4"]
    assert [path for path, _ in whole] == names.get(strategy, steps)
    for _, place in whole[-1:]:
        assert (place / "optimizer.pt").is_file()
        assert model_sizes(hfprune.from_pretrained(place)) == model_sizes(trainer.model)


def test_a_teacher_of_another_build_is_not_what_was_pruned(tmp_path: Path) -> None:
    """The dense model is the one that came in; also where the teacher's weights are bfloat16."""
    quiet = {"distillation": {"hidden_weight": 0.0}, "export": {"quantization": None}}
    model = tiny_model("bert", labels=2, layers=2)
    teacher = tiny_model("bert", labels=2, layers=3, seed=4).bfloat16()
    trainer = make(tmp_path / "a", model=model, teacher=teacher, **quiet)
    trainer.train()
    assert (
        trainer.benchmark().parameters["dense"]["encoder"]
        == count_parameters(tiny_model("bert", labels=2, layers=2))["encoder"]
    )
    layers = make(tmp_path / "b", teacher=teacher, pruning={"keep_layers": [0]}, **quiet)
    layers.train()
    assert model_sizes(layers.model) == ((4, 48),)
