"""Nothing of others is deleted, nothing that changed is resumed, one run at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import TRANSFORMERS_5, opened_store, save_tiny_classifier, write_reviews

from hfprune import load_recipe
from hfprune.core.errors import HFPruneError, OutputError
from hfprune.core.locks import FolderLock
from hfprune.pipeline import run, store
from hfprune.pipeline.results import SavedModel
from hfprune.pruning.plan import PruningPlan
from hfprune.report.console import Console

ROOT = Path(__file__).parents[2]
# Weights of uninterrupted runs, by what they follow from: most cases want the same.
FRESH: dict[tuple[tuple[bytes, ...], str], bytes] = {}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_classifier("bert", folder / "model")
    write_reviews(folder / "reviews.csv", 60)
    return folder


class World:
    """A short recipe with inputs of its own, and what a run of it says."""

    def __init__(self, folder: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        shutil.copytree(inputs, folder / "in")
        self.output = folder / "out"
        self.work = folder / "out.work"
        self.said: list[str] = []
        self.values: dict[str, Any] = {
            "model": {"name_or_path": str(folder / "in" / "model")},
            "data": {"train_file": str(folder / "in" / "reviews.csv"), "max_length": 32},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8},
            "pruning": {"keep_layers": [0, 2]},
            "recovery": {"num_train_epochs": 1},
            "export": {"quantization": {}},
            "benchmark": {
                "batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0,
            },
            "output_dir": str(self.output),
        }  # fmt: skip

    def file(self) -> Path:
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.values))
        return path

    def run(self, *overrides: str) -> dict[str, Any]:
        self.said = []
        console = Console(quiet=True)
        self.monkeypatch.setattr(console, "note", self.said.append)
        results = run(load_recipe(self.file(), overrides), console)
        assert results is not None
        return results

    def interrupted(self, stage: str = "benchmark") -> None:
        """A run that ends as if Ctrl-C had been pressed when this stage began."""
        module = import_module(f"hfprune.pipeline.stages.{stage}")
        with self.monkeypatch.context() as patch:

            def stop(*args: Any) -> Any:
                raise KeyboardInterrupt

            patch.setattr(module, "run", stop)
            with pytest.raises(KeyboardInterrupt):
                self.run()

    def weights(self) -> bytes:
        return (self.output / "model.safetensors").read_bytes()

    def fresh(self) -> bytes:
        """The weights of an uninterrupted run of the recipe as it is now, elsewhere."""
        files = sorted((self.folder / "in").rglob("*"))
        content = tuple(file.read_bytes() for file in files if file.is_file())
        settings = json.dumps(self.values["training"])
        if (content, settings) not in FRESH:
            before = self.said
            self.run(f"output_dir={self.folder / 'fresh'}")
            self.said = before
            weights = (self.folder / "fresh" / "model.safetensors").read_bytes()
            FRESH[content, settings] = weights
        return FRESH[content, settings]


@pytest.fixture
def world(tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, inputs, monkeypatch)


# -- nothing that we did not make is deleted -----------------------------------------------------


def _folder(name: str) -> Callable[[World], Any]:
    def arrange(w: World) -> None:
        (w.folder / name / "deep").mkdir(parents=True)
        (w.folder / name / "deep" / "thesis.tex").write_text("years of work")

    return arrange


def _folder_and_bad_model(w: World) -> None:
    _folder("out.work")(w)
    w.values["model"]["name_or_path"] = str(w.folder / "nowhere")


def _data_in_work(w: World) -> None:
    w.work.mkdir()
    shutil.copy(w.folder / "in" / "reviews.csv", w.work)
    w.values["data"]["train_file"] = str(w.work / "reviews.csv")


def _overwritten(then: Callable[[World], Any]) -> Callable[[World], Any]:
    def arrange(w: World) -> None:
        then(w)
        w.values["overwrite"] = True

    return arrange


def _repository_with_results(w: World) -> None:
    w.output.mkdir()
    (w.output / "metrics.json").write_text('{"format_version": 1, "recipe_sha256": "0"}')
    (w.output / ".git").mkdir()
    (w.output / ".git" / "HEAD").write_text("ref: refs/heads/main")


def _output_is_model(w: World) -> None:
    w.monkeypatch.chdir(w.folder / "in")
    w.values |= {"output_dir": str(w.folder / "in" / "model"), "overwrite": True}
    w.values["model"]["name_or_path"] = "model"


def _output_links_to_model(w: World) -> None:
    (w.folder / "link").symlink_to(w.folder / "in" / "model")
    w.values |= {"output_dir": str(w.folder / "link"), "overwrite": True}


def _data_in_output(w: World) -> None:
    w.monkeypatch.chdir(w.folder)
    w.values |= {"output_dir": "./in", "overwrite": True}


def _output(name: str) -> Callable[[World], Any]:
    def arrange(w: World) -> None:
        w.monkeypatch.chdir(w.folder)
        w.values["output_dir"] = name

    return arrange


def _work_is_a_link(w: World) -> None:
    store = opened_store(load_recipe(w.file()))
    store.folder.rename(w.folder / "elsewhere")
    w.work.symlink_to(w.folder / "elsewhere")


def _read_only(w: World) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system", str(w.work))

    w.monkeypatch.setattr("hfprune.core.ownership.Path.mkdir", fail)


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (_folder("out.work"), r"out\.work' is there and was not made by this version of hfprune"),
        (_folder("out.work.done"), r"out\.work\.done' is there and was not made by"),
        (_folder_and_bad_model, r"out\.work' is there and was not made by"),
        (_data_in_work, r"data.train_file .* lies in '.*out\.work', which the run replaces"),
        (_overwritten(_folder("out.work")), r"out\.work' is there and was not made by"),
        (_overwritten(_folder("out")), "holds no results of hfprune, so it will not be replaced"),
        (_overwritten(_repository_with_results), r"hfprune did not write \(\.git\)"),
        (_output_is_model, "model.name_or_path 'model' lies in '.*in/model'"),
        (_output_links_to_model, "model.name_or_path '.*in/model' lies in '.*in/model'"),
        (_data_in_output, "(model.name_or_path|data.train_file) '.*' lies in '.*/in'"),
        (_output("/"), "output_dir '/' is no folder of its own"),
        (_output("."), "output_dir '.' is no folder of its own"),
        (_output("a" * 252), "has a name of 252 bytes"),
        (_work_is_a_link, r"out\.work' is there and was not made by"),
        (_read_only, "cannot write the lock .*: Read-only file system"),
    ],
)
def test_nothing_of_others_is_deleted(
    arrange: Callable[[World], Any], message: str, world: World
) -> None:
    arrange(world)
    before = {p: p.read_bytes() for p in world.folder.rglob("*") if p.is_file()}
    with pytest.raises(HFPruneError, match=message) as caught:
        world.run()
    assert "\n" not in str(caught.value)
    for path, content in before.items():
        if path.name != "recipe.yaml":
            assert path.read_bytes() == content, f"{path} was touched"


# -- nothing that changed is resumed ---------------------------------------------------------------


def _flip_labels(w: World) -> None:
    path = w.folder / "in" / "reviews.csv"
    text = path.read_text().replace("positive", "x").replace("negative", "positive")
    path.write_text(text.replace(",x", ",negative"))


def _another_model(w: World) -> None:
    file = w.folder / "in" / "model" / "model.safetensors"
    tensors = {name: value + 0.01 for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def _replace_weights(w: World) -> None:
    file = w.work / "teacher" / "model.safetensors"
    tensors = {name: torch.zeros_like(value) for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def _delete_plan(w: World) -> None:
    (w.work / "pruned-pruned" / "plan.json").unlink()


def _truncate_int8(w: World) -> None:
    file = w.work / "onnx" / "pruned" / "model_quantized.onnx"
    file.write_bytes(file.read_bytes()[:1000])


def _delete_tokenizer(w: World) -> None:
    (w.work / "pruned-recovered" / "tokenizer.json").unlink()


def _another_version(w: World) -> None:
    w.monkeypatch.setattr(store, "__version__", "9.9.9")


def _damage_record(w: World) -> None:
    file = w.work / "stages.json"
    record = json.loads(file.read_text())
    record["stages"]["prune"]["result"] = {"folder": 5}
    file.write_text(json.dumps(record))


CHANGES = [
    (_flip_labels, "teacher: the data changed, so it is done again", []),
    (_another_model, "teacher: the model to start from changed, so it is done again", []),
    (_another_version, "teacher: the version of hfprune changed, so it is done again", []),
    (_replace_weights, "teacher: teacher/model.safetensors is not as it was written, so it is",
     ["prune", "recover", "finish", "temperature", "export", "evaluate"]),
    (_delete_plan, "prune: pruned-pruned/plan.json is gone, so it is done again",
     ["teacher", "recover", "finish", "temperature", "export", "evaluate"]),
    (_delete_tokenizer, "recover: pruned-recovered/tokenizer.json is gone, so it is done again",
     ["teacher", "prune", "finish", "temperature", "export", "evaluate"]),
    (_truncate_int8, "export: onnx/pruned/model_quantized.onnx is not as it was written, so",
     ["teacher", "prune", "recover", "finish", "temperature"]),
    (_damage_record, "prune: its record is damaged .*so it is done again",
     ["teacher", "recover", "finish", "temperature", "export", "evaluate"]),
]  # fmt: skip
# Long, and much alike: the table of all of them is for patient people. The exporters of
# transformers 5 take their time, and the store knows nothing of them: there, two will do.
LONG = (
    _another_model,
    _another_version,
    _replace_weights,
    _delete_tokenizer,
    _damage_record,
    _truncate_int8,
)
FEW = (_flip_labels, _delete_plan)


@pytest.mark.parametrize(
    ("change", "told", "kept"),
    [
        case
        if case[0] in FEW or not (TRANSFORMERS_5 or case[0] in LONG)
        else pytest.param(*case, marks=pytest.mark.slow)
        for case in CHANGES
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_changed_is_done_again_and_why(
    change: Callable[[World], Any], told: str, kept: list[str], world: World
) -> None:
    import re

    world.interrupted()
    change(world)
    world.run("resume=true")
    assert any(re.search(told, line) for line in world.said), world.said
    taken = [line.split(":")[0] for line in world.said if "done before, not repeated" in line]
    assert [name for name in taken if name != "evaluate"] == [n for n in kept if n != "evaluate"]
    assert world.weights() == world.fresh()
    assert not world.work.exists()


def _interrupted_at(world: World, last: int) -> Path:
    """A training that saves every second step, and ends with the one named; its checkpoints."""
    world.values["training"] |= {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
    }  # fmt: skip
    import transformers

    steps = 0
    real = transformers.Trainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == last:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with world.monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            world.run()
    return world.work / "checkpoints" / "teacher"


def test_a_damaged_checkpoint_is_told_in_one_line(
    world: World, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    place = _interrupted_at(world, 5)
    (place / "checkpoint-4" / "model.safetensors").unlink()
    with world.monkeypatch.context() as patch:
        patch.setattr(import_module("hfprune.pipeline.stages.prune"), "run", _stop)
        with pytest.raises(KeyboardInterrupt):
            world.run("resume=true")
    told = [line for line in capsys.readouterr().err.splitlines() if "is passed over" in line]
    assert told == [
        f"warning: {place / 'checkpoint-4'} is not whole and is passed over: it has no weights"
    ]
    assert not any("resuming from" in line for line in world.said), "the only one"
    assert not [one for one in recwarn if "passed over" in str(one.message)]


def _stop(*args: Any) -> Any:
    raise KeyboardInterrupt


def test_checkpoints_of_other_rows_are_not_gone_on_with(world: World) -> None:
    place = _interrupted_at(world, 4)
    assert (place / "checkpoint-2").is_dir()
    _flip_labels(world)
    world.run("resume=true")
    assert not any("resuming from" in line for line in world.said)
    assert world.weights() == world.fresh()


def test_a_failed_first_try_does_not_stand_in_the_way(world: World) -> None:
    world.values["data"]["text_column"] = "txt"
    with pytest.raises(HFPruneError, match="txt"):
        world.run()
    world.values["data"]["text_column"] = "text"
    world.run()
    assert (world.output / "model.safetensors").is_file()


def test_files_that_do_not_belong_together_are_not_published(world: World) -> None:
    world.interrupted()
    module = import_module("hfprune.pipeline.stages.write")
    real = module.check_agreement

    def swapped(context: Any, members: Any, exported: Any) -> None:
        folder = world.work / "pruned-finished"
        plan = PruningPlan.first_units([(4, 48)] * 3, [(4, 48), (4, 48), (0, 0)])
        (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
        real(context, members, exported)

    world.monkeypatch.setattr(module, "check_agreement", swapped)
    with pytest.raises(OutputError, match="holds files that do not belong together"):
        world.run("resume=true")
    assert not world.output.exists()


def test_a_result_is_taken_only_for_the_same_inputs(world: World) -> None:
    recipe = load_recipe(world.file())
    made = opened_store(recipe)
    (made.folder / "teacher").mkdir()
    (made.folder / "teacher" / "model.safetensors").write_bytes(b"weights")
    saved = SavedModel(folder="teacher")
    made.put("teacher", saved, made.inputs_of({}), 1.23)
    again = opened_store(recipe.model_copy(update={"resume": True}))
    assert again.take("teacher", SavedModel, again.inputs_of({})) == saved
    assert again.seconds() == {"teacher": 1.2}
    assert again.take("prune", SavedModel, {}) == ""
    again.follow_from(data="1")
    assert again.take("teacher", SavedModel, again.inputs_of({})) == "the data changed"
    wanted = again.inputs_of({"start": saved})
    (made.folder / "teacher" / "model.safetensors").write_bytes(b"other")
    assert again.take("teacher", SavedModel, made.inputs_of({})) == (
        "teacher/model.safetensors is not as it was written"
    )
    again.put("teacher", saved, again.inputs_of({}), 1.0)
    assert again.inputs_of({"start": saved}) != wanted, "files count, not names alone"


# -- one run at a time -----------------------------------------------------------------------------


def test_a_second_run_is_told_who_works_there(world: World) -> None:
    message = f"is being written by process {os.getpid()} on .*choose another output_dir"
    with FolderLock(world.output), pytest.raises(OutputError, match=message):
        world.run()
    assert not world.work.exists()


def _prune(world: World, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/prune.py"), "--recipe", str(world.file()), *overrides],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=world.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_sigterm_is_an_interruption_that_says_how_to_go_on(world: World) -> None:
    world.values["training"]["num_train_epochs"] = 500
    process = _prune(world)
    deadline = time.monotonic() + 120
    while not (world.work / "checkpoints" / "teacher").is_dir():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "run again with resume=true to go on" in told
    assert "Traceback" not in told
    assert world.work.is_dir()
    assert not list(world.folder.glob(".*.lock"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_live_runs_on_one_output(world: World) -> None:
    """Twenty times: one finishes, whole; the other says who works there."""
    wanted = world.fresh()
    for round_number in range(20):
        pair = [_prune(world, "overwrite=true"), _prune(world, "overwrite=true")]
        ends = [(process.wait(300), process.communicate()[1]) for process in pair]
        codes = sorted(code for code, _ in ends)
        # Where the second comes when the first is done, it overwrites what that one made.
        assert codes in ([0, 1], [0, 0]), ends
        if codes == [0, 1]:
            (told,) = (text for code, text in ends if code == 1)
            assert f"is being written by process {pair[0].pid}" in told or (
                f"is being written by process {pair[1].pid}" in told
            ), round_number
        assert world.weights() == wanted
        assert not world.work.exists()
        assert not list(world.folder.glob(".*.lock"))
