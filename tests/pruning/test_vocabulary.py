"""A reduced vocabulary: what only uses kept tokens stays as it was, all else still tokenizes."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    TEXT_FAMILIES,
    TRANSFORMERS_5,
    VOCAB,
    tiny_batch,
    tiny_model,
    tiny_tokenizer,
    write_reviews,
)
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import hfprune
from hfprune.core.errors import CheckpointError, DataError, PlanError, RecipeError, TrainingError
from hfprune.data.loading import load_task_data, retokenize
from hfprune.families import model_sizes
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import required_tokens, shrink_
from hfprune.pruning.vocabulary.compare import compare_tokens
from hfprune.pruning.vocabulary.reduce import kept_tokens, reduce_vocabulary_
from hfprune.pruning.vocabulary.tokenizer import reduced_tokenizer
from hfprune.recipe.sections.data import DataConfig
from hfprune.recipe.sections.pruning import PruningConfig, VocabularyConfig
from hfprune.training.trainer import HFPruneTrainer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = [
    "an",
    "ba",
    "cor",
    "del",
    "ing",
    "in",
    "un",
    "re",
    "est",
    "ly",
    "th",
    "er",
    "on",
    "ness",
    "a",
    "ab",
]


def made_up_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(120)]
    return [" ".join(draw.choices(words, k=draw.randint(3, 9))) + "." for _ in range(count)]


TRAINED_ON = made_up_texts(300)
OTHER = made_up_texts(200, seed=5)
HARD = [
    "",
    " ",
    "Zürich ☕ 東京 \u200b naïve",
    "x" * 120,
    "aaaaaaa ababab",
    "\n\t0xff <0x41> ##a ▁b",
]


def _word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        TRAINED_ON, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL)
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def _byte_bpe() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TRAINED_ON,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
        ]
    )
    return made


def _suffix_bpe() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(
        TRAINED_ON,
        trainers.BpeTrainer(vocab_size=250, special_tokens=SPECIAL, end_of_word_suffix="</w>"),
    )
    return made


def _many_ways_bpe() -> Tokenizer:
    """As converted from SentencePiece: every pair of tokens that makes a token is a merge."""
    trained = json.loads(_byte_bpe().to_str())["model"]["vocab"]
    words = [w.replace("Ġ", "▁") for w in sorted(trained, key=trained.get) if w not in SPECIAL]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(words)]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [
        (word[:cut], word[cut:])
        for word in sorted(words, key=lambda w: (len(w), vocab[w]))
        for cut in range(1, len(word))
        if word[:cut] in vocab and word[cut:] in vocab
    ]
    made = Tokenizer(
        models.BPE(vocab, merges, unk_token="[UNK]", byte_fallback=True, fuse_unk=True)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    return made


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        TRAINED_ON,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="[UNK]"),
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.add_tokens(["corner-case"])  # in no model's vocabulary: numbered after it
    return made


MAKERS = {
    "WordPiece": _word_piece,
    "byte BPE": _byte_bpe,
    "suffix BPE": _suffix_bpe,
    "many ways": _many_ways_bpe,
    "Unigram": _unigram,
}


def wrapped(made: Tokenizer) -> Any:
    names = ("pad", "unk", "cls", "sep", "mask")
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=64,
        **{f"{n}_token": token for n, token in zip(names, SPECIAL, strict=True)},
    )


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return wrapped(MAKERS[request.param]())


def rows(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(texts)["input_ids"]
    return found


@pytest.mark.parametrize("min_count", [1, 3])
@pytest.mark.parametrize("size", [3, 40])
def test_texts_of_kept_tokens_are_tokenized_as_before(
    tokenizer: Any, size: int, min_count: int
) -> None:
    corpus = rows(tokenizer, OTHER[:size])
    kept = kept_tokens(tokenizer, corpus, min_count)
    assert len(kept) < len(tokenizer), "there is something to remove"
    smaller = reduced_tokenizer(tokenizer, kept)
    assert len(smaller) == len(kept)
    assert smaller.get_vocab() == {
        token: kept.index(index) for token, index in tokenizer.get_vocab().items() if index in kept
    }
    same = 0
    for text in [*OTHER, *TRAINED_ON, *HARD, "a corner-case."]:
        before, after = tokenizer.tokenize(text), smaller.tokenize(text)
        if set(tokenizer.convert_tokens_to_ids(before)) <= set(kept):
            same += 1
            assert after == before
            assert [kept[i] for i in smaller(text)["input_ids"]] == tokenizer(text)["input_ids"]
        assert "".join(after).count("[UNK]") <= len(text), "and any text still tokenizes"
    assert same >= (size if min_count == 1 else 1)
    if min_count == 1:
        assert [[kept[i] for i in row] for row in rows(smaller, OTHER[:size])] == corpus


def test_what_is_new_is_spelled_out_and_not_unknown(tokenizer: Any) -> None:
    kept = kept_tokens(tokenizer, [])
    smaller = reduced_tokenizer(tokenizer, kept)
    text = "corner unrest"
    pieces = smaller.tokenize(text)
    assert "[UNK]" not in pieces
    letters = "".join(p.replace("##", "").replace("</w>", "").strip("Ġ▁") for p in pieces)
    assert letters == "cornerunrest"
    for hard in HARD:
        assert tokenizer.tokenize(hard).count("[UNK]") <= smaller.tokenize(hard).count("[UNK]")


def test_bytes_stay_so_that_nothing_is_unknown() -> None:
    for name in ("byte BPE", "many ways"):
        tokenizer = wrapped(MAKERS[name]())
        smaller = reduced_tokenizer(tokenizer, kept_tokens(tokenizer, []))
        for hard in HARD:
            assert "[UNK]" not in smaller.tokenize(hard)


def test_merges_towards_a_kept_token_stay_and_others_go() -> None:
    """Worked by hand: abc is merged from ab and c, and abd, with its merge, goes."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd", "ab", "abc", "abd", "bc"]
    vocab = {word: index for index, word in enumerate(words)}
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("ab", "d"), ("a", "bc")]
    tokenizer = wrapped(Tokenizer(models.BPE(vocab, merges, unk_token="[UNK]")))
    assert tokenizer.tokenize("abc") == ["abc"]
    kept = kept_tokens(tokenizer, [[vocab["abc"]]])
    # bc is a token from which abc could be merged, but never is: ab comes first
    assert [words[i] for i in kept] == [*words[:9], "ab", "abc"]
    smaller = reduced_tokenizer(tokenizer, kept)
    content = json.loads(smaller.backend_tokenizer.to_str())
    assert content["model"]["merges"] == [["a", "b"], ["ab", "c"]]
    assert smaller.tokenize("abcabdbc") == ["abc", "ab", "d", "b", "c"]


