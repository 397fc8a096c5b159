"""Trainers of sentence-transformers with gates: its losses, data sets and evaluators.

Skipped where sentence-transformers is not installed: it is no dependency of hfprune. The
environment of `make test-v5` has it where pip finds it.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from tiny import NEGATIVE, NEUTRAL, POSITIVE, TRANSFORMERS_5, tiny_model, tiny_tokenizer
from torch import nn

import hfprune
from hfprune.core.errors import TrainingError, UnsupportedModelError
from hfprune.families import model_sizes

pytestmark = pytest.mark.skipif(not TRANSFORMERS_5, reason="sentence-transformers 6 is for 5")
st = pytest.importorskip("sentence_transformers", minversion="6")

DOCS = Path(__file__).parents[2] / "docs"
BOTH = ["SentenceTransformer", "CrossEncoder"]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = POSITIVE + NEGATIVE + NEUTRAL
    return [" ".join(draw.choices(words, k=draw.randint(3, 10))) for _ in range(count)]


def dense(folder: Path, kind: str) -> Any:
    """A model of theirs, by their own classes, with dropout off."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_model("bert", labels=1, **quiet)
    (model if kind == "CrossEncoder" else model.base_model).save_pretrained(folder / "plain")
    tiny_tokenizer().save_pretrained(folder / "plain")
    if kind == "CrossEncoder":
        made = st.CrossEncoder(str(folder / "plain"), device="cpu", max_length=24)
    else:
        from sentence_transformers.sentence_transformer import modules

        first = modules.Transformer(str(folder / "plain"), max_seq_length=24)
        layers = [first, modules.Pooling(32), modules.Dense(32, 16), modules.Normalize()]
        made = st.SentenceTransformer(modules=layers, device="cpu")
    made.save_pretrained(str(folder / "dense"))
    return made


def asked(model: Any) -> np.ndarray:
    """What a model says of some texts, by its own method."""
    some = texts(6, seed=9)
    if isinstance(model, st.CrossEncoder):
        return model.predict(list(zip(some, reversed(some), strict=True)))
    return model.encode(some)


HALF = {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 1}


def trainer(model: Any, folder: Path, pruning: Any = HALF, **more: Any) -> Any:
    """Their trainer of such a model with our gates, and an evaluator."""
    quiet = {
        "max_steps": 8, "per_device_train_batch_size": 8, "report_to": [], "use_cpu": True,
        "logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps",
        "eval_steps": 2, "learning_rate": 1e-3, "disable_tqdm": True, **more,
    }  # fmt: skip
    first, second = texts(40), texts(40, seed=1)
    if isinstance(model, st.CrossEncoder):
        from sentence_transformers.cross_encoder import evaluation, losses

        base, arguments = st.cross_encoder.CrossEncoderTrainer, st.CrossEncoderTrainingArguments
        rows = {"query": first, "text": second, "label": [float(n % 3 == 0) for n in range(40)]}
        loss = losses.BinaryCrossEntropyLoss(model)
        evaluator = evaluation.CrossEncoderCorrelationEvaluator(
            list(zip(first, second, strict=True)), [n / 40 for n in range(40)], name="held"
        )
    else:
        from sentence_transformers.sentence_transformer import evaluation, losses

        base = st.SentenceTransformerTrainer
        arguments = st.SentenceTransformerTrainingArguments
        rows = {"anchor": first, "positive": second}
        # Gradients reach gates through the second of its forward passes.
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)
        evaluator = evaluation.EmbeddingSimilarityEvaluator(
            first, second, [n / 40 for n in range(40)], name="held"
        )

    class Trainer(hfprune.PruningMixin, base):
        pass

    return Trainer(
        model=model, args=arguments(str(folder), **quiet), train_dataset=Dataset.from_dict(rows),
        loss=loss, evaluator=evaluator, pruning=pruning,
    )  # fmt: skip


