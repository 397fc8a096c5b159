"""A tiny model and its tokenizer with other ids for the same words."""

from __future__ import annotations

import json
from typing import Any

import torch
import transformers
from tiny import VOCAB, tiny_tokenizer
from tokenizers import Tokenizer

# More ids than the student has.
SHIFT = 7


def shifted(model: Any) -> Any:
    """The same model of other ids: each token's embedding lies ``SHIFT`` rows further on."""
    words = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(VOCAB + SHIFT)
    with torch.no_grad():
        model.get_input_embeddings().weight[SHIFT:] = words
    return model


def shifted_tokenizer(*, lowercase: bool = True) -> Any:
    mine = tiny_tokenizer()
    state = json.loads(mine.backend_tokenizer.to_str())
    vocab = {word: place + SHIFT for word, place in state["model"]["vocab"].items()}
    state["model"]["vocab"] = {**{f"[new{n}]": n for n in range(SHIFT)}, **vocab}
    for token in state["added_tokens"]:
        token["id"] += SHIFT
    for token in state["post_processor"]["special_tokens"].values():
        token["ids"] = [place + SHIFT for place in token["ids"]]
    if not lowercase:
        state["normalizer"] = None
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
