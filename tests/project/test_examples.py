"""The exported folder where there is no hfprune: plain ONNX Runtime, and Transformers.js."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.quantize.search import usual_settings
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.pruning.surgery import shrink_
from tests.tiny import random_plan, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
TEXTS = ["good fine film", "bad", "the plot is very very weak but moving"]
TRANSFORMERS_JS = "@huggingface/transformers@4.3.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shrunk classifier as a run leaves it."""
    output = tmp_path_factory.mktemp("exported") / "tiny"
    model = tiny_model("bert", labels=2)
    model.config.id2label = {0: "negative", 1: "positive"}
    model.config.label2id = {"negative": 0, "positive": 1}
    shrink_(model, random_plan(model))
    tokenizer = tiny_tokenizer()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    export_onnx(model, tokenizer, output / "onnx")
    quantize_onnx(output / "onnx", usual_settings(output / "onnx"))
    return output


def our_logits(folder: Path) -> Any:
    batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="np")
    return OnnxClassifier(folder / "onnx" / "model_quantized.onnx").logits(dict(batch))


def test_onnxruntime_and_tokenizers_are_enough(folder: Path) -> None:
    script = ROOT / "examples" / "onnxruntime_only.py"
    code = (
        "import runpy, sys\n"
        "for name in ('hfprune', 'torch', 'transformers', 'optimum'): sys.modules[name] = None\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder), *TEXTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == TEXTS
    want = our_logits(folder)
    np.testing.assert_allclose([answer["logits"] for answer in answers], want, atol=1e-5)
    names = ["negative", "positive"]
    assert [answer["label"] for answer in answers] == [names[i] for i in want.argmax(1)]


def test_long_texts_are_cut_where_positions_end(tmp_path: Path) -> None:
    """RoBERTa counts positions from after the padding's id: of 66 it uses 64."""
    model, tokenizer = tiny_model("roberta", labels=2), tiny_tokenizer()
    model.config.id2label = {0: "negative", 1: "positive"}
    model.config.label2id = {"negative": 0, "positive": 1}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    export_onnx(model, tokenizer, tmp_path / "onnx")
    quantize_onnx(tmp_path / "onnx", usual_settings(tmp_path / "onnx"))
    script = ROOT / "examples" / "onnxruntime_only.py"
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "good film " * 200, "bad"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 2


def test_the_example_is_short() -> None:
    lines = (ROOT / "examples" / "onnxruntime_only.py").read_text().splitlines()
    code = [line for line in lines if line.strip()]
    assert len(code) <= 32


def test_layout_of_transformers_js(folder: Path) -> None:
    """The files that it asks for, by name, and what it reads in them."""
    assert (folder / "onnx" / "model_quantized.onnx").is_file()
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["model"]["type"] == "WordPiece"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"]
    assert "[PAD]" in settings["pad_token"]
    inputs = OnnxClassifier(folder / "onnx" / "model_quantized.onnx").input_names
    assert set(inputs) <= {"input_ids", "attention_mask", "token_type_ids"}


@pytest.mark.network
@pytest.mark.timeout(900)
def test_transformers_js_gives_our_logits(folder: Path, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs Node.js with npm")
    shutil.copy(ROOT / "tests" / "classify.mjs", tmp_path)
    install = subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", TRANSFORMERS_JS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert install.returncode == 0, install.stderr
    found = subprocess.run(
        ["node", "classify.mjs", str(folder)],
        cwd=tmp_path,
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    np.testing.assert_allclose(json.loads(found.stdout), our_logits(folder), atol=1e-3)


# -- PyTorch --------------------------------------------------------------------------------------


def shrunk(family: str = "bert") -> Any:
    model = tiny_model(family)
    return shrink_(model, random_plan(model)).eval()


def batch() -> dict[str, torch.Tensor]:
    texts = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    return {name: texts[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_bfloat16(family: str) -> None:
    model = shrunk(family)
    with torch.inference_mode():
        want = model(**batch()).logits
        got = model.to(torch.bfloat16)(**batch()).logits
    assert got.dtype == torch.bfloat16
    # bfloat16 has 8 bits of precision; three layers add up.
    assert float((got.float() - want).abs().max()) < 0.05 * float(want.abs().max()) + 0.02


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None,
    reason="torch.compile needs a C++ compiler",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torch_compile(dtype: torch.dtype) -> None:
    model = shrunk().to(dtype)
    compiled = torch.compile(model)
    with torch.inference_mode():
        want, got = model(**batch()).logits, compiled(**batch()).logits
    atol = 1e-5 if dtype == torch.float32 else 0.05 * float(want.float().abs().max())
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_on_cuda(dtype: torch.dtype) -> None:
    model = shrunk()
    with torch.inference_mode():
        want = model(**batch()).logits
        model = model.to("cuda", dtype)
        got = model(**{name: value.cuda() for name, value in batch().items()}).logits
    atol = 1e-3 if dtype == torch.float32 else 0.05 * float(want.abs().max()) + 0.02
    torch.testing.assert_close(got.float().cpu(), want, atol=atol, rtol=0)


def test_benchmark_of_pytorch(folder: Path, tmp_path: Path) -> None:
    from scripts.benchmark_torch import measure

    found = measure(folder, shapes=[(2, 8)], repeats=3, compile_model=False)
    assert {row["name"] for row in found} == {"float32", "bfloat16"}
    assert all(row["median_ms"] > 0 for row in found)
    assert next(row["speedup"] for row in found if row["name"] == "float32") == 1.0
    tiny_model("bert", labels=2).save_pretrained(tmp_path / "dense")
    found = measure(
        folder, dense=tmp_path / "dense", shapes=[(2, 8)], repeats=1, compile_model=False
    )
    names = ["dense float32", "dense bfloat16", "float32", "bfloat16"]
    assert [row["name"] for row in found] == names
    assert found[0]["speedup"] == 1.0
