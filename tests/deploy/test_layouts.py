"""Folders for servers, held against what each server's source and documentation says it reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tiny import TRANSFORMERS_5, random_plan, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

import hfprune.cli
from hfprune.core.errors import CheckpointError, ExportError, OutputError, UnsupportedModelError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.layouts import LAYOUTS, onnx_to_serve, write_layout
from hfprune.deploy.not_served import not_served
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.deploy.quantize.outcome import PLAIN
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.models.saved import load_saved
from hfprune.pruning.surgery import shrink_

LABELS = {0: "bad", 1: "so so", 2: "good"}


def finished(folder: Path, family: str, *, tokens: bool = False) -> Path:
    return left_by_a_run(tiny_model(family, tokens=tokens, id2label=LABELS, label2id={}), folder)


def left_by_a_run(model: Any, folder: Path) -> Path:
    """A folder with the model, pruned, and its ONNX files."""
    shrink_(model, random_plan(model))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    export_onnx(model, tiny_tokenizer(), folder / "onnx")
    quantize_onnx(folder / "onnx", PLAIN)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DistilBERT, whose config names its sizes as no other's."""
    return finished(tmp_path_factory.mktemp("runs") / "reviews", "distilbert")


def logits(file: Path) -> Any:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    batch = dict(tiny_tokenizer()(["a good film", "dull"], padding=True, return_tensors="np"))
    return session.run(["logits"], {n.name: batch[n.name] for n in session.get_inputs()})[0]


def test_text_embeddings_inference(folder: Path, tmp_path: Path) -> None:
    """backends/ort/src/lib.rs: model.onnx first; Config has two keys without a default."""
    place = write_layout(folder, "tei", tmp_path / "served")
    np.testing.assert_array_equal(
        logits(place / "model.onnx"), logits(folder / "onnx" / "model_quantized.onnx")
    )
    config = json.loads((place / "config.json").read_text())
    for key, alias in (("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer")):
        assert isinstance(config[key], int)
        assert alias not in config  # a key and its alias are one field given twice
    assert config["id2label"]["1"] == "so so"
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    assert "hfprune" not in config
    assert (place / "tokenizer.json").is_file()
    assert (place / "tokenizer_config.json").is_file()


