"""Sentence encoders from texts to served files: ``compress(task="sentence_embedding")``."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny import NEGATIVE, NEUTRAL, POSITIVE, tiny_model, tiny_tokenizer
from transformers import AutoModel, AutoTokenizer

import hfprune
from hfprune.api.compressed import Compressed
from hfprune.core.errors import CheckpointError, DataError, RecipeError, UnsupportedModelError
from hfprune.data.loading import load_task_data
from hfprune.deploy.evaluation import evaluate, table
from hfprune.deploy.layouts import write_layout
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.models.sentences import load_embedder
from hfprune.publish.card import model_card
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.data import DataConfig

PROMPTS = {"prompts": {"query": "good ", "document": ""}, "default_prompt_name": "query"}
QUICK: dict[str, Any] = {
    "data": {"max_length": 24},
    "training": {"per_device_train_batch_size": 16, "learning_rate": 1e-3},
    "recovery": {"num_train_epochs": 1.0},
    "export": {"quantization": {}},
    "benchmark": {"batch_sizes": [1, 4], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
}


def texts(count: int = 60) -> list[str]:
    draw = random.Random(0)
    words = POSITIVE + NEGATIVE + NEUTRAL
    return [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(count)]


def sentence_encoder(folder: Path, pooling: str = "mean") -> Path:
    """A folder as ``SentenceTransformer.save_pretrained`` leaves it, with prompts."""
    tiny_model("bert").base_model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for path in paths[1:]:
        (folder / path).mkdir()
    modes = {f"pooling_mode_{name}_tokens": name == pooling for name in ("mean", "max")}
    config = {"word_embedding_dimension": 32, **modes, "pooling_mode_cls_token": pooling == "cls"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(PROMPTS))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    return folder


def by_hand(folder: Path, some: list[str]) -> np.ndarray:
    """The mean of the real tokens' hidden states, of length 1, text by text without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    found = []
    for text in some:
        batch = tokenizer("good " + text, truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            mean = model(**batch).last_hidden_state[0].mean(0)
        found.append((mean / mean.norm()).numpy())
    return np.stack(found)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    place = tmp_path_factory.mktemp("encoder")
    search = [
        {"query": text, "text": other, "label": float(text == other)}
        for text in texts()[:6]
        for other in (text, "a film")
    ]
    pairs = [
        {"sentence1": a, "sentence2": b, "score": n % 5}
        for n, (a, b) in enumerate(zip(texts()[:9], texts()[9:18], strict=True))
    ]
    train = [{"text": text} for text in texts()]
    for name, rows in (("search", search), ("pairs", pairs), ("train", train)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return hfprune.compress(
        sentence_encoder(place / "dense"), train=place / "train.jsonl", task="sentence_embedding",
        sparsity=0.4, quiet=True, output_dir=place / "small",
        evaluation={"scored_pairs": str(place / "pairs.jsonl"),
                    "retrieval": str(place / "search.jsonl")},
        pruning={"layout": "uniform"}, **QUICK,
    )  # fmt: skip


def test_it_comes_out_as_a_sentence_encoder(small: Any) -> None:
    dense = small.folder.parent / "dense"
    for name in ("config_sentence_transformers.json", "sentence_bert_config.json"):
        assert (small.folder / name).read_bytes() == (dense / name).read_bytes()
    modules = json.loads((small.folder / "modules.json").read_text())
    assert [entry["path"] for entry in modules] == ["", "1_Pooling", "2_Normalize"]
    config = json.loads((small.folder / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    assert "id2label" not in config
    assert not (small.folder / "sentence-encoder").exists()
    # Layers of one size: transformers loads it as it is, and all weights are there.
    found, info = AutoModel.from_pretrained(small.folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    kept = small.results.members["pruned"]
    assert sum(kept.neurons) < sum(kept.of_neurons) or len(found.encoder.layer) < 3
    recipe = load_recipe(small.folder / "recipe.yaml")
    assert recipe.training.metric_for_best_model == "similarity_spearman"
    assert small.results.labels == []


def test_all_that_run_it_give_the_embeddings_made_by_hand(small: Any) -> None:
    """The loader, the model in PyTorch, ONNX Runtime alone, and the prediction of the folder."""
    import onnxruntime

    some = texts()[:5]
    want = by_hand(small.folder, some)
    encoder = hfprune.load_encoder(small.folder)
    np.testing.assert_allclose(encoder.encode(some), want, atol=1e-5)
    batch = small.tokenizer(["good " + text for text in some], padding=True, return_tensors="np")
    with torch.no_grad():
        given = {name: torch.from_numpy(value) for name, value in batch.items()}
        np.testing.assert_allclose(small.model(**given).logits.numpy(), want, atol=1e-5)
    session = onnxruntime.InferenceSession(small.folder / "onnx" / "model.onnx")
    assert [node.name for node in session.get_outputs()] == ["sentence_embedding"]
    names = {one.name for one in session.get_inputs()}
    (found,) = session.run(None, {n: v for n, v in batch.items() if n in names})
    np.testing.assert_allclose(found, want, atol=1e-4)
    told = list(Predictor(small.folder)([Row(text) for text in some]))
    cosines = (np.array([row["embedding"] for row in told]) * want).sum(axis=1)
    assert cosines.min() > 0.98, "int8"


def test_its_metrics_are_those_of_similarities(small: Any) -> None:
    """Against the dense model on the test texts, computed anew; and on the user's own rows."""
    entry = small.results.evaluation.models["pruned PyTorch"]
    details = json.loads((small.folder / "details.json").read_text())
    assert {"training", "changed"} <= details.keys()
    report = evaluate(small.folder)
    assert report.task == "sentence_embedding"
    for name in ("similarity_spearman", "neighbours_at_10", "mean_cosine"):
        assert report.models["PyTorch"].metrics[name] == pytest.approx(entry.metrics[name])
    assert report.models["PyTorch"].agreement is None
    pairs = list(zip(texts()[:9], texts()[9:18], strict=True))
    first, second = (by_hand(small.folder, [pair[side] for pair in pairs]) for side in (0, 1))
    want = spearmanr((first * second).sum(axis=1), [n % 5 for n in range(9)])[0]
    assert entry.metrics["scored_spearman"] == pytest.approx(want, abs=1e-6)
    found = small.results.evaluation.models["dense PyTorch"].metrics
    assert found["retrieval_recall_at_10"] == found["retrieval_ndcg_at_10"] == 1.0, "itself"
    assert found["similarity_spearman"] == pytest.approx(1.0)


def test_its_card_and_report_say_what_it_is(small: Any) -> None:
    card = model_card(small.folder, "me/small")
    assert "A pruned sentence encoder." in card
    assert "pipeline_tag: feature-extraction" in card
    assert "library_name: sentence-transformers" in card
    assert 'SentenceTransformer("me/small")' in card
    assert "classif" not in card.partition("## Recipe")[0]
    html = (small.folder / "report.html").read_text(encoding="utf-8")
    assert "have another nearest text than with the dense model" in html
    assert "hfprune.load_encoder" in html


def test_transformers_js_gets_the_tokens(small: Any, tmp_path: Path) -> None:
    """Its feature-extraction pools by itself."""
    import onnxruntime

    place = write_layout(small.folder, "transformersjs", tmp_path / "js")
    session = onnxruntime.InferenceSession(place / "onnx" / "model.onnx")
    assert [node.name for node in session.get_outputs()] == ["last_hidden_state"]
    batch = small.tokenizer(["a good film"], return_tensors="np")
    names = {one.name for one in session.get_inputs()}
    (found,) = session.run(None, {n: v for n, v in batch.items() if n in names})
    with torch.no_grad():
        given = {name: torch.from_numpy(value) for name, value in batch.items()}
        want = AutoModel.from_pretrained(small.folder).eval()(**given).last_hidden_state
    np.testing.assert_allclose(found, want.numpy(), atol=1e-4)
    int8 = onnxruntime.InferenceSession(place / "onnx" / "model_quantized.onnx")
    assert [node.name for node in int8.get_outputs()] == ["last_hidden_state"]


def test_its_own_test_rows_tell_what_the_run_told(small: Any) -> None:
    """Also what embeddings are tried on besides, for every file, in JSON and in the table."""
    report = evaluate(small.folder)
    more = {"scored_spearman", "retrieval_ndcg_at_10", "retrieval_recall_at_10"}
    for name in ("PyTorch", "ONNX"):
        want = small.results.evaluation.models[f"pruned {name}"].metrics
        assert more <= report.models[name].metrics.keys() == want.keys()
        assert report.models[name].metrics == pytest.approx(want, abs=1e-6)
        wanted = small.results.evaluation.models[f"pruned {name}"].intervals
        for metric in more:
            assert report.models[name].intervals[metric] == pytest.approx(wanted[metric])
    shown = table(report)
    assert [str(column.header) for column in shown.columns][4:7] == [
        "scored_spearman", "retrieval_ndcg_at_10", "retrieval_recall_at_10",
    ]  # fmt: skip
    named = evaluate(small.folder, metrics=["mean_cosine"])
    assert set(named.models["PyTorch"].metrics) == {"mean_cosine"}, "what was asked for"


@pytest.mark.parametrize("count", [6, 9, 14])
def test_of_few_texts_three_are_held_out(count: int, tmp_path: Path) -> None:
    """Similarities are put in order: of two texts the dense model would have a Spearman of 0.

    Then no loss could be told from none.
    """
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(count)))
    config = DataConfig(train_file=str(file), max_length=16)
    if count == 6:
        with pytest.raises(DataError, match="too few to hold out 3 for validation"):
            load_task_data(config, tiny_tokenizer(), "sentence_embedding")
        return
    data = load_task_data(config, tiny_tokenizer(), "sentence_embedding")
    assert min(len(data.split(name)) for name in ("validation", "test")) >= 3
    limited = config.model_copy(update={"max_test_samples": 2})
    with pytest.raises(DataError, match="has 2 rows, and it takes 3 to measure sentence embeddi"):
        load_task_data(limited, tiny_tokenizer(), "sentence_embedding")


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "classifier")
    tiny_tokenizer().save_pretrained(tmp_path / "classifier")
    with pytest.raises(CheckpointError, match="has a head and gives no embeddings"):
        load_embedder(str(tmp_path / "classifier"))
    dense = sentence_encoder(tmp_path / "dense", pooling="cls")
    with pytest.raises(CheckpointError, match="pools by cls_token, model.pooling says mean"):
        load_embedder(str(dense), pooling="mean")
    with pytest.raises(CheckpointError, match="scales embeddings to length 1, model.normalize"):
        load_embedder(str(dense), normalize=False)
    with pytest.raises(RecipeError, match="data.label_column has no meaning for embeddings"):
        hfprune.compress(
            dense, train={"text": texts()}, task="sentence_embedding", sparsity=0.4, quiet=True,
            output_dir=tmp_path / "small", data={"label_column": "score"},
        )  # fmt: skip
    with pytest.raises(CheckpointError, match="has no prompt 'title'"):
        hfprune.load_encoder(dense).encode(["a film"], prompt_name="title")
    settings = dense / "sentence_bert_config.json"
    settings.write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    with pytest.raises(UnsupportedModelError, match="do_lower_case in sentence_bert_config"):
        hfprune.compress(
            dense, train={"text": texts()}, task="sentence_embedding", sparsity=0.4, quiet=True,
            output_dir=tmp_path / "small",
        )  # fmt: skip
