"""More of the table of bad inputs: models, adapters, layouts, numbers and commands.

As in ``test_faults``: each ends in an error of ours that says what came and what to change, soon,
and nothing that was there before is lost. The Hub is never asked, whatever a name looks like.
"""

from __future__ import annotations

import errno
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import random_plan, tiny_model, tiny_tokenizer

import hfprune
from hfprune import load_encoder, shrink_
from hfprune.core.errors import (
    CheckpointError,
    HFPruneError,
    HubError,
    MissingExtraError,
    OutputError,
    RecipeError,
    TrainingError,
    UnsupportedModelError,
)
from hfprune.deploy.evaluation import evaluate
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.models.saved import load_alike, load_saved, load_saved_classifier
from hfprune.publish.push import push
from hfprune.report.html import write_report
from tests.pipeline.test_faults import (
    CASES,
    Case,
    World,
    _never_trained,
    inputs,
    override,
    recipe,
    world,
)

__all__ = ["inputs", "world"]  # fixtures

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
DEEP = "[" * 100_000 + "]" * 100_000


def config(**changes: Any) -> Callable[[World], Any]:
    return lambda w: w.config(**changes)


def file(name: str, content: bytes | str) -> Callable[[World], Any]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda w: (w.model / name).write_bytes(raw)


def shrunk_config(**changes: Any) -> Callable[[World], Any]:
    def arrange(w: World) -> Any:
        w.shrunk()
        w.config(**changes)
        return lambda: hfprune.from_pretrained(w.model)

    return arrange


def looked(door: Callable[[str], Any] = load_saved, **changes: Any) -> Callable[[World], Any]:
    """No recipe: who looks at a model of such a config."""

    def arrange(w: World) -> Any:
        w.config(**changes)
        return lambda: door(str(w.model))

    return arrange


def headless(door: Callable[[str], Any]) -> Callable[[World], Any]:
    """A classifier by its config, whose file of weights is that of the encoder alone."""

    def arrange(w: World) -> Any:
        place = w.model / "model.safetensors"
        kept = {n: t for n, t in load_file(place).items() if not n.startswith("classifier")}
        save_file(kept, place, metadata={"format": "pt"})
        return lambda: door(str(w.model))

    return arrange


def index(text: str) -> Callable[[World], Any]:
    """A shrunk model whose weights are in the shards that this index names."""

    def arrange(w: World) -> Any:
        w.shrunk()
        (w.model / "model.safetensors").unlink()
        (w.model / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        return lambda: hfprune.from_pretrained(w.model)

    return arrange


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor], shrunk: bool = False) -> Any:
    def arrange(w: World) -> None:
        if shrunk:
            w.shrunk()
        place = w.model / "model.safetensors"
        tensors = load_file(place)
        tensors[name] = change(tensors[name]).clone()
        save_file(tensors, place, metadata={"format": "pt"})

    return arrange


def adapter(config: Any, **files: str) -> Callable[[World], Any]:
    """The model is the adapter that this config is of; ``BASE`` stands for the tiny model."""

    def arrange(w: World) -> None:
        place = w.folder / "in" / "adapter"
        place.mkdir()
        text = config if isinstance(config, str) else json.dumps(config)
        (place / "adapter_config.json").write_text(text.replace("BASE", str(w.model)))
        w.set("model", name_or_path=str(place))

    return arrange


def headless_adapter(labels: int | None, trained: bool = True) -> Callable[[World], Any]:
    """LoRA saved without a head, or with one for so many labels."""

    def arrange(w: World) -> None:
        peft = pytest.importorskip("peft")
        base = tiny_model("bert", labels=labels or 2)
        base.bert.save_pretrained(w.folder / "in" / "base")
        task = {} if labels is None else {"task_type": "SEQ_CLS"}
        settings = peft.LoraConfig(r=2, target_modules=["query", "value"], **task)
        made = peft.get_peft_model(base, settings)
        made.peft_config["default"].base_model_name_or_path = str(w.folder / "in" / "base")
        made.save_pretrained(w.folder / "in" / "adapter")
        tiny_tokenizer().save_pretrained(w.folder / "in" / "adapter")
        section = "teacher" if trained else "model"
        w.set(section, name_or_path=str(w.folder / "in" / "adapter"))

    return arrange