@pytest.mark.parametrize("kind", BOTH)
def test_it_prunes_while_it_trains_and_loads_again(kind: str, tmp_path: Path) -> None:
    model = dense(tmp_path, kind)
    metric = f"eval_held_spearman{'_cosine' if kind == BOTH[0] else ''}"
    best = {"load_best_model_at_end": True, "metric_for_best_model": metric}
    run = trainer(model, tmp_path / "out", **best)
    before = sum(p.numel() for p in model.parameters())
    run.train()
    assert run.model is model, "what the user and the loss hold is the small one"
    assert run.pruning_metrics()["pruning/sparsity"] >= 0.5
    steps = [entry for entry in run.state.log_history if "pruning/sparsity" in entry]
    sparsities = [entry["pruning/sparsity"] for entry in steps]
    assert sparsities == sorted(sparsities), "gradually"
    assert 0 < sparsities[0] < 0.5
    assert model_sizes(run.pruned_model()) != model_sizes(tiny_model("bert"))
    assert sum(p.numel() for p in model.parameters()) < before
    reached = next(entry["step"] for entry in steps if entry["pruning/sparsity"] >= 0.5)
    scores = {e["step"]: e[metric] for e in run.state.log_history if metric in e}
    chosen = int(str(run.state.best_model_checkpoint).rpartition("-")[2])
    assert chosen >= reached, "the best of those that are as small as asked"
    assert scores[chosen] == max(v for step, v in scores.items() if step >= reached)
    found = run.evaluate()
    assert found[metric] == pytest.approx(scores[chosen], abs=1e-6), "gated equals removed"
    assert {f"eval_{run.evaluator.primary_metric.removeprefix('eval_')}", metric} <= {*found}

    want = asked(model)
    model.save_pretrained(str(tmp_path / "small"))
    again = hfprune.load_as(getattr(st, kind), tmp_path / "small")
    assert type(again) is getattr(st, kind)
    assert not again.training
    weights = again.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    np.testing.assert_allclose(asked(again), want, atol=1e-6)
    with pytest.raises(Exception, match="hfprune"):
        getattr(st, kind)(str(tmp_path / "small"))
    if kind == "SentenceTransformer":
        encoder = hfprune.load_encoder(tmp_path / "small")
        np.testing.assert_allclose(encoder.encode(texts(6, seed=9)), want, atol=1e-6)
    else:
        assert model_sizes(hfprune.from_pretrained(tmp_path / "small")) == model_sizes(again.model)


@pytest.mark.parametrize("kind", BOTH)
def test_saved_halfway_it_is_as_pruned_then_and_resumed_it_ends_alike(
    kind: str, tmp_path: Path
) -> None:
    dense(tmp_path, kind)

    def start(name: str) -> tuple[Any, Any]:
        model = getattr(st, kind)(str(tmp_path / "dense"), device="cpu")
        return model, trainer(model, tmp_path / name)

    whole, run = start("whole")
    run.train()
    stopped, run = start("parts")

    class Dies(Exception):
        pass

    real, done = run.training_step, []

    def dying(*args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) == 7:
            run.save_model(str(tmp_path / "halfway"))
            raise Dies
        return real(*args, **kwargs)

    run.training_step = dying
    with pytest.raises(Dies):
        run.train()
    with safe_open(tmp_path / "halfway" / "model.safetensors", framework="pt") as file:
        saved = sum(file.get_tensor(name).numel() for name in file.keys())
    assert saved < sum(p.numel() for p in run.pruned_model().parameters())
    # Gates are off after the interruption; put on again, they say what the small one says.
    halfway = hfprune.load_as(getattr(st, kind), tmp_path / "halfway")
    stopped.eval()
    with run.pruner.gated():
        np.testing.assert_allclose(asked(halfway), asked(stopped), atol=1e-5)
    # A checkpoint holds the dense weights, and loads as pruned so far.
    assert (tmp_path / "parts" / "checkpoint-6" / "hfprune_state.json").is_file()
    loaded = hfprune.load_as(getattr(st, kind), tmp_path / "parts" / "checkpoint-6")
    np.testing.assert_allclose(asked(loaded), asked(halfway), atol=1e-5)

    resumed, run = start("parts")
    run.train(resume_from_checkpoint=True)
    np.testing.assert_array_equal(asked(resumed), asked(whole))