def test_saved_and_loaded_it_is_the_same(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer(OTHER[:2], truncation=True, max_length=4, padding=True)  # leaves its settings behind
    kept = kept_tokens(tokenizer, rows(tokenizer, OTHER[:10]))
    smaller = reduced_tokenizer(tokenizer, kept)
    smaller.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for left in (smaller, again):
        for name in ("pad", "unk", "cls", "sep", "mask"):
            token = getattr(left, f"{name}_token")
            assert token == getattr(tokenizer, f"{name}_token")
            assert kept[getattr(left, f"{name}_token_id")] == tokenizer.convert_tokens_to_ids(token)
        settings: dict[str, Any] = {"truncation": True, "max_length": 5, "padding": "max_length"}
        found, want = left(OTHER[:10], **settings), tokenizer(OTHER[:10], **settings)
        assert [[kept[i] for i in row] for row in found["input_ids"]] == want["input_ids"]
        assert found["attention_mask"] == want["attention_mask"]
        pairs = left(OTHER[:3], OTHER[3:6]), tokenizer(OTHER[:3], OTHER[3:6])
        assert [[kept[i] for i in row] for row in pairs[0]["input_ids"]] == pairs[1]["input_ids"]
        assert left.decode(found["input_ids"][0]) == tokenizer.decode(want["input_ids"][0])
    assert str(tmp_path.parent.parent) not in (tmp_path / "tokenizer_config.json").read_text()


def test_files_of_slow_tokenizers_hold_the_new_numbers_or_are_gone(tmp_path: Path) -> None:
    """A slow tokenizer read from old ones would feed the wrong rows."""
    from transformers import BertTokenizerFast, XLMRobertaTokenizerFast

    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL, "a", "##a", "bad", "good", "film"]) + "\n")
    tokenizer = BertTokenizerFast(str(vocab))
    kept = kept_tokens(tokenizer, rows(tokenizer, ["good"]))
    smaller = reduced_tokenizer(tokenizer, kept)
    assert isinstance(smaller, BertTokenizerFast)
    assert smaller.convert_ids_to_tokens(range(len(smaller))) == [*SPECIAL, "a", "##a", "good"]
    smaller.save_pretrained(tmp_path / "saved")
    if not TRANSFORMERS_5:  # which has no slow tokenizers, and writes no files of theirs
        words = (tmp_path / "saved" / "vocab.txt").read_text().split()
        assert words == [*SPECIAL, "a", "##a", "good"]
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("good aa film")["input_ids"] == [2, 7, 5, 6, 1, 3]

    if TRANSFORMERS_5:
        return
    pieces = tmp_path / "sentencepiece.bpe.model"
    pieces.write_bytes(b"pieces in their old order")
    tokenizer = XLMRobertaTokenizerFast(str(pieces), tokenizer_object=_unigram(), unk_token="[UNK]")
    smaller = reduced_tokenizer(tokenizer, kept_tokens(tokenizer, rows(tokenizer, OTHER[:3])))
    smaller.save_pretrained(tmp_path / "pieces")
    assert not (tmp_path / "pieces" / pieces.name).exists()
    again = AutoTokenizer.from_pretrained(tmp_path / "pieces")
    assert rows(again, OTHER[:9]) == rows(smaller, OTHER[:9])


