"""What transformers asks of optuna in a search of hyperparameters, without optuna.

Values are proposed from the middle of their range, the same in every trial, so that trials can be
compared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers.hyperparameter_search import OptunaBackend


class TrialPruned(Exception):
    """A trial that is given up."""


class Trial:
    def __init__(self, study: Study, number: int) -> None:
        self.study, self.number = study, number
        self.params: dict[str, Any] = {}
        self.reported: list[tuple[float, float]] = []
        self.value: float | None = None

    def suggest_float(self, name: str, low: float, high: float, **kwargs: Any) -> float:
        self.params[name] = (low + high) / 2
        return float(self.params[name])

    def report(self, value: float, step: float) -> None:
        self.reported.append((value, step))

    def should_prune(self) -> bool:
        return False


class Study:
    def __init__(self, **kwargs: Any) -> None:
        self.trials: list[Trial] = []

    def _is_multi_objective(self) -> bool:
        return False

    def optimize(self, objective: Callable[[Trial], float], n_trials: int, **kwargs: Any) -> None:
        for number in range(n_trials):
            trial = Trial(self, number)
            self.trials.append(trial)
            try:
                trial.value = objective(trial)
            except TrialPruned:
                continue

    @property
    def best_trial(self) -> Trial:
        return min((t for t in self.trials if t.value is not None), key=lambda t: t.value or 0.0)


def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Until the end of the test, ``import optuna`` gives this."""
    module: Any = ModuleType("optuna")
    module.__spec__ = ModuleSpec("optuna", None)
    module.Trial, module.TrialPruned = Trial, TrialPruned
    module.create_study = Study
    module.trial = SimpleNamespace(BaseTrial=Trial, FixedTrial=Trial)
    monkeypatch.setitem(sys.modules, "optuna", module)
    monkeypatch.setattr(OptunaBackend, "is_available", staticmethod(lambda: True))
    return module
