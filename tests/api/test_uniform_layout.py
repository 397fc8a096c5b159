"""``pruning.layout: uniform`` from end to end: what transformers alone loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_classifier, write_reviews
from transformers import AutoModelForSequenceClassification

import hfprune
from hfprune.core.errors import RecipeError, UnsupportedModelError
from hfprune.families import model_sizes
from hfprune.families.bert import BertAdapter
from hfprune.pipeline.stages.temperature import divide_
from hfprune.publish.finished import read

QUICK: dict[str, Any] = {
    "data": {"max_length": 32},
    "training": {"per_device_train_batch_size": 8, "learning_rate": 1e-3},
    "distillation": {"hidden_weight": 1.0},  # layers have to stand where the teacher's stand
    "recovery": {"num_train_epochs": 1.0},
    "export": {"quantization": None},
    "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 1, "warmup": 0},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_tiny_classifier("bert", folder / "model")
    write_reviews(folder / "reviews.csv", 80)
    return folder


def compress(inputs: Path, output: Path, **changes: Any) -> hfprune.Compressed:
    return hfprune.compress(
        inputs / "model",
        train=inputs / "reviews.csv",
        output_dir=output,
        quiet=True,
        **{**QUICK, **changes},
    )


def test_transformers_alone_loads_the_result_of_a_run(inputs: Path, tmp_path: Path) -> None:
    pruning = {"layout": "uniform", "search_rounds": 3, "trial_epochs": 0}
    small = compress(inputs, tmp_path / "out", sparsity=0.5, pruning=pruning)
    kept = small.results.pruning
    assert kept is not None
    assert (kept.layout, kept.stock) == ("uniform", True)
    assert kept.sparsity >= 0.5
    assert len(kept.heads) == 3  # of the dense model's layers
    stays = {pair for pair in zip(kept.heads, kept.neurons, strict=True) if any(pair)}
    assert len(stays) == 1
    config = json.loads((small.folder / "config.json").read_text())
    assert config["num_hidden_layers"] == sum(heads > 0 for heads in kept.heads)
    assert config["intermediate_size"] == max(kept.neurons)
    for name in ("config.json", "onnx/config.json"):
        assert "hfprune" not in json.loads((small.folder / name).read_text())
    model = AutoModelForSequenceClassification.from_pretrained(small.folder).eval()
    batch = small.tokenizer(["good film", "a bad one"], return_tensors="pt", padding=True)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, small.model(**batch).logits)
    assert read(small.folder).results.pruning is not None  # it can be published
    found = hfprune.inspect(small.folder)
    assert found.pruned
    assert found.sparsity == pytest.approx(kept.sparsity, abs=1e-6)
    assert {layer.of_neurons for layer in found.layers} == {48}


def test_whole_layers_that_go_leave_a_stock_model(inputs: Path, tmp_path: Path) -> None:
    small = compress(inputs, tmp_path / "out", keep_layers=[0, 2])
    kept = small.results.pruning
    assert kept is not None
    assert (kept.layout, kept.stock, kept.heads) == ("uneven", True, [4, 0, 4])
    model = AutoModelForSequenceClassification.from_pretrained(small.folder)
    assert model.config.num_hidden_layers == 2
    assert model_sizes(model) == model_sizes(hfprune.from_pretrained(small.folder))
    found = hfprune.inspect(small.folder)
    assert found.pruned
    assert found.sparsity == pytest.approx(1 / 3, abs=1e-6)


def test_an_unsupported_family_is_refused_before_any_work(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BertAdapter, "stock", None)
    with pytest.raises(UnsupportedModelError, match="BertAdapter of 'bert' models does not say"):
        compress(inputs, tmp_path / "out", sparsity=0.5, pruning={"layout": "uniform"})
    assert not (tmp_path / "out").exists()


def test_an_allocation_of_its_own_clashes(inputs: Path, tmp_path: Path) -> None:
    pruning = {"layout": "uniform", "method": "gates", "allocation": "uniform"}
    with pytest.raises(RecipeError, match="allocation has no meaning with layout: uniform"):
        compress(inputs, tmp_path / "out", sparsity=0.5, pruning=pruning)


class Capped(torch.nn.Module):
    """Logits that do not follow the last projection, as those of a plug-in's head may."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = torch.nn.Linear(4, 4)
        self.classifier = torch.nn.Linear(4, 2)

    def forward(self, values: torch.Tensor, *, capped: bool) -> Any:
        logits = self.classifier(self.base_model(values))
        return (torch.tanh(logits) if capped else logits).detach().numpy()


@pytest.mark.parametrize("capped", [False, True])
def test_logits_are_divided_or_left_as_they_are(capped: bool) -> None:
    torch.manual_seed(0)
    model, values = Capped(), torch.randn(8, 4)
    before = model(values, capped=capped)
    done = divide_(model, 2.0, lambda: model(values, capped=capped))
    assert done is not capped
    after = model(values, capped=capped) * (2.0 if done else 1.0)
    assert after == pytest.approx(before, rel=1e-5)
    headless = Capped()
    del headless.classifier
    assert not divide_(headless, 2.0, lambda: before)


def test_a_temperature_changes_probabilities_and_no_prediction(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hfprune.pipeline.stages.temperature as stage

    monkeypatch.setattr(stage, "temperature_that_helps", lambda found, owners: 4.0)
    common: dict[str, Any] = {"keep_layers": [0], "recovery": {"num_train_epochs": 0.0}}
    export = {"quantization": None, "temperature": False}
    plain = compress(inputs, tmp_path / "plain", export=export, **common)
    scaled = compress(inputs, tmp_path / "scaled", export={"quantization": None}, **common)
    assert scaled.results.pruning is not None
    assert scaled.results.pruning.temperature == 4.0
    for name in ("config.json", "onnx/config.json"):
        config = json.loads((scaled.folder / name).read_text())
        assert config["applied_temperature"] == 4.0
    batch = scaled.tokenizer(["good film", "a bad one"], return_tensors="pt", padding=True)
    with torch.no_grad():
        before, after = plain.model(**batch).logits, scaled.model(**batch).logits
    torch.testing.assert_close(4 * after, before)
    models = scaled.results.evaluation.models
    assert models["pruned ONNX"].metrics == plain.results.evaluation.models["pruned ONNX"].metrics
    told = {name: set(entry.probabilities or ()) for name, entry in models.items()}
    # What the pruned model is compared with is treated as it is, on paper.
    own = {"temperature", "scaled_ece", "scaled_brier"}
    assert told.pop("dense PyTorch") == {"ece", "brier", *own}
    assert all(entry == {"ece", "brier"} for entry in told.values())
    assert "scaled_ece" not in plain.results.evaluation.models["dense PyTorch"].probabilities
    assert models["pruned ONNX"].probabilities == pytest.approx(
        models["pruned PyTorch"].probabilities, abs=1e-4
    )
