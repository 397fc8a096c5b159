"""Models of any size with random weights, their tokenizer, and rows for them; a few seconds each.

For measurements that need sizes and no meaning: nothing is downloaded. A row's label is that of the
one word in it that names a class, so that there is something to learn.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

_KINDS = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_model(
    folder: Path,
    *,
    layers: int,
    width: int,
    inner: int,
    heads: int,
    vocabulary: int = 30_522,
    positions: int = 512,
) -> Path:
    """A BERT with random weights and a tokenizer that knows ``w0``, ``w1`` and on."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    words = [*SPECIAL, *(f"w{n}" for n in range(vocabulary - len(SPECIAL)))]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(numbers, **{_KINDS[1]: SPECIAL[1]}))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(_KINDS, SPECIAL, strict=True)),
        model_max_length=positions,
    ).save_pretrained(folder)
    return folder


def write_rows(
    file: Path, rows: int, *, words: int, labels: int = 2, vocabulary: int = 30_000, seed: int = 0
) -> Path:
    """A CSV of texts with ``words`` words, between half of that and half as much again."""
    drawn = random.Random(seed)
    with file.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerow(["text", "label"])
        for row in range(rows):
            label = row % labels
            count = drawn.randint(max(1, words // 2), max(1, words * 3 // 2))
            # Words beyond the first `labels`, and the one that tells.
            text = [f"w{drawn.randrange(labels, vocabulary)}" for _ in range(count)]
            text[drawn.randrange(count)] = f"w{label}"
            out.writerow([" ".join(text), f"c{label}"])
    return file
