"""A run with a prompt, a cut and texts cut short: the folder, its exports and its card agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub
from tiny import tiny_tokenizer
from transformers import AutoModel

import hfprune
from hfprune.api.compressed import Compressed
from hfprune.core.errors import DataError
from hfprune.core.ownership import foreign_files
from hfprune.deploy.evaluation import evaluate
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.sentences import load_embedder
from hfprune.publish.card import model_card
from tests.api.test_embeddings import QUICK, sentence_encoder, texts
from tests.publish.test_hub import ROOT, TOKEN, environment, push_command

SETTINGS = "config_sentence_transformers.json"
PROMPTS = {"query": "good ", "passage": "dull ", "title": "bad "}
LENGTH, CUT = 10, 12
LONG = [*texts()[:4], " ".join(texts()[:6])]


def by_hand(folder: Path, some: list[str], prompt: str) -> np.ndarray:
    """Text by text: prompt, first ten tokens, the mean, to length 1, the first twelve numbers."""
    model, found = load_embedder(str(folder)), []
    for text in some:
        ids = tiny_tokenizer()(prompt + text)["input_ids"]
        ids = ids if len(ids) <= LENGTH else [*ids[: LENGTH - 1], ids[-1]]
        with torch.no_grad():
            states = model.base_model.encoder(
                model.embeddings(input_ids=torch.tensor([ids]))
            ).last_hidden_state
        mean = states[0].mean(0)
        found.append((mean / mean.norm())[:CUT].numpy())
    return np.stack(found)


def searches() -> list[tuple[str, str, float]]:
    some = texts()
    return [(some[n], some[m], float(m % 5 == n)) for n in range(5) for m in range(5, 30)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    place = tmp_path_factory.mktemp("encoder")
    dense = sentence_encoder(place / "dense")
    settings = {"prompts": PROMPTS, "default_prompt_name": None, "truncate_dim": CUT}
    (dense / SETTINGS).write_text(json.dumps(settings))
    rows = [{"query": q, "text": text, "label": label} for q, text, label in searches()]
    (place / "search.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = place / "train.jsonl"
    train.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
    return hfprune.compress(
        dense, train=train, task="sentence_embedding", sparsity=0.4, quiet=True,
        output_dir=place / "small", evaluation={"retrieval": str(place / "search.jsonl")},
        **{**QUICK, "data": {"max_length": LENGTH, "prompt": "title"},
           "deploy": {"runtimes": ["onnxruntime"], "seconds": 5.0},
           "benchmark": {**QUICK["benchmark"], "sequence_lengths": [8]}},
    )  # fmt: skip


def test_all_ways_to_embed_agree(small: Any, tmp_path: Path) -> None:
    """The folder, what is exported of it, and the prediction from both, of long texts too."""
    want = by_hand(small.folder, LONG, "bad ")
    encoder = hfprune.load_encoder(small.folder)
    np.testing.assert_allclose(encoder.encode(LONG), want, atol=1e-5)
    assert encoder.max_length == LENGTH
    served = small.export(tmp_path / "served")
    for folder in (small.folder, served):
        ask = Predictor(folder)
        assert (ask.prompt, ask.max_length) == ("bad ", LENGTH)
        found = np.array([row["embedding"] for row in ask([Row(text) for text in LONG])])
        assert found.shape == want.shape
        assert np.abs(found - want).max() < 0.1, "int8"
        cosines = (found * want).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(want, 1, 1)
        assert cosines.min() > 0.3
    assert small.model.embedding_width == CUT


def test_the_folder_says_how_it_was_trained(small: Any) -> None:
    settings = json.loads((small.folder / SETTINGS).read_text())
    assert settings["default_prompt_name"] == "title"
    assert settings["prompts"] == PROMPTS
    assert settings["truncate_dim"] == CUT
    length = json.loads((small.folder / "sentence_bert_config.json").read_text())
    assert length == {"max_seq_length": LENGTH}
    dense = small.folder.parent / "dense" / "sentence_bert_config.json"
    assert json.loads(dense.read_text()) == {"max_seq_length": 24}, "which stays as it was"
    assert foreign_files(small.folder) == [], "a later run may replace it"


def test_a_search_has_its_own_prompts(small: Any) -> None:
    """Queries with theirs, texts with that of passages; recall and nDCG worked out anew."""
    rows = searches()
    queries, passages = (list(dict.fromkeys(row[side] for row in rows)) for side in (0, 1))
    sides = by_hand(small.folder, queries, "good "), by_hand(small.folder, passages, "dull ")
    first, second = (found / np.linalg.norm(found, axis=1, keepdims=True) for found in sides)
    relevant = {(q, text) for q, text, label in rows if label}
    recalls, gains = [], []
    for query, scores in zip(queries, first @ second.T, strict=True):
        ranked = [passages[place] for place in np.argsort(-scores)[:10]]
        hits = [float((query, text) in relevant) for text in ranked]
        all_of_it = sum(text == query for text, _ in relevant)
        recalls.append(sum(hits) / all_of_it)
        discounts = 1 / np.log2(np.arange(2, 12))
        gains.append((hits * discounts).sum() / discounts[:all_of_it].sum())
    for report in (small.results.evaluation.models["pruned PyTorch"],
                   evaluate(small.folder).models["PyTorch"]):  # fmt: skip
        assert report.metrics["retrieval_recall_at_10"] == pytest.approx(np.mean(recalls))
        assert report.metrics["retrieval_ndcg_at_10"] == pytest.approx(np.mean(gains))


def test_its_card_gives_the_same_embeddings(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of PyTorch, of ONNX Runtime and of the recommended files, as it stands there."""
    monkeypatch.chdir(small.folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: ".")
    card = model_card(small.folder, "me/small").replace("\n...", "")
    blocks = re.findall(r"```python\n(.*?)```", card.replace('"me/small"', '"."'), re.DOTALL)
    assert any("load_as(SentenceTransformer" in block for block in blocks)
    ran = []
    for block in blocks:
        if "SentenceTransformer" in block:
            continue
        space: dict[str, Any] = {}
        exec(block, space)  # noqa: S102 - what the card tells people to run
        ran.append(np.asarray(space["embeddings"])[0])
    assert len(ran) >= 3
    want = by_hand(small.folder, ["a text"], "bad ")[0]
    without = by_hand(small.folder, ["a text"], "")[0]
    for found in ran:
        assert np.abs(found - want).max() < np.abs(without - want).max() / 3
    assert card.count(f"max_length={LENGTH}") >= 2