# --- models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_logits_are_the_same_to_the_bit_and_survive_saving(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    batch = tiny_batch()
    generator = torch.Generator().manual_seed(3)
    used = set(batch["input_ids"].unique().tolist()) | set(required_tokens(model))
    some = torch.randperm(VOCAB, generator=generator)[:20].tolist()
    kept = tuple(sorted(used | set(some)))
    with torch.no_grad():
        before = model(**batch).logits
    dense = PruningPlan.dense(model_sizes(model))
    pad = model.config.pad_token_id
    shrink_(model, PruningPlan(dense.heads, dense.neurons, kept))
    new = torch.full((VOCAB,), -1)
    new[list(kept)] = torch.arange(len(kept))
    changed = {**batch, "input_ids": new[batch["input_ids"]]}
    with torch.no_grad():
        after = model(**changed).logits
    assert torch.equal(before, after)
    assert model.config.vocab_size == len(kept)
    assert kept[model.config.pad_token_id] == pad
    model.save_pretrained(tmp_path)
    again = hfprune.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == len(kept)
    with torch.no_grad():
        assert torch.equal(again(**changed).logits, before)


def test_positions_are_counted_from_the_padding_token() -> None:
    model = tiny_model("roberta", pad_token_id=3)
    assert required_tokens(model) >= {0, 1, 2, 3}
    dense = PruningPlan.dense(model_sizes(model))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PlanError, match=r"drops tokens \[1\], which the model's config needs"):
        shrink_(model, PruningPlan(dense.heads, dense.neurons, (0, 2, 3, 50)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_lists_of_token_ids_in_the_config_follow() -> None:
    model = tiny_model("llama", eos_token_id=[7, 90])
    dense = PruningPlan.dense(model_sizes(model))
    kept = tuple(sorted({*required_tokens(model), 7, 50, 90}))
    shrink_(model, PruningPlan(dense.heads, dense.neurons, kept))
    assert [kept[i] for i in model.config.eos_token_id] == [7, 90]


def test_model_and_tokenizer_together() -> None:
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    texts = ["a good film", "the story was very dull"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        before = model(**batch).logits
    plan, smaller = reduce_vocabulary_(model, tokenizer, rows(tokenizer, texts))
    assert plan.vocabulary is not None
    assert model.config.vocab_size == len(smaller) == len(plan.vocabulary) < VOCAB
    assert PruningPlan.from_dict(plan.to_dict()) == plan
    with torch.no_grad():
        assert torch.equal(
            model(**smaller(texts, padding=True, return_tensors="pt")).logits, before
        )


def test_the_report_by_hand() -> None:
    tokenizer = tiny_tokenizer()
    kept = kept_tokens(tokenizer, rows(tokenizer, ["a good film"]))
    smaller = reduced_tokenizer(tokenizer, kept)
    texts = ["a good film", "a bad unheard-of film"]
    report = compare_tokens(tokenizer, smaller, kept, rows(tokenizer, texts), rows(smaller, texts))
    # words: a good film | a bad unheard - of film; of these unheard, - and of are unknown anyway
    assert report.to_dict() == {
        "tokens_before": VOCAB,
        "tokens_after": len(kept),
        "unknown_before": 3 / 9,
        "unknown_after": 4 / 9,
        "mean_length_before": 6.5,
        "mean_length_after": 6.5,
        "changed": 0.5,
    }
    with pytest.raises(DataError, match="expected the same texts for both tokenizers, got 2 and 0"):
        compare_tokens(tokenizer, smaller, kept, rows(tokenizer, texts), [])


# --- what is refused ------------------------------------------------------------------------


def test_what_cannot_be_reduced_is_refused(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL) + "\n")
    if not TRANSFORMERS_5:
        with pytest.raises(DataError, match=r"BertTokenizer is a slow tokenizer .* use_fast=True"):
            kept_tokens(BertTokenizer(str(tmp_path / "vocab.txt")), [])
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL)}, unk_token="[UNK]"))
    with pytest.raises(DataError, match="model is WordLevel; only the vocabularies of WordPiece"):
        kept_tokens(wrapped(words), [])
    with pytest.raises(PlanError, match="min_count is 0; expected at least 1"):
        kept_tokens(tiny_tokenizer(), [], 0)
    with pytest.raises(PlanError, match=r"ids \[100\] are no tokens of the tokenizer, whose ids"):
        kept_tokens(tiny_tokenizer(), [[VOCAB]])
    with pytest.raises(PlanError, match=r"the added tokens \[0, 1, 2, 3, 4\] must stay"):
        reduced_tokenizer(tiny_tokenizer(), (5, 6))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((), "the vocabulary of a plan is empty"),
        ((0, 100), "the plan keeps tokens 0 to 100, the model has ids 0 to 99"),
        ((5, 6), r"the plan drops tokens \[0\]"),
    ],
)
def test_plans_that_do_not_fit_are_refused(kept: tuple[int, ...], message: str) -> None:
    model = tiny_model("bert")
    dense = PruningPlan.dense(model_sizes(model))
    with pytest.raises(PlanError, match=message):
        shrink_(model, PruningPlan(dense.heads, dense.neurons, kept))