def test_transformers_js(folder: Path, tmp_path: Path) -> None:
    """src/utils/dtypes.js: fp32 is model.onnx, q8 model_quantized.onnx, in the folder onnx."""
    place = write_layout(folder, "transformersjs", tmp_path / "web")
    for name in ("model.onnx", "model_quantized.onnx"):
        np.testing.assert_array_equal(logits(place / "onnx" / name), logits(folder / "onnx" / name))
    config = json.loads((place / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "q8"}
    assert {path.name for path in place.iterdir()} >= {"tokenizer.json", "tokenizer_config.json"}


# The fields of model_config.proto that are written: name, number, type (label: repeated).
STRING, INT32, INT64, UINT64, MESSAGE, ENUM = 9, 5, 3, 4, 11, 14
PROTO: dict[str, list[tuple[str, int, int, bool, str]]] = {
    "ModelInput": [("name", 1, STRING, False, ""), ("data_type", 2, ENUM, False, "DataType"),
                   ("dims", 4, INT64, True, "")],
    "ModelOutput": [("name", 1, STRING, False, ""), ("data_type", 2, ENUM, False, "DataType"),
                    ("dims", 3, INT64, True, ""), ("label_filename", 4, STRING, False, "")],
    "ModelInstanceGroup": [("kind", 4, ENUM, False, "Kind"), ("count", 2, INT32, False, "")],
    "ModelDynamicBatching": [("max_queue_delay_microseconds", 2, UINT64, False, "")],
    "ModelParameter": [("string_value", 1, STRING, False, "")],
    "Entry": [("key", 1, STRING, False, ""), ("value", 2, MESSAGE, False, "ModelParameter")],
    "ModelConfig": [
        ("name", 1, STRING, False, ""), ("max_batch_size", 4, INT32, False, ""),
        ("input", 5, MESSAGE, True, "ModelInput"), ("output", 6, MESSAGE, True, "ModelOutput"),
        ("instance_group", 7, MESSAGE, True, "ModelInstanceGroup"),
        ("dynamic_batching", 11, MESSAGE, False, "ModelDynamicBatching"),
        ("parameters", 14, MESSAGE, True, "Entry"), ("backend", 17, STRING, False, ""),
    ],
}  # fmt: skip
ENUMS = {"DataType": {"TYPE_INT64": 9, "TYPE_FP32": 11}, "Kind": {"KIND_AUTO": 0, "KIND_CPU": 2}}


def triton_message() -> Any:
    """``inference.ModelConfig``, of the fields that are written."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in PROTO.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, of in fields:
            message.field.add(
                name=field, number=number, type=kind, label=3 if repeated else 1,
                type_name=f".inference.{of}" if of else None,
            )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def test_triton(folder: Path, tmp_path: Path) -> None:
    """The model repository: config.pbtxt by its schema, and a version whose name is a number."""
    place = write_layout(folder, "triton", tmp_path / "models" / "reviews")
    found = text_format.Parse((place / "config.pbtxt").read_text(), triton_message())
    assert (found.name, found.backend) == ("reviews", "onnxruntime")
    assert found.max_batch_size == 32
    graph = onnxruntime.InferenceSession(str(place / "1" / "model.onnx"))
    assert [(i.name, list(i.dims)) for i in found.input] == [
        (node.name, [-1]) for node in graph.get_inputs()
    ]
    assert {i.data_type for i in found.input} == {ENUMS["DataType"]["TYPE_INT64"]}
    (output,) = found.output
    assert (output.name, list(output.dims), output.data_type) == ("logits", [3], 11)
    assert (place / output.label_filename).read_text().splitlines() == list(LABELS.values())
    assert found.instance_group[0].kind == ENUMS["Kind"]["KIND_CPU"]
    numbered = [p.name for p in place.iterdir() if p.is_dir() and p.name[0] in "123456789"]
    assert numbered == ["1"]
    assert (place / "tokenizer" / "tokenizer.json").is_file()


def test_plain_is_asked_like_the_run(folder: Path, tmp_path: Path) -> None:
    place = write_layout(folder, "plain", tmp_path / "plain")
    assert [p.name for p in (place / "onnx").iterdir()] == ["model_quantized.onnx"]
    assert list(Predictor(place)([Row("a good film")])) == list(
        Predictor(folder)([Row("a good film")])
    )


def test_remote_code_by_the_command(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    target = tmp_path / "code"
    arguments = ["export", str(folder), "--layout", "remote-code", "--output", str(target)]
    result = CliRunner().invoke(hfprune.cli.app, arguments)
    assert result.exit_code == 0, result.output
    model = AutoModelForSequenceClassification.from_pretrained(target, trust_remote_code=True)
    assert type(model).__name__ == "PrunedDistilBertForSequenceClassification"
    # hfprune itself needs no code to load it, and runs none: its own record says how.
    (target / "modeling_pruned.py").write_text("raise SystemExit('run')")
    batch = {"input_ids": torch.tensor([[1, 2, 3]])}
    with torch.no_grad():
        wanted = model(**batch).logits
        for again in (hfprune.from_pretrained(target), load_saved(str(target))):
            torch.testing.assert_close(again(**batch).logits, wanted)
    file = target / "config.json"
    config = json.loads(file.read_text())
    config["auto_map"]["AutoModel"] = "another.Model"
    file.write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="brings Python code of its own"):
        load_saved(str(target))


def test_what_no_server_reads_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no layout 'vllm'; choose from plain, tei"):
        write_layout(folder, "vllm", tmp_path / "x")
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(CheckpointError, match=r"holds no config.json: give the output_dir"):
        write_layout(bare, "plain", tmp_path / "x")
    shutil.copy(folder / "config.json", bare)
    for layout in LAYOUTS:
        with pytest.raises(CheckpointError, match="holds no|neither"):
            write_layout(bare, layout, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    config = json.loads((bare / "config.json").read_text())
    config["architectures"] = ["DistilBertForTokenClassification"]
    (bare / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="serves classifiers of texts"):
        write_layout(bare, "tei", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError):
        write_layout(folder, "plain", tmp_path / "full")
    result = CliRunner().invoke(hfprune.cli.app, ["export", str(folder), "--layout", "tei"])
    assert result.exit_code == 1


def test_options_that_write_files_mean_nothing_beside_a_layout(
    folder: Path, tmp_path: Path
) -> None:
    place = ["export", str(folder), "--layout", "tei", "--output", str(tmp_path / "x")]
    for option in (["--runtime", "openvino"], ["--no-quantize"]):
        failed = CliRunner().invoke(hfprune.cli.app, [*place, *option])
        assert failed.exit_code == 1
        assert "--layout copies files that are there" in " ".join(failed.stderr.split())
    assert not (tmp_path / "x").exists()


def test_no_file_from_outside_is_served(folder: Path, tmp_path: Path) -> None:
    """What a folder from elsewhere recommends would be copied into a server's image."""
    place = tmp_path / "run"
    shutil.copytree(folder, place)
    secret = tmp_path / "secret.onnx"
    secret.write_text("key")
    for path in (str(secret), "../secret.onnx"):
        record = {"path": path, "candidate": "x", "runtime": "onnxruntime", "precision": "int8",
                  "graph": "exported", "why": "it says so", "load": []}  # fmt: skip
        deployment = {"cpu": "x", "measured": True, "threads": 1, "batch_size": 8}
        (place / "deploy.json").write_text(json.dumps({**deployment, "uses": {"batches": record}}))
        with pytest.raises(OutputError, match="recommends a file that is not its own: the path"):
            write_layout(place, "plain", tmp_path / "served")
        with pytest.raises(OutputError, match="leads out of the folder"):
            Predictor(place)


@pytest.mark.parametrize(
    ("layout", "settings", "told"),
    [
        ("tei", {"problem_type": "multi_label_classification"}, "several labels a softmax"),
        ("tei", {"problem_type": "regression", "id2label": {"0": "LABEL_0"}}, "the sigmoid of a"),
        ("transformersjs", {"problem_type": "multi_label_classification"}, "top_k: null"),
        ("transformersjs", {"id2label": {"0": "LABEL_0"}}, "which is always 1"),
        ("sentence-transformers", {"id2label": {"0": "LABEL_0"}}, "activation_fn="),
        ("tei", {}, None),
        ("plain", {"id2label": {"0": "LABEL_0"}}, None),
        ("triton", {"problem_type": "multi_label_classification"}, None),
    ],
)
def test_other_numbers_than_ours_are_told(
    folder: Path, tmp_path: Path, layout: str, settings: dict[str, Any], told: str | None
) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = not_served(tmp_path, layout)
    assert found is None if told is None else told in str(found)


@pytest.mark.skipif(TRANSFORMERS_5, reason="the exporter there takes its time")
def test_tokens_keep_their_length_in_triton(tmp_path: Path) -> None:
    folder = finished(tmp_path / "tags", "bert", tokens=True)
    place = write_layout(folder, "triton", tmp_path / "served")
    found = text_format.Parse((place / "config.pbtxt").read_text(), triton_message())
    assert list(found.output[0].dims) == [-1, 3]
    assert not found.output[0].label_filename
    assert onnx_to_serve(folder).name == "model_quantized.onnx"
