"""A search of hyperparameters: each trial begins from the configuration, whatever the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import made_up_optuna
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import BertForSequenceClassification, TrainerCallback, TrainingArguments

from hfprune import HFPruneTrainer
from hfprune.families import model_sizes
from hfprune.pruning.cost import LatencyTable

TABLE = LatencyTable(
    batch_size=1,
    sequence_length=16,
    threads=1,
    baseline_ms=10.0,
    fixed_ms=0.4,
    attention=((0, 0.0), (1, 0.4), (4, 1.0)),
    ffn=((0, 0.0), (8, 0.2), (48, 1.0)),
)
GATES: dict[str, Any] = {"min_neurons": 4, "update_every_steps": 1}
SEARCHED: dict[str, Any] = {"method": "reconstruction", "search_rounds": 1, "scoring_samples": 8}
# Of each target what is pruned, and whether the table is needed.
TARGETS: dict[str, tuple[dict[str, Any], bool]] = {
    "gates": ({"sparsity": 0.5, **GATES}, False),
    "layers": ({"keep_layers": [0, 2]}, False),
    "reconstruction": ({"sparsity": 0.5, **SEARCHED}, False),
    "fast reconstruction": ({"speedup": 2.0, **SEARCHED}, True),
    "family": ({"speedup": [2.0, 4.0], "update_every_steps": 1}, True),
    "vocabulary": ({"vocabulary": {}, "sparsity": 0.5, **GATES}, False),
}
SLOW = ("reconstruction", "fast reconstruction", "family", "vocabulary")
WORDS = ["alpha", "beta", "gamma", "delta", "new", "word"]


@pytest.fixture(params=["made up", pytest.param("real", marks=pytest.mark.slow)])
def optuna(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "real":
        return pytest.importorskip("optuna")
    return made_up_optuna.install(monkeypatch)


def rows(count: int = 16, seed: int = 0) -> datasets.Dataset:
    draw = torch.randint(0, len(WORDS), (count, 6), generator=torch.Generator().manual_seed(seed))
    texts = [" ".join(WORDS[place] for place in row) for row in draw.tolist()]
    found = datasets.Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(count)]})
    tokenizer = tiny_tokenizer()
    return found.map(lambda row: tokenizer(row["text"], truncation=True, max_length=16))


def drawn() -> Any:
    """A model whose weights are drawn from where the random numbers stand."""
    return BertForSequenceClassification(tiny_model("bert", labels=2).config)


class StopsOnce(TrainerCallback):
    """Gives one trial up in the middle of a training."""

    def __init__(self, trial: int, error: type[Exception]) -> None:
        self.trial, self.error, self.trainer, self.stopped = trial, error, None, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.running == self.trial and state.global_step == 3:
            self.stopped += 1
            raise self.error

    running = -1


@pytest.mark.parametrize(
    "target",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TARGETS],
)
def test_each_trial_begins_from_the_configuration(target: str, optuna: Any, tmp_path: Path) -> None:
    pruning, timed = TARGETS[target]
    dense = model_sizes(drawn())
    stops = StopsOnce(1, optuna.TrialPruned)
    trainer = HFPruneTrainer(
        model_init=lambda trial=None: drawn(),
        args=TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            eval_strategy="epoch",
            disable_tqdm=True,
            logging_strategy="no",
            per_device_train_batch_size=8,
            num_train_epochs=2,
        ),
        train_dataset=rows(),
        eval_dataset=rows(8, seed=1),
        processing_class=tiny_tokenizer(),
        callbacks=[stops],
        pruning=pruning,
        latency=TABLE if timed else None,
    )
    given = trainer.train_dataset, trainer.processing_class
    found: list[dict[str, Any]] = []

    def space(trial: Any) -> dict[str, Any]:
        stops.running = trial.number
        # The same in each, so that the trials can be compared.
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-3)}

    evaluated: list[float] = []

    def objective(metrics: dict[str, float]) -> float:
        evaluated.append(metrics["eval_loss"])
        return metrics["eval_loss"]

    before = trainer._runs
    real = trainer.train

    def train(*args: Any, **kwargs: Any) -> Any:
        output = real(*args, **kwargs)
        assert model_sizes(trainer.model) != dense
        found.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return output

    trainer.train = train  # type: ignore[method-assign]
    best = trainer.hyperparameter_search(space, objective, n_trials=4, backend="optuna")
    assert stops.stopped == 1
    assert len(found) == 3
    for weights in found[1:]:
        assert weights.keys() == found[0].keys()
        assert all(torch.equal(weights[name], found[0][name]) for name in weights)
    assert best.hyperparameters == {"learning_rate": pytest.approx(1e-3)}
    assert best.objective == evaluated[-1], "of the small model"
    assert trainer._runs is before
    assert trainer.pruning is not None
    if target != "vocabulary":
        assert (trainer.train_dataset, trainer.processing_class) == given