def test_only_classifiers_of_texts_have_a_vocabulary_to_reduce() -> None:
    from transformers import BertConfig, BertForMaskedLM

    image = tiny_model("vit")
    sizes = PruningPlan.dense(model_sizes(image))
    with pytest.raises(PlanError, match="ViTForImageClassification reads no tokens"):
        shrink_(image, PruningPlan(sizes.heads, sizes.neurons, (0, 1)))
    config = BertConfig(vocab_size=VOCAB, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    model = BertForMaskedLM(config)
    sizes = PruningPlan.dense(model_sizes(model))
    with pytest.raises(PlanError, match="BertForMaskedLM predicts tokens; only a classifier's"):
        shrink_(model, PruningPlan(sizes.heads, sizes.neurons, (0, 1)))


@pytest.mark.parametrize(
    ("size", "message"),
    [(40, "of another shape: .*word_embeddings"), (0, "that can be built|another shape")],
)
def test_a_damaged_size_is_refused(size: int, message: str, tmp_path: Path) -> None:
    model = tiny_model("bert")
    dense = PruningPlan.dense(model_sizes(model))
    shrink_(model, PruningPlan(dense.heads, dense.neurons, tuple(range(50))))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": size}))
    with pytest.raises(CheckpointError, match=message):
        hfprune.from_pretrained(tmp_path)


# --- recipes and data -----------------------------------------------------------------------


def test_the_trainer_says_who_reduces_a_vocabulary() -> None:
    pruning = PruningConfig(sparsity=0.5, vocabulary=VocabularyConfig(min_count=2))
    with pytest.raises(
        TrainingError, match="one training with gates reaches.*hfprune.HFPruneTrainer goes through"
    ):
        HFPruneTrainer(tiny_model("bert"), pruning=pruning)
    with pytest.raises(RecipeError, match="min_count: must be at least 1, got 0"):
        VocabularyConfig(min_count=0)
    assert PruningConfig(sparsity=0.5).vocabulary is None


def test_rows_keep_their_order_and_labels_when_they_are_tokenized_anew(tmp_path: Path) -> None:
    write_reviews(tmp_path / "reviews.csv", 60)
    tokenizer = tiny_tokenizer()
    config = DataConfig(train_file=str(tmp_path / "reviews.csv"), max_length=5)
    data = load_task_data(config, tokenizer, "single_label_classification")
    assert sum(data.truncated.values()) > 0
    same = retokenize(data, tokenizer)
    assert same.truncated == data.truncated
    kept = kept_tokens(tokenizer, data.train["input_ids"], 10)
    smaller = reduced_tokenizer(tokenizer, kept)
    other = retokenize(data, smaller)
    for name in ("train", "validation", "test"):
        assert same.split(name).to_dict() == data.split(name).to_dict()
        assert same.split(name).features == data.split(name).features
        assert list(other.split(name)["labels"]) == list(data.split(name)["labels"])
        for old, row in zip(
            data.split(name)["input_ids"], other.split(name)["input_ids"], strict=True
        ):
            wanted = [kept.index(token if token in kept else 1) for token in old]
            assert list(row) == wanted, "a word that went is unknown: this tokenizer has no letters"
