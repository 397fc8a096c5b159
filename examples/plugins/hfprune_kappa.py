"""A metric from outside: Cohen's kappa, the agreement that chance does not explain.

The package says, in pyproject.toml::

    [project.entry-points."hfprune.metrics"]
    kappa = "hfprune_kappa:KAPPA"

Then recipes take ``evaluation.metrics: [kappa, accuracy]`` and ``training.metric_for_best_model:
kappa``, and results give its interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hfprune.core.tasks import Metric


def kappa(predictions: Any, labels: Any) -> float:
    """Cohen (1960), A coefficient of agreement for nominal scales: 1 is all right, 0 is chance.

    Args:
        predictions, labels: class numbers, int64 ``(rows,)``.
    """
    agreed = float(np.mean(predictions == labels))
    classes = range(int(max(predictions.max(), labels.max())) + 1)
    chance = float(sum(np.mean(predictions == c) * np.mean(labels == c) for c in classes))
    return (agreed - chance) / (1 - chance) if chance < 1 else 0.0


KAPPA = Metric(tasks=("single_label_classification", "image_classification"), function=kappa)
