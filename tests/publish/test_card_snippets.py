"""A model card's code, run as it stands: PyTorch, ONNX Runtime, OpenVINO, Transformers.js."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from first_results import first_format
from test_card import finished
from tiny import random_plan, tiny_model, tiny_tokenizer

from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.quantize.search import usual_settings
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.openvino import OpenVino
from hfprune.deploy.runtimes.writing import write_usual
from hfprune.pruning.surgery import shrink_
from hfprune.publish.card import model_card

NAME = "user/reviews"
# A folder in which @huggingface/transformers was installed by npm.
NODE = os.environ.get("HFPRUNE_NODE")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the repository lies under its name, with every file that there may be."""
    place = tmp_path_factory.mktemp("hub")
    folder = place / NAME
    model = tiny_model("bert", labels=2)
    model.config.id2label = {0: "negative", 1: "positive"}
    model.config.label2id = {"negative": 0, "positive": 1}
    shrink_(model, random_plan(model)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    export_onnx(model, tiny_tokenizer(), folder / "onnx")
    quantize_onnx(folder / "onnx", usual_settings(folder / "onnx"))
    if OpenVino().missing() is None:
        write_usual("openvino", folder / "onnx", folder)
    config = (folder / "config.json").read_text()
    finished(folder, first_format())
    (folder / "config.json").write_text(config)
    return place


def snippets(home: Path, language: str) -> list[str]:
    text = model_card(home / NAME, NAME)
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def truth(home: Path) -> tuple[Any, Any]:
    """Of the text in the snippets: PyTorch's logits, and the int8 file's own."""
    import hfprune

    batch = tiny_tokenizer()(["a text"], return_tensors="np")
    model = hfprune.from_pretrained(home / NAME)
    with torch.no_grad():
        wanted = model(**{k: torch.as_tensor(v) for k, v in batch.items()}).logits.numpy()
    own = OnnxClassifier(home / NAME / "onnx" / "model_quantized.onnx").logits(dict(batch))
    return wanted, own


def test_python(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: name)
    wanted, own = truth(home)
    odds = np.exp(wanted[0] - wanted[0].max())
    found = snippets(home, "python")
    assert len(found) == (2 if OpenVino().missing() else 3)
    spaces: list[dict[str, Any]] = []
    for code in found:
        spaces.append({})
        exec(code, spaces[-1])  # noqa: S102 - what the card tells people to run
    (told,) = spaces[0]["classify"]("a text")
    assert told["label"] == ("negative", "positive")[wanted.argmax()]
    assert told["score"] == pytest.approx(float((odds / odds.sum()).max()), abs=1e-5)
    np.testing.assert_allclose(spaces[1]["logits"], own, atol=1e-6)
    for space in spaces[2:]:  # OpenVINO, which computes in bfloat16 where the CPU has it
        batch = dict(tiny_tokenizer()(["a text"], return_tensors="np"))
        session = OpenVino().open(home / NAME / "openvino" / "openvino_model.xml")
        np.testing.assert_allclose(space["logits"], session.logits(batch), atol=1e-6)
        np.testing.assert_allclose(space["logits"], wanted, atol=5e-3)


@pytest.mark.slow
@pytest.mark.skipif(
    NODE is None or shutil.which("node") is None,
    reason="set HFPRUNE_NODE to a folder that has @huggingface/transformers",
)
def test_javascript(home: Path) -> None:
    (code,) = snippets(home, "js")
    place = Path(str(NODE))
    (place / "card.mjs").write_text(code)
    # The snippet is of a repository on the Hub; here it lies in a folder.
    (place / "run_card.mjs").write_text(
        'import { env } from "@huggingface/transformers";\n'
        f"env.allowRemoteModels = false;\nenv.localModelPath = {json.dumps(str(home))};\n"
        'await import("./card.mjs");\n'
    )
    done = subprocess.run(
        ["node", "run_card.mjs"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    _, own = truth(home)
    odds = np.exp(own[0] - own[0].max())
    label, score = re.findall(r"label: '(\w+)', score: ([\d.]+)", done.stdout)[0]
    assert label == ("negative", "positive")[own.argmax()]
    assert float(score) == pytest.approx(float((odds / odds.sum()).max()), abs=1e-4)
