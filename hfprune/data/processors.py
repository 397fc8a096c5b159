"""A model's tokenizer or image processor, checked for its task."""

from __future__ import annotations

import json
from typing import Any

from hfprune.core.errors import DataError
from hfprune.core.kinds import IMAGE, kind_of_task
from hfprune.core.tasks import Task


def load_processor(name: str, task: Task, **options: Any) -> Any:
    """A model's tokenizer, or its image processor.

    Args:
        name: folder or Hub name.
        task: what it is for. Words come one by one in token classification: tokenizers whose
            tokens hold the space before a word then put one before each.
        **options: of ``from_pretrained``.

    Raises:
        DataError: if there is none, or a tokenizer cannot say which token belongs to which word.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    if kind_of_task(task) is IMAGE:
        try:
            # The slow ones need Pillow only, and give the same on every machine.
            return AutoImageProcessor.from_pretrained(name, use_fast=False, **options)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"{name} has no image processor that can be loaded (preprocessor_config.json): "
                f"{error}; save one beside the model, or name one in model.tokenizer"
            ) from error
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    if task != "token_classification":
        return tokenizer
    if not tokenizer.is_fast:
        raise DataError(
            f"{name} has a {type(tokenizer).__name__}, which cannot say which tokens belong to "
            "which word; token_classification needs a fast tokenizer (tokenizer.json)"
        )
    before = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
    if "ByteLevel" in json.dumps(before) and not getattr(tokenizer, "add_prefix_space", False):
        tokenizer = AutoTokenizer.from_pretrained(name, add_prefix_space=True, **options)
        _put_spaces(tokenizer.backend_tokenizer)
    return tokenizer


def _put_spaces(backend: Any) -> None:
    """A space before each word, where transformers 5 has left the pre-tokenizer as it was."""
    state = json.loads(backend.to_str())
    before = state["pre_tokenizer"]
    for part in before.get("pretokenizers", [before]):
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = True
    backend.pre_tokenizer = type(backend).from_str(json.dumps(state)).pre_tokenizer
