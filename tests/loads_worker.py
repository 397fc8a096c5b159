"""Reads one folder with one library and prints what came out; see tests/loads.py.

python loads_worker.py READER FOLDER < texts.json

Runs in whichever interpreter has the library. Only the reader ``hfprune`` imports hfprune; for the
others it cannot be imported, nor can PyTorch for the last two. Prints JSON: ``logits`` by file, or
``error``, or ``nothing``: the folder holds nothing that this reader is made for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FILES = {"float32": "model.onnx", "int8": "model_quantized.onnx"}
Found = dict[str, Any]


def graphs(folder: Path) -> dict[str, Path]:
    """The ONNX files of a layout: those in ``onnx``, or the one that is served, which is int8."""
    found = {name: folder / "onnx" / file for name, file in FILES.items()}
    # At the top for text-embeddings-inference, in Triton's version 1.
    top, first = ({"int8": place / FILES["float32"]} for place in (folder, folder / "1"))
    for files in (found, top, first):
        if there := {name: file for name, file in files.items() if file.is_file()}:
            return there
    return {}


def transformers_alone(folder: Path, texts: list[str]) -> Found:
    if not list(folder.glob("*.safetensors")):
        return {}
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    trusted = "auto_map" in json.loads((folder / "config.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=trusted)
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return {"PyTorch": model.eval()(**batch).logits.numpy()}


def with_hfprune(folder: Path, texts: list[str]) -> Found:
    if not list(folder.glob("*.safetensors")) and not (folder / "onnx").is_dir():
        return {}
    import torch
    from transformers import AutoTokenizer

    from hfprune.deploy.predict.rows import Row
    from hfprune.deploy.predict.serving import Predictor
    from hfprune.models.saved import load_saved

    found: Found = {}
    if list(folder.glob("*.safetensors")):
        batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            # As its commands do: hfprune.from_pretrained leaves uniform models to transformers.
            found["PyTorch"] = load_saved(str(folder)).eval()(**batch).logits.numpy()
    if (folder / "onnx").is_dir():
        ask = Predictor(folder)
        found[ask.file.precision] = ask.logits([Row(text) for text in texts])
    return found


def optimum_onnx(folder: Path, texts: list[str]) -> Found:
    found: Found = {}
    if not (folder / "config.json").is_file():
        return found
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    for name, file in graphs(folder).items():
        place = "onnx" if file.parent.name == "onnx" else ""
        model = ORTModelForSequenceClassification.from_pretrained(
            folder, subfolder=place, file_name=file.name
        )
        batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
        found[name] = model(**batch).logits
    return found


def optimum_intel(folder: Path, texts: list[str]) -> Found:
    if not (folder / "openvino").is_dir():
        return {}
    from optimum.intel import OVModelForSequenceClassification
    from transformers import AutoTokenizer

    model = OVModelForSequenceClassification.from_pretrained(
        folder,
        subfolder="openvino",
        # Where a CPU has bfloat16 it would be the default, and no 1e-4.
        ov_config={"INFERENCE_PRECISION_HINT": "f32"},
    )
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    return {"OpenVINO": model(**batch).logits.detach().numpy()}


def onnxruntime_alone(folder: Path, texts: list[str]) -> Found:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    place = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=0)
    rows = tokenizer.encode_batch(texts)
    columns = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }
    found: Found = {}
    for name, file in graphs(folder).items():
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        feed = {each: np.array(columns[each], dtype=np.int64) for each in names}
        found[name] = session.run(["logits"], feed)[0]
    return found


READERS = {
    "transformers 4.57": transformers_alone,
    "transformers 5": transformers_alone,
    "hfprune": with_hfprune,
    "Optimum ORT": optimum_onnx,
    "Optimum Intel": optimum_intel,
    "ONNX Runtime alone": onnxruntime_alone,
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name != "hfprune":
        sys.modules["hfprune"] = None  # type: ignore[assignment]
    if name == "ONNX Runtime alone":
        for other in ("torch", "transformers", "optimum"):
            sys.modules[other] = None  # type: ignore[assignment]
    try:
        found = READERS[name](folder, json.load(sys.stdin))
    except Exception as error:  # what a library raises is what is asked about
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told: Found = {"error": f"{type(error).__name__}: {' '.join(lines)}"}
    else:
        told = {"logits": {each: logits.tolist() for each, logits in found.items()}}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
