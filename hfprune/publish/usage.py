"""Lines of the card that call a model: a classifier, a reranker of pairs, an encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from hfprune.core.kinds import IMAGE, Kind
from hfprune.deploy.choose.told import Told
from hfprune.recipe.sections.whole import Recipe


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


WHAT_EMBEDDINGS_ARE: Final = (
    "It gives a text a vector: texts that are alike get vectors with a large cosine. All metrics "
    "compare its vectors with those of the dense model."
)


def how_embeddings_were_made(recipe: Recipe) -> str:
    """When a sentence encoder was pruned, in words."""
    if recipe.recovery.trains:
        return "without labels; what was left learned to give the dense model's embeddings"
    return "without labels and without training"


def embedding(name: str, file: str, recommended: Iterable[Told], *, alone: bool) -> Iterator[str]:
    """How a sentence encoder of the Hub is used.

    Args:
        name: of the repository.
        file: of ONNX, in its folder ``onnx``.
        recommended: files to deploy.
        alone: whether sentence-transformers loads the weights.
    """
    yield from (
        "In PyTorch:",
        "",
        "```python",
        "import hfprune",
        "from huggingface_hub import snapshot_download",
        "",
        f"folder = snapshot_download({json.dumps(name)})",
        "encoder = hfprune.load_encoder(folder)",
        'embeddings = encoder.encode(["a text", "another one"])',
        "```",
        "",
    )
    if alone:
        yield from (
            "All layers have one size, so sentence-transformers loads it as well:",
            "",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            f"encoder = SentenceTransformer({json.dumps(name)})",
            "```",
            "",
        )
    else:
        yield (
            "`SentenceTransformer` stops with an error that says the same, since it builds all "
            "layers alike. The ONNX files need neither:"
        )
        yield ""
    yield from (
        "In ONNX Runtime; pooling and normalisation are in the file:",
        "",
        "```python",
        "import onnxruntime",
        "from huggingface_hub import snapshot_download",
        "from transformers import AutoTokenizer",
        "",
        f"folder = snapshot_download({json.dumps(name)})",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f'session = onnxruntime.InferenceSession(f"{{folder}}/onnx/{file}")',
        "names = {one.name for one in session.get_inputs()}",
        'batch = tokenizer(["a text"], padding=True, truncation=True, return_tensors="np")',
        "(embeddings,) = session.run(",
        '    ["sentence_embedding"], {name: batch[name] for name in names}',
        ")",
        "```",
    )
    for told in recommended:
        yield from ("", f"The file that was the fastest {told.served}, from this folder:",
                    "", "```python", *told.load, "```")  # fmt: skip
