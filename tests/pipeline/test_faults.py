"""Bad recipes, bad inputs, and faults in the middle of work.

Each ends in an error that says what came and what to change, and nothing that was there before is
lost: neither the inputs nor the output of an earlier run. Other files test single modules in more
depth; here is the breadth, through the front door.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny import (
    VOCAB,
    by_length,
    random_plan,
    save_tiny_classifier,
    tiny_model,
    tiny_tokenizer,
    write_reviews,
)
from transformers import AutoTokenizer

import hfprune
from hfprune import PruningConfig, load_recipe, shrink_
from hfprune.core.errors import (
    CheckpointError,
    DataError,
    ExportError,
    HFPruneError,
    OutputError,
    RecipeError,
    TrainingError,
    UnsupportedModelError,
)
from hfprune.core.faults import is_disk_full, is_out_of_memory
from hfprune.core.files import remove_leftovers
from hfprune.core.ownership import mark
from hfprune.data.loading import load_task_data
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.parity import check_parity
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.pipeline import run
from hfprune.pipeline.stages import export as export_stage
from hfprune.pipeline.store import StageStore
from hfprune.recipe.sections.data import DataConfig
from hfprune.report.console import Console
from hfprune.training.checkpoints import last_checkpoint
from tests.training.test_trainer import Toy, make

EVERY_TWO = {f"{kind}_strategy": "steps" for kind in ("eval", "save")} | {
    f"{kind}_steps": 2 for kind in ("eval", "save")
}
FULL = OSError(errno.ENOSPC, "No space left on device")
# As torch 2.13 and safetensors 0.8 say it, seen on a full file system.
FULL_TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
FULL_RUST = SafetensorError("Error while serializing: I/O error: No space left on device (os 28)")
FULL_COPY = shutil.Error([("a", "b", "[Errno 28] No space left on device")])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_classifier("bert", folder / "model")
    write_reviews(folder / "reviews.csv", 60)
    return folder


class World:
    """A model and data of its own, and the output of an earlier run that must survive."""

    def __init__(self, folder: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.model = folder / "in" / "model"
        shutil.copytree(inputs, folder / "in")
        self.data = folder / "in" / "reviews.csv"
        self.output = folder / "out"
        self.output.mkdir()
        (self.output / "model.safetensors").write_bytes(b"of an earlier run")
        (self.output / "metrics.json").write_text('{"format_version": 1, "recipe_sha256": "0"}')
        self.changes: dict[str, dict[str, Any] | str | bool] = {}

    def set(self, section: str, **values: Any) -> None:
        old = self.changes.get(section, {})
        self.changes[section] = {**(old if isinstance(old, dict) else {}), **values}

    def recipe_file(self, text: str | None = None) -> Path:
        values: dict[str, Any] = {
            "model": {"name_or_path": str(self.model)},
            "data": {"train_file": str(self.data), "max_length": 32},
            "training": {
                "num_train_epochs": 1,
                "per_device_train_batch_size": 8,
                "learning_rate": 1e-3,
            },
            "pruning": {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 2},
            "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
            "deploy": None,  # here the search for int8 settings is what breaks
            "output_dir": str(self.output),
            "overwrite": True,
        }
        for key, value in self.changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(values) if text is None else text, encoding="utf-8")
        return path

    def run(self, *overrides: str) -> dict[str, Any] | None:
        return run(load_recipe(self.recipe_file(), overrides), Console(quiet=True))

    def config(self, folder: Path | None = None, **changes: Any) -> None:
        path = (folder or self.model) / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def rows(self, *lines: str, suffix: str = ".csv") -> None:
        self.data = self.data.with_suffix(suffix)
        self.data.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def shrunk(self) -> None:
        model = tiny_model("bert", labels=2)
        shrink_(model, random_plan(model)).save_pretrained(self.model)

    def teacher(self, **extra: Any) -> Path:
        folder = self.folder / "in" / "teacher"
        tiny_model("bert", **{"labels": 2, **extra}).save_pretrained(folder)
        self.set("teacher", name_or_path=str(folder))
        return folder

    def snapshot(self) -> dict[str, bytes]:
        places = [self.folder / "in", self.output]
        files = [p for place in places for p in ([place] if place.is_file() else place.rglob("*"))]
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in files if p.is_file()}


@pytest.fixture
def world(tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, inputs, monkeypatch)


class Case(NamedTuple):
    name: str
    arrange: Callable[[World], Any]  # spoils something; what it returns is run instead of a recipe
    error: type[HFPruneError]
    message: str


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def text_of(content: str) -> Callable[[World], Any]:
    """The recipe is this text."""
    return lambda w: lambda: load_recipe(w.recipe_file(content))


def override(*values: str) -> Callable[[World], Any]:
    return lambda w: lambda: load_recipe(w.recipe_file(), values)


def recipe(section: str, **values: Any) -> Callable[[World], Any]:
    return lambda w: w.set(section, **values)


def rows(*lines: str, suffix: str = ".csv", **data: Any) -> Callable[[World], Any]:
    def arrange(w: World) -> None:
        w.rows(*lines, suffix=suffix)
        w.set("data", **data)

    return arrange


def record(**values: Any) -> Callable[[World], Any]:
    def arrange(w: World) -> None:
        w.shrunk()
        good = {"format_version": 1, "heads": [1, 1, 1], "neurons": [4, 4, 4]}
        w.config(hfprune={**good, **values})

    return arrange


def bytes_of(name: str, content: bytes) -> Callable[[World], Any]:
    return lambda w: (w.model / name).write_bytes(content)


def _not_utf8(w: World) -> None:
    w.data.write_bytes(b"text,label\ngood film,positive\nna\xefve film,negative\n")


def _recipe_not_utf8(w: World) -> Any:
    path = w.recipe_file()
    path.write_bytes(b"# caf\xe9\n" + path.read_bytes())
    return lambda: load_recipe(path)


def _no_recipe(w: World) -> Any:
    return lambda: load_recipe(w.folder / "recipes.yaml")


def _reserved_tag(w: World) -> Any:
    marker = w.folder / "in" / "run"
    text = f"model: !!python/object/apply:os.mkdir ['{marker}']\n"
    return lambda: load_recipe(w.recipe_file(text))


def _tokenizer(**changes: Any) -> Callable[[World], Any]:
    def arrange(w: World) -> None:
        tokenizer = tiny_tokenizer()
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        tokenizer.save_pretrained(w.model)

    return arrange


def _no_tokenizer(w: World) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (w.model / name).unlink(missing_ok=True)


def _long_texts(w: World) -> None:
    _tokenizer(model_max_length=10_000)(w)
    w.set("data", max_length=500)
    long = "film " * 300
    w.rows("text,label", *[f"{long}{i % 5},{'ab'[i % 2]}" for i in range(30)])


def _long_benchmark(w: World) -> None:
    _tokenizer(model_max_length=10_000)(w)
    w.set("data", max_length=500)
    w.set("benchmark", sequence_lengths=[128])


def _truncated(w: World) -> None:
    file = w.model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _truncated_shrunk(w: World) -> None:
    w.shrunk()
    _truncated(w)


def _nan_weights(w: World) -> None:
    file = w.model / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"].fill_(float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})


def _auto_map(w: World) -> None:
    (w.model / "modeling_own.py").write_text("raise SystemExit('this code was run')")
    w.config(auto_map={"AutoModelForSequenceClassification": "modeling_own.Own"})


def _auto_map_unknown(w: World) -> None:
    _auto_map(w)
    w.config(model_type="own", auto_map={"AutoConfig": "modeling_own.OwnConfig"})
    # A name of the Hub is not looked into before transformers does; here: as if it were one.
    w.monkeypatch.setattr("hfprune.pipeline.preflight.check", lambda context: None)


def _tokenizer_auto_map(w: World) -> None:
    (w.model / "own.py").write_text("raise SystemExit('this code was run')")
    path = w.model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["own.Own", None]}}))


def _headless_teacher(w: World) -> None:
    folder = w.teacher()
    tiny_model("bert", labels=2).bert.save_pretrained(folder)


def _teacher_of(**config: Any) -> Callable[[World], Any]:
    return lambda w: w.config(w.teacher(), **config)


def _shards(w: World) -> None:
    w.shrunk()
    (w.model / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (w.model / "model.safetensors.index.json").write_text(json.dumps(index))


def _output_is_a_file(w: World) -> None:
    shutil.rmtree(w.output)
    w.output.write_text("a file")


def _parent_is_a_file(w: World) -> None:
    w.changes["output_dir"] = str(w.data / "out")


def _not_writable(w: World) -> None:
    real = os.access
    w.monkeypatch.setattr(os, "access", lambda p, mode: not mode & os.W_OK and real(p, mode))


def _output_exists(w: World) -> None:
    w.changes["overwrite"] = False


def _work(text: str, **changes: Any) -> Callable[[World], Any]:
    """An unfinished run is there, with this record."""

    def arrange(w: World) -> None:
        work = w.output.with_name("out.work")
        work.mkdir()
        mark(work)
        if not changes.get("resume"):
            shutil.rmtree(w.output)
        (work / "stages.json").write_text(text)
        w.changes.update(changes)

    return arrange


def _onnx(labels: int) -> Callable[[World], Any]:
    """The ONNX file of another model."""

    def arrange(w: World) -> Any:
        other = tiny_model("bert", labels=labels, seed=5)
        file = export_onnx(other, tiny_tokenizer(), w.folder / "in" / "onnx")
        return lambda: check_parity(tiny_model("bert", labels=2), file, tiny_tokenizer())

    return arrange


def _nan_target(w: World) -> None:
    w.rows("text,label", *["film,0.5"] * 20, "film,nan")
    w.changes["task"] = "regression"


def _no_onnx(w: World) -> Any:
    (w.model / "model.onnx").write_bytes(b"not a graph")
    return lambda: OnnxClassifier(w.model / "model.onnx")


def _never_trained(error: BaseException) -> Callable[[World], Any]:
    """This error comes out of the first training batch."""

    def arrange(w: World) -> None:
        w.monkeypatch.setattr("transformers.Trainer.compute_loss", raising(error))

    return arrange


def _gradients(w: World) -> None:
    """The loss is finite, its gradient is not, in a stage that does not prune."""

    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * float("inf")

    import transformers

    real = transformers.Trainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        return Explode.apply(real(self, *args, **kwargs))

    w.monkeypatch.setattr(transformers.Trainer, "compute_loss", compute_loss)


def _stage_fails(method: str, error: BaseException) -> Callable[[World], Any]:
    """The teacher is there; this stage of the pipeline fails."""

    def arrange(w: World) -> None:
        w.teacher()
        w.monkeypatch.setattr(f"hfprune.pipeline.stages.{method}.run", raising(error))

    return arrange


GOOD = [f"{word} film,{label}" for word, label in (("good", "p"), ("bad", "n")) for _ in range(15)]
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")

BEGUN = json.dumps({
    "format": 2,
    "recipe": "x",
    "stages": {"teacher": {"inputs": {}, "result": {}, "files": {}, "seconds": 1.0}},
})  # fmt: skip

CASES = [
    # -- recipes
    Case("no recipe", _no_recipe, RecipeError, "recipes.yaml: no such recipe file"),
    Case("recipe not UTF-8", _recipe_not_utf8, RecipeError, "UTF-8"),
    Case("not YAML", text_of("model: [1, 2"), RecipeError, "line 1|line 2"),
    Case("not a mapping", text_of("- 1\n- 2\n"), RecipeError, "mapping"),
    Case("python tag", _reserved_tag, RecipeError, "tag"),
    Case("key twice", text_of("model:\n  name_or_path: a\nmodel: 1\n"), RecipeError, "twice"),
    Case("unknown key", override("pruning.sparsty=0.5"), RecipeError, "Did you mean.*sparsity"),
    Case("wrong type", override("training.num_train_epochs=[1]"), RecipeError, "number.*\\[1\\]"),
    Case("out of range", override("pruning.sparsity=1.5"), RecipeError, "less than.*1.*1.5"),
    Case("not finite", override("training.learning_rate=.nan"), RecipeError, "learning_rate.*nan"),
    Case("two targets", override("pruning.speedup=4"), RecipeError, "exactly one|one of"),
    Case("no equals sign", override("pruning.sparsity"), RecipeError, "key.path=value"),
    Case("unknown choice", override("pruning.score=best"), RecipeError, "expected one of .*'best'"),
    Case("resume, overwrite", override("resume=true"), RecipeError, "overwrite starts afresh and"),
    Case("output over input", lambda w: w.changes.update(output_dir=str(w.model)), RecipeError,
         "output_dir.*model"),
    Case("revision of a file", override("data.revision=main"), RecipeError, "belongs to a data"),
    Case("revision without teacher", override("teacher.revision=v1"), RecipeError,
         "revision belongs to a teacher by name: remove it"),
    Case("revision without tokenizer", override("model.tokenizer_revision=v1"), RecipeError,
         "tokenizer_revision belongs to a tokenizer of its own"),
    Case("metric that is code", override("evaluation.metrics=[some/metric]"), RecipeError,
         "'some/metric' is Python code from elsewhere, which is not run unless"),
    # -- data
    Case("no file", recipe("data", train_file="nowhere.csv"), DataError, "there is no such file"),
    Case("no data set", recipe("data", train_file=None, name="nobody/nothing"), DataError,
         "nobody/nothing.*could not be loaded.*Check data.name"),
    Case("no column", recipe("data", text_column="txt"), DataError, "no column 'txt'.*mean 'text'"),
    Case("unknown label", recipe("data", label_names=["positive", "neutral"]), DataError,
         "the label 'negative' is unknown; data.label_names holds 'positive', 'neutral'"),
    Case("hidden labels", rows("text,label", *["film,-1"] * 9), DataError, "label is -1, which"),
    Case("empty label", rows("text,label", *GOOD, "film,"), DataError, "there is no label"),
    Case("no rows", rows("text,label"), DataError, "has no rows"),
    Case("one class", rows("text,label", *GOOD[:15]), DataError, "needs at least two classes"),
    Case("too few rows", rows("text,label", "a,p", "b,n"), DataError, "2 rows: too few to"),
    Case("data not UTF-8", _not_utf8, DataError, "not UTF-8: byte 0xef on line 3.*Save the file"),
    Case("ragged CSV", rows("text,label", "good, fine,p"), DataError, "has 3 cells, the"),
    Case("null text", rows('{"text": null, "label": 1}', suffix=".jsonl"), DataError, "no text"),
    Case("not JSON", rows("{'text': 1}", suffix=".jsonl"), DataError, "line 1: not valid JSON"),
    Case("not Parquet", rows("text", suffix=".parquet"), DataError, "not a valid Parquet file"),
    Case("unknown format", rows("text", suffix=".xlsx"), DataError, "'.xlsx' is not known"),
    Case("half a character", rows('{"text": "\\ud800", "label": 1}', suffix=".jsonl"), DataError,
         "half a character"),
    Case("train is test", lambda w: w.set("data", test_file=str(w.data)), HFPruneError,
         "train_file.*test_file|test_file.*train_file"),
    Case("two test files", lambda w: w.set("data", test_file=os.path.relpath(w.data)), DataError,
         "are one file"),
    # -- tokenizers
    Case("no padding token", _tokenizer(pad_token=None), DataError, "no padding token.*add a"),
    Case("no tokenizer", _no_tokenizer, CheckpointError,
         "model.name_or_path .* (?:cannot be loaded|holds no tokenizer)"),
    Case("tokenizer's own code", _tokenizer_auto_map, UnsupportedModelError,
         "brings Python code of its own .*own.Own.*set model.trust_remote_code: true"),
    Case("another tokenizer", lambda w: w.teacher(vocab_size=8), DataError,
         "gives the id \\d+ in train, but the model's vocabulary has 8: they do not belong"),
    Case("texts too long", _long_texts, DataError,
         "rows of 303 tokens, but the model has positions for 66: set data.max_length to 66"),
    Case("benchmark too long", _long_benchmark, RecipeError, "asks for 128 tok.*positions for 66"),
    # -- models
    Case("no model", recipe("model", name_or_path="./nowhere"), CheckpointError,
         "model.name_or_path './nowhere' cannot be loaded"),
    Case("no revision", recipe("model", name_or_path="nobody/nothing", revision="v9"),
         CheckpointError, "'nobody/nothing' at revision 'v9' cannot be loaded.*Check the name"),
    Case("no name", recipe("model", name_or_path="a/b/c"), CheckpointError, "'a/b/c' cannot be"),
    Case("config no JSON", bytes_of("config.json", b"{"), CheckpointError, "json is no JSON"),
    Case("config a list", bytes_of("config.json", b"[]"), CheckpointError, "must hold a JSON obj"),
    Case("other family", lambda w: w.config(model_type="xlnet"), UnsupportedModelError,
         "model type 'xlnet'; supported: "),
    Case("other family as teacher", _teacher_of(model_type="xlnet"), UnsupportedModelError,
         "model type 'xlnet'; supported: "),
    Case("the model's own code", _auto_map, UnsupportedModelError,
         "brings Python code of its own .*modeling_own.Own.*set model.trust_remote_code: true"),
    Case("a family of its own", _auto_map_unknown, UnsupportedModelError,
         "brings Python code of its own .*set model.trust_remote_code: true"),
    Case("truncated weights", _truncated, CheckpointError, "cannot be loaded: .*files are whole"),
    Case("no weights", bytes_of("model.safetensors", b"no tensors here"), CheckpointError,
         "cannot be loaded: "),
    Case("shrunk, truncated", _truncated_shrunk, CheckpointError, "damaged or cannot be read"),
    Case("record: negative", record(heads=[1, -1, 1]), CheckpointError, "heads must be a list"),
    Case("record: too large", record(heads=[1, 9, 1]), CheckpointError, "so it cannot keep 9"),
    Case("record: huge", record(neurons=[4, 4, 10**12]), CheckpointError, "so it cannot keep 1000"),
    Case("record: a path", record(heads="../../etc"), CheckpointError, "got '../../etc'"),
    Case("record: fractions", record(neurons=[4.0, 4, 4]), CheckpointError, "neurons must be a"),
    Case("record: too short", record(heads=[1], neurons=[4]), CheckpointError, "sizes of 3 layers"),
    Case("record: a list", lambda w: (w.shrunk(), w.config(hfprune=[1])), CheckpointError,
         "record must be a mapping"),
    Case("record: version", record(format_version=9), CheckpointError, "format_version 1"),
    Case("shards elsewhere", _shards, CheckpointError, "shards must be plain file names"),
    # -- teachers
    Case("teacher: labels", lambda w: w.teacher(labels=3), CheckpointError,
         r"teacher.name_or_path .* a head for 3 labels, the data has 2 \(negative, positive\)"),
    Case("teacher: no head", _headless_teacher, CheckpointError,
         "lacks classifier.bias, classifier.weight: it was not fine-tuned as a classifier"),
    Case("teacher: regression", _teacher_of(problem_type="regression"), CheckpointError,
         "was fine-tuned for regression, the recipe's task is single_label_classification"),
    Case("teacher: order", _teacher_of(id2label={"0": "positive", "1": "negative"}),
         CheckpointError, r"set data.label_names to \['positive', 'negative'\]"),
    Case("teacher: revision", recipe("teacher", name_or_path="nobody/it", revision="v9"),
         CheckpointError, "teacher.name_or_path 'nobody/it' at revision 'v9' cannot be loaded"),
    # -- places
    Case("output a file", _output_is_a_file, OutputError, "a file has that name"),
    Case("parent a file", _parent_is_a_file, OutputError, "is a file, not a folder"),
    Case("read-only", _not_writable, OutputError, "no permission to write in"),
    Case("output there", _output_exists, OutputError, "is not empty: choose another output folder"),
    Case("unfinished run", _work("{}", overwrite=False), CheckpointError,
         "holds an unfinished run; add resume=true"),
    Case("damaged record", _work("{", overwrite=False, resume=True), CheckpointError,
         "stages.json is damaged .*set overwrite=true and resume=false"),
    Case("record of nothing", _work('{"recipe": "x"}', overwrite=False, resume=True),
         CheckpointError, "stages.json is damaged .KeyError"),
    Case("another recipe", _work(BEGUN, overwrite=False,
         resume=True), CheckpointError, "was begun with another recipe"),
    # -- numbers, memory and disks
    Case("NaN target", _nan_target, DataError, "row 21, .*: the number to predict is nan"),
    Case("NaN loss", _nan_weights, TrainingError,
         "the loss is nan at step 1 .a batch of 8 rows of .*no checkpoint has been written yet"),
    Case("exploding gradient", _gradients, TrainingError, "gradients are not finite at step 1"),
    Case("no memory, GPU", _never_trained(CUDA), TrainingError,
         r"out of memory at step 1 \(a batch of 8 .*lower per_device_train_batch_size \(8\) "
         "and raise gradient_accumulation_steps .1. by the same factor"),
    Case("no memory, CPU", _never_trained(CPU), TrainingError, "out of memory at step 1"),
    Case("no memory, Python", _never_trained(MemoryError()), TrainingError, "out of memory at"),
    Case("no memory elsewhere", _stage_fails("teacher", CUDA), TrainingError,
         r"stage 'teacher': out of memory .*lower training.per_device_eval_batch_size \(64\)"),
    Case("full: teacher", _stage_fails("teacher", FULL_RUST), OutputError,
         "stage 'teacher': the disk is full, writing .*out.work failed .*stages .none yet. "
         "and checkpoints are safe in .*resume=true"),
    Case("other: teacher", _stage_fails("teacher", OSError(5, "Input/output error", "disk/file")),
         OutputError, "stage 'teacher': disk/file: Input/output error; .*are safe in"),
    # -- ONNX
    Case("ONNX of another model", _onnx(2), ExportError, "logits differ from PyTorch by up to"),
    Case("ONNX of another task", _onnx(5), ExportError, "logits of shape .*5.*PyTorch of .*2"),
    Case("no ONNX", _no_onnx, ExportError, "ONNX Runtime cannot load"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_what_is_wrong_is_said_and_nothing_is_lost(case: Case, world: World) -> None:
    do = case.arrange(world)
    before = world.snapshot()
    with pytest.raises(case.error, match="(?s)" + case.message):
        (do if callable(do) else world.run)()
    assert world.snapshot() == before
    names = {path.name for path in world.folder.iterdir()}
    assert names <= {"in", "out", "out.work", "recipe.yaml"}, "nothing half-written lies about"


# -- in the middle of work -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_that_fills_again_and_again(world: World) -> None:
    """Each time the error says what is safe; resumed, the run ends as if nothing had happened."""
    import transformers

    world.set("training", num_train_epochs=2, **EVERY_TWO)
    world.changes["output_dir"] = str(world.folder / "whole")
    whole = world.run()
    assert whole is not None
    world.changes["output_dir"] = str(world.output)

    work = world.folder / "out.work"
    teacher = work / "checkpoints" / "teacher"
    faults: list[tuple[Any, str, BaseException, int, str]] = [
        # The third checkpoint of the teacher's training: the second is the last good one.
        (transformers.Trainer, "_save_optimizer_and_scheduler", FULL_TORCH, 2,
         f"cannot write the checkpoint {teacher}/checkpoint-6: the disk is full; free some space; "
         f"the last good checkpoint is {teacher}/checkpoint-4"),
        (transformers.PreTrainedModel, "save_pretrained", FULL_RUST, 0, "stage 'teacher': .*disk"),
        (export_stage, "quantize_onnx", FULL, 0, "stage 'export': the disk is full"),
        (shutil, "copytree", FULL_COPY, 1, f"cannot write '{world.output}': the disk is full"),
    ]  # fmt: skip
    overrides: tuple[str, ...] = ()
    for owner, name, error, after, message in faults:
        real, calls = getattr(owner, name), [0]

        def full(*args: Any, real: Any = real, e: Any = error, n: int = after, c: Any = calls,
                 **kwargs: Any) -> Any:  # fmt: skip
            c[0] += 1
            if c[0] > n:
                raise e
            return real(*args, **kwargs)

        before = world.snapshot()
        with world.monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OutputError, match="(?s)" + message) as caught:
                world.run(*overrides)
        assert "run the same command again with resume=true" in str(caught.value)
        assert world.snapshot() == before, "the output of the earlier run is still there"
        overrides = ("overwrite=false", "resume=true")
    results = world.run(*overrides)
    assert results is not None
    for name in ("model.safetensors", "plan.json"):
        assert (world.output / name).read_bytes() == (world.folder / "whole" / name).read_bytes()
    assert not work.exists()
    # Once more: there is nothing left to do, and saying so is no error.
    assert world.run(*overrides) == results


@pytest.mark.slow
def test_a_smaller_batch_after_running_out_of_memory_can_be_resumed(world: World) -> None:
    import transformers

    world.set("training", **EVERY_TWO)
    world.teacher()
    real = transformers.Trainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training and self.state.global_step >= 4 and len(inputs["input_ids"]) > 4:
            raise CUDA
        return real(self, model, inputs, *args, **kwargs)

    world.monkeypatch.setattr(transformers.Trainer, "compute_loss", compute_loss)
    place = world.folder / "out.work" / "checkpoints" / "prune-pruned" / "checkpoint-4"
    with pytest.raises(TrainingError, match=f"step 5 .*the last good checkpoint is {place}"):
        world.run()
    results = world.run(
        "overwrite=false",
        "resume=true",
        "training.per_device_train_batch_size=4",
        "training.gradient_accumulation_steps=2",
    )
    assert results is not None
    assert results["pruning"]["sparsity"] >= 0.5


def test_the_last_good_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(
        tmp_path,
        pruning=PruningConfig(sparsity=0.5, update_every_steps=2, min_neurons=4),
        save_strategy="steps",
        save_steps=4,
    )
    real = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        loss = real(*args, **kwargs)
        return loss * float("nan") if trainer.state.global_step == 9 else loss

    monkeypatch.setattr(trainer, "compute_loss", compute_loss)
    with pytest.raises(TrainingError, match=f"nan at step 10 .*is {tmp_path}/checkpoint-8"):
        trainer.train()
    for name in ("optimizer.pt", "rng_state.pth", "hfprune_state.json"):
        needed = ("hfprune_state.json", "hfprune_scores.safetensors")
        assert last_checkpoint(tmp_path, needed) == tmp_path / "checkpoint-8"
        content = (tmp_path / "checkpoint-8" / name).read_bytes()
        (tmp_path / "checkpoint-8" / name).unlink()
        lacks = name.replace("_state.pth", "_state*.pth")
        with pytest.warns(UserWarning, match="checkpoint-8 is not whole .*lacks") as caught:
            assert last_checkpoint(tmp_path, needed) == tmp_path / "checkpoint-4"
        assert lacks in str(caught[0].message)
        (tmp_path / "checkpoint-8" / name).write_bytes(content)
    file = tmp_path / "checkpoint-8" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.warns(UserWarning, match="lacks the end of optimizer.pt"):
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_resumed_within_an_epoch_of_rows_grouped_by_length(tmp_path: Path) -> None:
    """The Trainer's own sampler would draw another order after the resume."""

    class Uneven(Toy):
        def __getitem__(self, index: int) -> Any:
            row, kept = self.rows[index], 4 + index % 7
            return {k: v if k == "labels" else v[:kept] for k, v in row.items()}

    def trainer(name: str, **changes: Any) -> Any:
        made = make(tmp_path / name, **by_length(), save_strategy="steps", save_steps=11, **changes)
        from transformers import DataCollatorWithPadding

        made.train_dataset = Uneven()
        made.data_collator = DataCollatorWithPadding(tiny_tokenizer())
        return made

    whole = trainer("whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-11", tmp_path / "half" / "checkpoint-11")
    resumed = trainer("half")
    torch.rand(7)  # whatever the process drew before must not matter
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-11"))
    for left, right in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_leftovers_of_a_killed_process(tmp_path: Path) -> None:
    for name in (".out.0123abcd.tmp", ".out.0123abcd.old", ".out.zzz.tmp", ".other.0123abcd.tmp"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path / "out")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".out.0123abcd.old", ".out.zzz.tmp", ".other.0123abcd.tmp"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "whole").touch()
    remove_leftovers(tmp_path / "out")
    assert not (tmp_path / ".out.0123abcd.old").exists(), "superseded by what is in its place"