def modules(listed: Any, pooling: Any = None) -> Callable[[World], Any]:
    def arrange(w: World) -> Any:
        text = listed if isinstance(listed, str) else json.dumps(listed)
        (w.model / "modules.json").write_text(text)
        (w.model / "1_Pooling").mkdir()
        (w.model / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        return lambda: load_encoder(w.model)

    return arrange


def entries(*kinds: str) -> list[dict[str, Any]]:
    paths = ("", "1_Pooling", "2_Later", "3_Later")
    kind = "sentence_transformers.base.modules"
    return [
        {"idx": i, "name": str(i), "path": path, "type": f"{kind}.{name.lower()}.{name}"}
        for i, (name, path) in enumerate(zip(kinds, paths, strict=False))
    ]


def teacher(spoil: Callable[[Path], Any], message: str = "") -> Callable[[World], Any]:
    return lambda w: spoil(w.teacher())


def only(call: Callable[[World], Any]) -> Callable[[World], Any]:
    """No recipe: this call."""
    return lambda w: lambda: call(w)


def _no_files_of_a_tokenizer(w: World) -> None:
    for path in w.model.glob("*"):
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()


def _checkpoint_without_tokenizer(w: World) -> Any:
    _no_files_of_a_tokenizer(w)
    return lambda: evaluate(w.model, [w.data])


def _shrunk_for_others(w: World) -> None:
    model = tiny_model("bert", labels=5)
    shrink_(model, random_plan(model)).save_pretrained(w.model)


def _link_to_nothing(w: World) -> None:
    shutil.rmtree(w.model)
    w.model.symlink_to(w.folder / "gone")


def _read_only_weights(w: World) -> None:
    w.teacher()
    error = OSError(errno.EFBIG, "File too large", str(w.folder / "out.work" / "x"))
    w.monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", _raising(error))


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def _full_tmpdir(w: World) -> None:
    """TMPDIR is another disk, and that one is full."""
    w.teacher()
    place = w.folder / "in" / "tmp"
    place.mkdir()
    w.monkeypatch.setattr("tempfile.tempdir", str(place))
    error = OSError(errno.ENOSPC, "No space left on device", str(place / "graph.onnx"))
    w.monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", _raising(error))


ONEDNN = RuntimeError("could not create a primitive")
NO_MMAP = RuntimeError("unable to mmap 1073741824 bytes from file <x>: Cannot allocate memory (12)")
WINDOWS = RuntimeError("[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough")
POOLING = {"embedding_dimension": 32, "pooling_mode": "mean"}

BAD = [
    # -- places
    Case("path: relative", recipe("model", name_or_path="in/no-such-model/at/all"),
         CheckpointError, "there is no such folder here.*not looked for on the Hub"),
    Case("path: dot", recipe("model", name_or_path="./nowhere"), CheckpointError,
         "model.name_or_path './nowhere' cannot be loaded: there is no such folder here"),
    Case("path: home", recipe("model", name_or_path="~/models/bert"), CheckpointError,
         "cannot be loaded: there is no such folder here"),
    Case("path: absolute", recipe("model", name_or_path="/no/such/folder"), CheckpointError,
         "cannot be loaded: there is no such folder here"),
    Case("path: backslashes", recipe("model", name_or_path="runs\\reviews"), CheckpointError,
         "cannot be loaded: there is no such folder here"),
    Case("path: a file", lambda w: w.set("model", name_or_path=str(w.data)), CheckpointError,
         "it is a file; give the folder that holds it"),
    Case("path: a weights file", recipe("model", name_or_path="model.safetensors"),
         CheckpointError, "there is no such folder here"),
    Case("path: spaces", recipe("model", name_or_path="my model"), CheckpointError,
         "there is no such folder here"),
    Case("path: null character", recipe("model", name_or_path="a\0b"), CheckpointError,
         "there is no (such folder here|folder of that name)"),
    Case("path: link to nothing", _link_to_nothing, CheckpointError, "there is no such folder"),
    Case("path: too long", recipe("model", name_or_path="a/b/" + "x" * 5000), CheckpointError,
         "there is no (folder of that name|such folder)"),
    Case("teacher: no path", recipe("teacher", name_or_path="./nowhere"), CheckpointError,
         "teacher.name_or_path './nowhere' cannot be loaded: there is no such folder here"),
    Case("tokenizer: no path", recipe("model", tokenizer="./nowhere"), CheckpointError,
         "model.tokenizer './nowhere' cannot be loaded: there is no such folder here"),
    Case("load: no path", only(lambda w: hfprune.from_pretrained("a/b/c")), CheckpointError,
         "there is no directory a/b/c: there is no such folder"),
    Case("inspect: no path", only(lambda w: load_saved("./nowhere")), CheckpointError,
         "./nowhere holds no model: there is no such folder"),
    Case("evaluate: no folder", only(lambda w: evaluate("runs/nothing")), CheckpointError,
         "runs/nothing holds no classifier: there is no such folder"),
    Case("encoder: no folder", only(lambda w: load_encoder("./nowhere")), CheckpointError,
         "the sentence encoder './nowhere' cannot be loaded: there is no such folder here"),
    Case("report: no folder", only(lambda w: write_report("runs/nothing")), OutputError,
         "holds no metrics.json"),
    Case("push: no folder", only(lambda w: push("runs/nothing", "user/name")), HubError,
         "there is no folder runs/nothing"),
    # -- files
    Case("LFS: weights", file("model.safetensors", POINTER), CheckpointError,
         "model.safetensors cannot be read: it is a pointer of git-lfs.*git lfs pull"),
    Case("LFS: old weights", file("pytorch_model.bin", POINTER), CheckpointError,
         "pytorch_model.bin cannot be read: it is a pointer of git-lfs"),
    Case("LFS: config", file("config.json", POINTER), CheckpointError,
         "config.json cannot be read: it is a pointer of git-lfs"),
    Case("LFS: tokenizer", file("tokenizer.json", POINTER), CheckpointError,
         "tokenizer.json cannot be read: it is a pointer of git-lfs"),
    Case("LFS: teacher", teacher(lambda f: (f / "model.safetensors").write_bytes(POINTER)),
         CheckpointError, "teacher.name_or_path .*pointer of git-lfs"),
    Case("LFS: shrunk", lambda w: (w.shrunk(), (w.model / "model.safetensors").write_bytes(POINTER),
         lambda: hfprune.from_pretrained(w.model))[2], CheckpointError, "pointer of git-lfs"),
    Case("LFS: ONNX", lambda w: ((w.model / "model.onnx").write_bytes(POINTER),
         lambda: OnnxClassifier(w.model / "model.onnx"))[1], HFPruneError, "pointer of git-lfs"),
    Case("checkpoint without tokenizer", _no_files_of_a_tokenizer, CheckpointError,
         "holds no tokenizer: save the model's beside it.*model.tokenizer"),
    Case("evaluate without tokenizer", _checkpoint_without_tokenizer, CheckpointError,
         "the folder .* holds no tokenizer"),
    Case("weights: whole numbers", tensor("classifier.weight", lambda t: (t * 100).long()),
         CheckpointError, r"no floating-point numbers .*classifier.weight \(I64\)"),
    Case("weights: truth values", tensor("classifier.bias", lambda t: t > 0), CheckpointError,
         r"no floating-point numbers .*classifier.bias \(BOOL\)"),
    Case("weights: 8 bits", tensor("classifier.weight", lambda t: t.to(torch.float8_e4m3fn)),
         CheckpointError, r"classifier.weight \(F8_E4M3\).*quantized weights cannot be pruned"),
    Case("shrunk: whole numbers", lambda w: (
         tensor("classifier.weight", lambda t: t.int(), True)(w),
         lambda: hfprune.from_pretrained(w.model))[1], CheckpointError,
         r"of another kind of number: classifier.weight \(file torch.int32, model torch.float32\)"),
    Case("shrunk: truth values", lambda w: (tensor("classifier.bias", lambda t: t > 0, True)(w),
         lambda: hfprune.from_pretrained(w.model))[1], CheckpointError, "another kind of number"),
    # -- configs
    Case("config: deep", file("config.json", f'{{"model_type": {DEEP}}}'), CheckpointError,
         "config.json cannot be read: its values are nested too deeply"),
    Case("config: not UTF-8", file("config.json", b'{"model_type": "caf\xe9"}'), CheckpointError,
         "config.json cannot be read: .*utf-8"),
    Case("config: huge", file("config.json", b" " * (33 * 2**20)), CheckpointError,
         "it has 34,603,008 bytes, such a file has at most 33,554,432"),
    Case("config: no config", lambda w: (w.model / "config.json").unlink(), CheckpointError,
         "holds no config.json"),
    Case("architectures: a number", config(architectures=3), CheckpointError,
         "architectures must name one model class of transformers, in a list, got 3"),
    Case("architectures: lists", config(architectures=[["BertModel"]]), CheckpointError,
         r"architectures must name .* got \[\['BertModel'\]\]"),
    Case("architectures: abstract", shrunk_config(architectures=["PreTrainedModel"]),
         CheckpointError, r"architectures must name one model class .* got \['PreTrainedModel'\]"),
    Case("architectures: no class", shrunk_config(architectures=["pipeline"]), CheckpointError,
         "architectures must name one model class"),
    Case("architectures: of others", shrunk_config(architectures=["GPT2Model"]), CheckpointError,
         "for 'bert' models, got \\['GPT2Model'\\]"),
    Case("model_type: a list", config(model_type=["bert"]), CheckpointError,
         r"model_type must be a name, got \['bert'\]"),
    Case("layers: 10**7", config(num_hidden_layers=10**7), CheckpointError,
         "num_hidden_layers must be a count of at most 1,000, got 10000000"),
    Case("layers: shrunk, 10**7", shrunk_config(num_hidden_layers=10**7), CheckpointError,
         "num_hidden_layers must be a count of at most 1,000"),
    Case("layers: text", config(num_hidden_layers="3"), CheckpointError, "a count .*got '3'"),
    Case("layers: negative", config(num_hidden_layers=-1), CheckpointError, "a count .*got -1"),
    Case("layers: endless", config(num_hidden_layers=float("inf")), CheckpointError, "got inf"),
    Case("width: 10**6", config(hidden_size=10**6), CheckpointError,
         "describes a model of about [0-9,]+ billion parameters.*this machine has"),
    Case("vocabulary: 2**31", config(vocab_size=2**31, hidden_size=4096), CheckpointError,
         "billion parameters"),
    Case("labels: 10**20", config(num_labels=10**20), CheckpointError,
         "num_labels must be a count"),
    Case("config: activation", looked(hidden_act="nope"), CheckpointError,
         "cannot be loaded: KeyError: 'nope'"),
    Case("config: dropout a text", looked(classifier_dropout="x"), CheckpointError,
         "cannot be loaded: TypeError|holds no model: .*classifier_dropout"),
    Case("config: no attention heads", looked(num_attention_heads=0), CheckpointError,
         "cannot be loaded: ZeroDivisionError"),
    Case("config: padding beyond the vocabulary", looked(pad_token_id=10**9), CheckpointError,
         "cannot be loaded: AssertionError: Padding_idx"),
    Case("config: a property", looked(use_return_dict=False), CheckpointError,
         "holds no model: .*use_return_dict"),
    Case("config: quantized", looked(load_saved_classifier, quantization_config={
         "quant_method": "bitsandbytes", "load_in_8bit": True}), CheckpointError,
         "holds no classifier: the model .* cannot be loaded: ImportError"),
    Case("inspect: no head", headless(load_saved), CheckpointError,
         "lacks the weights classifier.bias, classifier.weight, .*random numbers would stand in"),
    Case("export: no head", headless(load_saved_classifier), CheckpointError,
         "lacks the weights classifier.bias, classifier.weight"),
    Case("teacher of a Trainer: no head", headless(
         lambda place: load_alike(place, tiny_model("bert"), "teacher")), CheckpointError,
         "teacher .* cannot be loaded: .* lacks the weights classifier.bias, classifier.weight"),
    Case("index: surrogates", index('{"weight_map": {"a": "\\ud800.safetensors"}}'),
         CheckpointError, r"shards must be plain file names beside it, got \['\\ud800"),
    Case("index: deep", index(f'{{"weight_map": {DEEP}}}'), CheckpointError,
         "index.json cannot be read: its values are nested too deeply"),
    Case("index: a list", index("[]"), CheckpointError, "maps no tensors to files"),
    Case("index: numbers", index('{"weight_map": {"a": 1}}'), CheckpointError,
         "shards must be plain file names"),
    Case("index: a pipe", index('{"weight_map": {"a": "/dev/stdin"}}'), CheckpointError,
         "shards must be plain file names"),
    Case("index: empty", index('{"weight_map": {}}'), CheckpointError, "must be plain file names"),
    # -- heads
    Case("head: of another size", lambda w: tiny_model("bert", labels=5).save_pretrained(w.model),
         CheckpointError, r"a head for 5 labels, the data has 2 .*set model.new_head: true"),
    Case("head: of a shrunk model", _shrunk_for_others, CheckpointError,
         "was shrunk for 5 labels, the data has 2.*model.new_head: true"),
    Case("head: new, with a teacher", lambda w: (w.teacher(), w.set("model", new_head=True))[1],
         RecipeError, "model.new_head has no meaning with teacher.name_or_path"),
    # -- adapters
    Case("adapter: no base", adapter({}), CheckpointError, "names no base model"),
    Case("adapter: a list", adapter([1]), CheckpointError, "names no base model"),
    Case("adapter: no JSON", adapter("{"), CheckpointError, "adapter_config.json is no JSON"),
    Case("adapter: base is gone", adapter({"base_model_name_or_path": "./gone"}), CheckpointError,
         "names the base model './gone': there is no such folder"),
    Case("adapter: no weights", lambda w: (adapter({"peft_type": "LORA", "base_model_name_or_path":
         "BASE"})(w), w.set("model", tokenizer=str(w.model)))[1], CheckpointError,
         "holds no weights of an adapter that can be read|cannot be loaded"),
    Case("adapter: no head", headless_adapter(None), CheckpointError,
         "teacher.name_or_path .* lacks classifier.bias, classifier.weight: it was not fine-tuned"),
    Case("adapter: another head", headless_adapter(5), CheckpointError,
         "teacher.name_or_path .* has a head for 5 labels, the data has 2"),
    Case("inspect: an adapter", lambda w: (adapter({"base_model_name_or_path": "BASE"})(w),
         lambda: load_saved(str(w.folder / "in/adapter")))[1], HFPruneError,
         "holds a PEFT adapter .adapter_config.json., not a whole model.*merge_and_unload"),
    Case("export: an adapter", lambda w: (adapter({"base_model_name_or_path": "BASE"})(w),
         lambda: load_saved_classifier(str(w.folder / "in/adapter")))[1], HFPruneError,
         "not a whole model"),
    # -- sentence encoders
    Case("modules: unknown", modules(entries("Transformer", "Pooling", "LSTM"), POOLING),
         UnsupportedModelError, r"lists the modules \['Transformer', 'Pooling', 'LSTM'\]"),
    Case("modules: another pooling", modules(entries("Transformer", "Pooling"),
         {"pooling_mode": "lasttoken"}), UnsupportedModelError,
         r"pooling by \['lasttoken'\]; expected exactly one of pooling_mode cls, mean, max"),
    Case("modules: two poolings", modules(entries("Transformer", "Pooling"),
         {"pooling_mode": ["cls", "mean"]}), UnsupportedModelError, r"by \['cls', 'mean'\]"),
    Case("modules: pooling a list", modules(entries("Transformer", "Pooling"), [1]),
         CheckpointError, "must hold a JSON object"),
    Case("modules: elsewhere", modules([{"type": "x.Transformer", "path": "../../secret"}]),
         CheckpointError, "leads out of the folder"),
    Case("modules: deep", modules(DEEP), CheckpointError, "nested too deeply"),
    Case("modules: dense without weights", modules(entries("Transformer", "Pooling", "Dense"),
         POOLING), CheckpointError, "2_Later holds no model.safetensors"),
    # -- numbers
    Case("batch: 10**30", override(f"training.per_device_train_batch_size={10**30}"), RecipeError,
         "per_device_train_batch_size: must be at least 1 and at most 1048576, got 10000"),
    Case("epochs: 1e308", override("training.num_train_epochs=1e308"), RecipeError,
         "num_train_epochs: must be greater than 0 and at most 100000, got 1e\\+308"),
    Case("accumulation: 10**12", override(f"training.gradient_accumulation_steps={10**12}"),
         RecipeError, "gradient_accumulation_steps: must be at least 1 and at most"),
    Case("length: 10**9", override(f"data.max_length={10**9}"), RecipeError,
         "max_length: must be at least 2 and at most 1048576"),
    Case("threads: 10**9", override(f"benchmark.threads={10**9}"), RecipeError, "at most 4096"),
    Case("speed-up: 1e300", override("pruning.sparsity=null", "pruning.speedup=1e300"),
         RecipeError, "speedup.*10000"),
    Case("workers: 10**6", override(f"training.dataloader_num_workers={10**6}"), RecipeError,
         "at most 4096"),
    Case("recovery: 1e300", override("recovery.num_train_epochs=1e300"), RecipeError,
         "at most 100000"),
    # -- trackers
    Case("tracker: unknown", recipe("training", report_to=["foo"]), RecipeError,
         "training.report_to names 'foo', which is no tracker"),
    Case("tracker: misspelt", recipe("training", report_to=["wandbb"]), RecipeError,
         "Did you mean 'wandb'"),
    Case("tracker: not installed", recipe("training", report_to=["neptune"]), MissingExtraError,
         "report_to names neptune, which needs neptune, not installed here: pip install neptune"),
    # -- memory and disks
    Case("no memory, oneDNN", _never_trained(ONEDNN), TrainingError, "out of memory at step 1"),
    Case("no memory, mmap", _never_trained(NO_MMAP), TrainingError, "out of memory at step 1"),
    Case("no memory, alloc_cpu", _never_trained(WINDOWS), TrainingError, "out of memory at step 1"),
    Case("file too large", _read_only_weights, OutputError,
         "would grow beyond the largest that is allowed.*ulimit -f"),
    Case("full TMPDIR", _full_tmpdir, OutputError,
         "no space for temporary files in .*in/tmp.*set TMPDIR to a folder with more"),
]  # fmt: skip


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection, or looks a name up, fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the network was asked: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name.replace(" ", "-"))
@pytest.mark.usefixtures("no_network")
def test_what_is_wrong_is_said_in_a_line(case: Case, world: World) -> None:
    do = case.arrange(world)
    before = world.snapshot()
    with pytest.raises(case.error, match="(?s)" + case.message) as caught:
        (do if callable(do) else world.run)()
    assert len(str(caught.value)) < 2000
    assert world.snapshot() == before
    names = {path.name for path in world.folder.iterdir()}
    assert names <= {"in", "out", "out.work", "recipe.yaml", ".out.lock", "out.lock"}


def test_the_table_is_wide() -> None:
    """Of kinds of bad input; each case is another one."""
    names = [case.name for case in (*CASES, *BAD)]
    assert len(set(names)) == len(names)
    assert len(names) >= 160
