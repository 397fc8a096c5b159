"""Lines of the card that call a model: a classifier, a reranker of pairs, an encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from hfprune.core.kinds import IMAGE, Kind
from hfprune.deploy.calling import Example, example_for, reader
from hfprune.deploy.choose.told import Told
from hfprune.recipe.sections.whole import Recipe


def onnx_runtime(kind: Kind, example: Example, name: str, file: str) -> Iterator[str]:
    """Of ONNX Runtime alone, which is there with either transformers; Optimum is named."""
    yield from (
        "In ONNX Runtime (for pipelines Optimum's "
        f'`{kind.onnx_class}` reads the same file, with `subfolder="onnx"`):',
        "",
        "```python",
        "import onnxruntime",
        *_fetched(kind, name),
        f'session = onnxruntime.InferenceSession(f"{{name}}/onnx/{file}")',
        _batch(kind, example),
        "feed = {node.name: batch[node.name] for node in session.get_inputs()}",
        'logits = session.run(["logits"], feed)[0]',
        "```",
    )


def openvino(kind: Kind, example: Example, name: str, file: str) -> Iterator[str]:
    """Of OpenVINO alone."""
    yield from (
        "",
        "In OpenVINO:",
        "",
        "```python",
        "import openvino",
        *_fetched(kind, name),
        f'model = openvino.compile_model(f"{{name}}/openvino/{file}", "CPU")',
        _batch(kind, example),
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


def _batch(kind: Kind, example: Example) -> str:
    given = "images=[image]"
    if kind is not IMAGE:
        given = f"{example.texts}, padding=True, {example.cut}, return_token_type_ids=True"
    return f'batch = {reader(kind)[1]}({given}, return_tensors="np")'


def example_of(recipe: Recipe, max_length: int | None) -> Example:
    """What the model of a recipe reads; texts are cut at so many tokens."""
    return example_for(recipe.task, recipe.data.text_pair_column is not None, max_length=max_length)


def is_for_javascript(recipe: Recipe) -> bool:
    """Whether a pipeline of Transformers.js answers as the model was measured.

    Those of texts take no pairs, and make 1 of every single number (the softmax of one).
    """
    if recipe.task in ("regression", "reranking", "image_classification"):
        return False
    return recipe.data.text_pair_column is None


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


def embedding(
    name: str,
    file: str,
    recommended: Iterable[Told],
    *,
    alone: bool,
    example: Example,
) -> Iterator[str]:
    """How a sentence encoder of the Hub is used.

    Args:
        name: of the repository.
        file: of ONNX, in its folder ``onnx``.
        recommended: files to deploy.
        alone: whether sentence-transformers loads the weights.
        example: what it reads.
    """
    yield from (
        "In PyTorch:",
        "",
        "```python",
        "import hfprune",
        "",
        f"encoder = hfprune.load_encoder({json.dumps(name)})",
        'embeddings = encoder.encode(["a text", "another one"])',
        "```",
        "",
        "All layers have one size, so sentence-transformers loads it as well:"
        if alone
        else "`SentenceTransformer` stops with an error that says the same, since it builds all "
        "layers alike. As one of its models:",
        "",
        "```python",
        *([] if alone else ["import hfprune"]),
        "from sentence_transformers import SentenceTransformer",
        "",
        f"encoder = SentenceTransformer({json.dumps(name)})"
        if alone
        else f"encoder = hfprune.load_as(SentenceTransformer, {json.dumps(name)})",
        "```",
        "",
        "In ONNX Runtime; pooling and normalisation are in the file"
        + ("; the prompt is put before each text:" if example.prompt else ":"),
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
        f"texts = {example.texts}",
        f"batch = tokenizer(texts, padding=True, {example.cut}, "
        'return_token_type_ids=True, return_tensors="np")',
        "(embeddings,) = session.run(",
        '    ["sentence_embedding"], {name: batch[name] for name in names}',
        ")",
        "```",
    )
    for told in recommended:
        yield from ("", f"The file that was the fastest {told.served}, from this folder:",
                    "", "```python", *told.load, "```")  # fmt: skip