@pytest.mark.parametrize("error", [FULL, FULL_TORCH, FULL_RUST, FULL_COPY], ids=repr)
def test_a_full_disk_is_told_whoever_says_so(error: BaseException) -> None:
    assert is_disk_full(error)
    assert not is_out_of_memory(error)
    outer = KeyError("while at it")
    outer.__cause__ = error
    assert is_disk_full(outer)


def test_other_errors_are_not_taken_for_these() -> None:
    for error in (
        ValueError("x"),
        RuntimeError("shape"),
        OSError(errno.ENOENT, "gone"),
        KeyError(),
    ):
        assert not is_disk_full(error)
        assert not is_out_of_memory(error)
    for error in (CUDA, CPU, MemoryError(), OSError(errno.ENOMEM, "no memory")):
        assert is_out_of_memory(error)
        assert not is_disk_full(error)


# -- odd, and right --------------------------------------------------------------------------------


@pytest.mark.slow
def test_odd_inputs_that_work(world: World, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    """Empty and enormous texts, fewer rows than a batch, one token beyond all length.

    A token of the Hub lies in the environment, and gets into nothing that the run writes or says.
    """
    secret = "hf_" + "fAuLtS" * 6
    world.monkeypatch.setenv("HF_TOKEN", secret)
    caplog.set_level(logging.DEBUG)
    huge = "good film " * 110_000
    assert len(huge) > 2**20
    texts = ["", " ", huge, "\u00e9\u4e2d\U0001f600 good", "x" * 5000, "bad", "bad film", "good"]
    lines = [json.dumps({"text": t, "label": i % 2}) for i, t in enumerate(texts * 2)]
    world.rows(*lines, suffix=".jsonl")
    world.set("training", per_device_train_batch_size=64, max_steps=2)
    world.set("pruning", update_every_steps=1)
    world.teacher()
    places: list[Path] = []
    remove = StageStore.remove

    def look(self: Any) -> None:  # before the checkpoints are deleted
        places.extend(path for path in world.folder.rglob("*") if path.is_file())
        assert any(path.name == "trainer_state.json" for path in places)
        assert not [path for path in places if secret.encode() in path.read_bytes()]
        remove(self)

    world.monkeypatch.setattr(StageStore, "remove", look)
    results = world.run()
    assert results is not None
    assert places
    said = capfd.readouterr()
    assert secret not in caplog.text + said.out + said.err
    assert results["data"]["truncated"]["train"] + sum(results["data"]["truncated"].values()) >= 2
    assert results["data"]["samples"]["train"] < 64
    model = hfprune.from_pretrained(world.output)
    tokenizer = AutoTokenizer.from_pretrained(world.output)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits).all()


def test_a_tokenizer_without_padding_token_takes_the_end_of_text(world: World) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    config = DataConfig(train_file=str(world.data), max_length=32)
    data = load_task_data(config, tokenizer, "single_label_classification")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 3
    assert max(max(ids) for ids in data.train["input_ids"]) < VOCAB


def test_a_text_without_any_token_is_refused(world: World) -> None:
    """Tokenizers of decoders add no mark of their own to an empty text."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    tokenizer.save_pretrained(world.model)
    world.rows("text,label", *GOOD, *[",p"] * 20)
    with pytest.raises(DataError, match="the tokenizer makes no token of the text '' in "):
        world.run()
