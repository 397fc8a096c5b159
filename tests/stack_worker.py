"""Saves shrunk models and an ONNX file on one stack, or checks them on the other; see test_stacks.

python stack_worker.py save FOLDER | python stack_worker.py load FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
for place in (ROOT, ROOT / "tests"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from tiny import (  # noqa: E402
    FAMILIES,
    IMAGE_FAMILIES,
    random_plan,
    tiny_batch,
    tiny_model,
    tiny_tokenizer,
)

import hfprune  # noqa: E402
from hfprune.deploy.exporters.exporting import export_onnx  # noqa: E402
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier  # noqa: E402
from hfprune.families.blocks import BlockKey  # noqa: E402
from hfprune.pruning.surgery import shrink_  # noqa: E402

EXPORTED = "bert"  # exporters take seconds a model


def digest(model: Any) -> str:
    """Over the names and the bytes of all parameters; of images not the names, which differ."""
    named = model.config.model_type not in IMAGE_FAMILIES
    parts = [
        (name if named else "", hashlib.sha256(value.detach().numpy().tobytes()).hexdigest())
        for name, value in model.named_parameters()
    ]
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()


def logits(model: Any, family: str) -> Any:
    with torch.inference_mode():
        return model.eval()(**tiny_batch(family=family)).logits.numpy()


def onnx_logits(path: Path) -> Any:
    return OnnxClassifier(path).logits({k: v.numpy() for k, v in tiny_batch().items()})


def save(folder: Path, *, export: bool = True) -> None:
    for family in FAMILIES:
        model = tiny_model(family)
        shrink_(model, random_plan(model, removed=(BlockKey(1, "attention"),)))
        model.save_pretrained(folder / family)
        np.save(folder / family / "logits.npy", logits(model, family))
        (folder / family / "digest.txt").write_text(digest(model))
        if export and family == EXPORTED:
            export_onnx(model, tiny_tokenizer(), folder / family / "onnx")


def load(folder: Path) -> None:
    found: dict[str, Any] = {"transformers": transformers.__version__}
    for family in FAMILIES:
        model = hfprune.from_pretrained(folder / family)
        equal = digest(model) == (folder / family / "digest.txt").read_text()
        got = {"PyTorch": logits(model, family)}
        if family == EXPORTED:
            got["ONNX of the other stack"] = onnx_logits(folder / family / "onnx" / "model.onnx")
            made_here = export_onnx(model, tiny_tokenizer(), folder / family / "onnx-here")
            got["ONNX of this stack"] = onnx_logits(made_here)
        want = np.load(folder / family / "logits.npy")
        differences = {name: float(np.abs(value - want).max()) for name, value in got.items()}
        found[family] = {"equal": equal, "differences": differences}
    print(json.dumps(found))


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))