@pytest.mark.parametrize("kind", BOTH)
def test_a_small_model_recovers_and_goes_on_from_checkpoints(kind: str, tmp_path: Path) -> None:
    """Layers of uneven sizes, which their own loading of the best model stops at."""
    trainer_of = trainer(dense(tmp_path, kind), tmp_path / "out")
    trainer_of.train()
    trainer_of.model.save_pretrained(str(tmp_path / "small"))
    more = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "save_steps": 4,
            "eval_steps": 4}  # fmt: skip
    ends = []
    for resumed in (False, True):
        model = hfprune.load_as(getattr(st, kind), tmp_path / "small").to("cpu")
        sizes = model_sizes(getattr(*_place(model)))
        run = trainer(model, tmp_path / "again", None, **more)
        run.evaluator, run.eval_dataset = None, run.train_dataset
        run.train(str(tmp_path / "again" / "checkpoint-4") if resumed else None)
        assert run.plan is None
        assert model_sizes(run.pruned_model()) == sizes
        best = hfprune.load_as(getattr(st, kind), run.state.best_model_checkpoint)
        np.testing.assert_allclose(asked(model), asked(best), atol=1e-6)
        ends.append(asked(model))
    np.testing.assert_array_equal(*ends)


def _place(model: Any) -> Any:
    from hfprune.models.within import place_within

    return place_within(model)


@pytest.mark.parametrize("page", ["embeddings.md", "reranking.md"])
def test_what_the_pages_say_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = BOTH[page == "reranking.md"]
    dense(tmp_path, kind)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dense").rename("my-encoder" if kind == BOTH[0] else "my-cross-encoder")
    pairs = zip(texts(24), texts(24, seed=1), strict=True)
    names = ("anchor", "positive") if kind == BOTH[0] else ("query", "text")
    rows = [dict(zip(names, pair, strict=True)) for pair in pairs]
    if kind == BOTH[1]:
        rows = [{**row, "label": float(n % 3 == 0)} for n, row in enumerate(rows)]
    file = "questions.jsonl" if kind == BOTH[0] else "pairs.jsonl"
    (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    (code,) = [block for block in code if "PruningMixin" in block]
    found: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, page, "exec"), found)  # noqa: S102
    assert found["trainer"].pruning_metrics()["pruning/sparsity"] >= 0.8
    np.testing.assert_allclose(asked(found["again"]), asked(found["model"]), atol=1e-6)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = dense(tmp_path, "SentenceTransformer")
    with pytest.raises(TrainingError, match="one training with gates reaches a sparsity"):
        trainer(model, tmp_path / "out", {"sparsity": 0.5, "method": "reconstruction"})
    two = nn.Sequential(model, dense(tmp_path / "other", "CrossEncoder"))
    with pytest.raises(UnsupportedModelError, match="a Sequential with 2"):
        _place(two)
    with pytest.raises(UnsupportedModelError, match=r"HFPruneTrainer trains those"):
        _place(tiny_model("bert"))
    with pytest.raises(UnsupportedModelError, match="a Linear with 0"):
        _place(torch.nn.Linear(2, 2))


def test_a_model_of_their_own_code_is_not_loaded(tmp_path: Path) -> None:
    dense(tmp_path, "SentenceTransformer")
    file = tmp_path / "dense" / "modules.json"
    modules = json.loads(file.read_text())
    modules[1]["type"] = "my_package.Pooling"
    file.write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModelError, match="code"):
        hfprune.load_as(st.SentenceTransformer, tmp_path / "dense")
