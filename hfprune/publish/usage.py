"""Lines of the card that call a model: a classifier, or a reranker of pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hfprune.core.kinds import IMAGE, Kind


def calls(kind: Kind, ranks: bool) -> list[str]:
    """Python that makes a pipeline of ``model``, and puts ``texts`` of a ``query`` in order."""
    if ranks:
        return [
            f'score = pipeline("{kind.export_task}", model=model, tokenizer=tokenizer)',
            'rows = score([{"text": query, "text_pair": text} for text in texts])',
            'order = sorted(range(len(texts)), key=lambda place: -rows[place]["score"])',
        ]
    reader = "image_processor=processor" if kind is IMAGE else "tokenizer=tokenizer"
    return [f'classify = pipeline("{kind.export_task}", model=model, {reader})']


def input_of(kind: Kind, ranks: bool) -> str:
    """What a processor or tokenizer is called with, for one input."""
    if kind is IMAGE:
        return "images=[image]"
    return '["a query"], ["a text"]' if ranks else '["a text"]'


def onnx_runtime(kind: Kind, ranks: bool, name: str, file: str) -> Iterator[str]:
    """Of ONNX Runtime alone, which is there with either transformers; Optimum is named."""
    yield from (
        "In ONNX Runtime (for pipelines Optimum's "
        f'`{kind.onnx_class}` reads the same file, with `subfolder="onnx"`):',
        "",
        "```python",
        "import onnxruntime",
        *_fetched(kind, name),
        f'session = onnxruntime.InferenceSession(f"{{name}}/onnx/{file}")',
        *_batch(kind, ranks),
        "feed = {node.name: batch[node.name] for node in session.get_inputs()}",
        'logits = session.run(["logits"], feed)[0]',
        "```",
    )


def openvino(kind: Kind, ranks: bool, name: str, file: str) -> Iterator[str]:
    """Of OpenVINO alone."""
    yield from (
        "",
        "In OpenVINO:",
        "",
        "```python",
        "import openvino",
        *_fetched(kind, name),
        f'model = openvino.compile_model(f"{{name}}/openvino/{file}", "CPU")',
        *_batch(kind, ranks),
        'logits = model({i.any_name: batch[i.any_name] for i in model.inputs})["logits"]',
        "```",
    )


def _fetched(kind: Kind, name: str) -> Iterator[str]:
    """Imports, and the folder of a repository: files of one model may be several."""
    loader, variable = reader(kind)
    yield from (
        "from huggingface_hub import snapshot_download",
        f"from transformers import {loader}",
        "",
        f"name = snapshot_download({json.dumps(name)})",
        f"{variable} = {loader}.from_pretrained(name)",
    )


def _batch(kind: Kind, ranks: bool) -> Iterator[str]:
    yield f'batch = {reader(kind)[1]}({input_of(kind, ranks)}, return_tensors="np")'


def reader(kind: Kind) -> tuple[str, str]:
    """Class and variable: images have a processor where texts have a tokenizer."""
    return ("AutoImageProcessor", "processor") if kind is IMAGE else ("AutoTokenizer", "tokenizer")


def javascript(kind: Kind, name: str) -> Iterator[str]:
    """Of Transformers.js, whose pipelines take no pairs."""
    yield from (
        "",
        "In JavaScript:",
        "",
        "```js",
        'import { pipeline } from "@huggingface/transformers";',
        "",
        f"const name = {json.dumps(name)};",
        f'const classify = await pipeline("{kind.export_task}", name, {{ dtype: "q8" }});',
        'console.log(await classify(["a text"]));',
        "```",
    )
