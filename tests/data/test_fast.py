"""The quick way through a fast tokenizer gives what its own call gives."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hfprune.data.fast import columns_of, encode_fast

_TEXTS = (
    "a very good film", "bad", "", "naïve café — Ünïcode 你好 🙂", "one two three four five six",
    "spaces   and\ttabs\nand lines", "x" * 300, "[CLS] written out [SEP]", "good bad " * 30,
)  # fmt: skip


def _byte_pairs() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.train_from_iterator(
        _TEXTS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _unigrams(first_type: int = 0) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        _TEXTS,
        trainers.UnigramTrainer(
            vocab_size=90,
            special_tokens=["<unk>", "<cls>", "<sep>", "<pad>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    # As XLNet: types that no text would have by default, and special tokens at the end.
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A:{first_type} <sep>:{first_type} <cls>:2",
        pair=f"$A:{first_type} <sep>:{first_type} $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<sep>", 2), ("<cls>", 1)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        padding_side="left",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make", [_byte_pairs, _unigrams])
@pytest.mark.parametrize("limit", [6, 12, 400])
def test_the_same_columns_as_its_own_call(make: Any, side: str, limit: int) -> None:
    tokenizer = make()
    tokenizer.truncation_side = side
    draw = random.Random(limit)
    texts = draw.choices(_TEXTS, k=40)
    for pairs in (None, draw.choices(_TEXTS, k=40)):
        found, cut = encode_fast(tokenizer, texts, pairs, limit)
        options: dict[str, Any] = {"max_length": limit, "return_attention_mask": True}
        own = columns_of(tokenizer(texts, pairs, truncation=True, **options))
        assert list(found) == list(own)
        for name in own:
            assert [list(row) for row in found[name]] == own[name], name
        whole = tokenizer(texts, pairs, truncation=False)["input_ids"]
        assert cut == sum(len(row) > limit for row in whole)


class _Lowering(PreTrainedTokenizerFast):
    """One that does something around its backend, as ByT5's cousins on the Hub do."""

    def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
        return super().__call__([one.lower() for one in text], *args, **options)


def test_a_call_with_a_mind_of_its_own_is_heard() -> None:
    plain = _byte_pairs()
    own = _Lowering(
        tokenizer_object=plain.backend_tokenizer, model_input_names=["input_ids", "attention_mask"]
    )
    texts = ["GOOD film", "BAD film"] * 20
    found, _ = encode_fast(own, texts, None, 30)
    assert found["input_ids"] == plain([one.lower() for one in texts])["input_ids"]
    assert found["input_ids"] != plain(texts)["input_ids"]