def test_on_the_hub_it_is_an_encoder(small: Any, tmp_path: Path) -> None:
    code = (
        "import sys, numpy, hfprune\n"
        "numpy.save(sys.argv[1], hfprune.load_encoder('user/small').encode(['a good film']))"
    )
    with LoopbackHub(TOKEN) as server:
        env = environment(server.url, tmp_path / "home")
        done = push_command(env, str(small.folder), "--repo-id", "user/small")
        assert done.returncode == 0, done.stderr
        assert "not uploaded" not in done.stderr
        arrived = server.repos["user/small"].files()
        assert {"modules.json", "1_Pooling/config.json", SETTINGS} <= set(arrived)
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "found.npy")],
            check=True, env=env | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    want = hfprune.load_encoder(small.folder).encode(["a good film"])
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), want)


def test_an_uneven_one_says_who_loads_it(small: Any) -> None:
    with pytest.raises(ValueError, match=r"hfprune.load_as\(SentenceTransformer, folder\)"):
        AutoModel.from_pretrained(small.folder)


def test_a_text_is_no_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the text 'a good film' for the column 'text'; expect"):
        hfprune.compress(
            sentence_encoder(tmp_path / "e"), train={"text": "a good film"}, sparsity=0.4,
            task="sentence_embedding", output_dir=tmp_path / "o", quiet=True,
        )  # fmt: skip
