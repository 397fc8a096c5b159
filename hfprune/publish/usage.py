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
        "```",
    )
