"""Texts of thousands of tokens, from rows to files; few of them, and a tiny model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from tiny import NEGATIVE, NEUTRAL, POSITIVE, tiny_model, tiny_tokenizer

import hfprune
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor


@pytest.mark.parametrize(
    ("family", "tokens", "heads"),
    [
        ("modernbert", 1_024, 4),
        # Attention is nearly all of it, so it has few heads: under a minute of a core. The masks of
        # ModernBERT alone would take several times that.
        pytest.param("bert", 8_192, 2, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_long_texts_are_learned_and_served_whole(
    tmp_path: Path, family: str, tokens: int, heads: int
) -> None:
    model = tiny_model(
        family, labels=2, layers=2, max_position_embeddings=tokens, num_attention_heads=heads
    )
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = tokens
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    rows = [
        {
            # The word that tells stands at the end: who cuts texts never sees it.
            "text": " ".join([*draw.choices(NEUTRAL, k=tokens - 3), told[0]]),
            "label": "positive" if told is POSITIVE else "negative",
        }
        for told in [POSITIVE, NEGATIVE] * 3
    ]
    small = hfprune.compress(
        str(tmp_path / "model"),
        train=rows[:2],
        validation=rows[2:4],
        test=rows[4:],
        sparsity=0.4,
        output_dir=tmp_path / "small",
        quiet=True,
        data={"max_length": tokens},
        training={"per_device_train_batch_size": 2, "per_device_eval_batch_size": 1},
        pruning={"scoring_samples": 2, "search_rounds": 1, "trial_epochs": 0},
        recovery={"num_train_epochs": 1},
        export={"quantization": None},
        deploy=None,
        benchmark={"batch_sizes": [1], "sequence_lengths": [64], "repeats": 1, "warmup": 0},
    )
    assert small.results.pruning is not None
    assert small.results.pruning.sparsity >= 0.4
    batch = tokenizer([rows[0]["text"], "a short one"], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == (2, tokens)
    whole = small.model(**batch).logits.detach().numpy()
    asked = Predictor(tmp_path / "small")
    scores = [
        [answer["scores"][name] for name in ("negative", "positive")]
        for answer in asked([Row(rows[0]["text"]), Row("a short one")])
    ]
    shares = np.exp(whole - whole.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, shares, atol=1e-4)
