"""Models as small as the pruned ones that know nothing: all weights random, the same teacher.

What pruning is worth beside the distillation that comes after it: a model of the sizes that
hfprune's was pruned to, with new weights (of the embeddings and the head too), learns from the same
teacher by the same losses. It gets no less than what it is compared with: as many epochs as the
pruned model has had since the teacher, the models before it in its family included; embeddings that
are trained even where the recipe leaves the teacher's as they are; and a learning rate chosen by
short trials, as one that suits a model near its teacher need not suit one that is not.

``benchmark_methods.py`` has them among its rows.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hfprune.core.errors import OutputError
from hfprune.core.model_ref import PRUNED
from hfprune.core.results import METRICS_FILE, read_results
from hfprune.pipeline import run
from hfprune.pipeline.context import Context
from hfprune.pipeline.members import Maker, Members
from hfprune.pipeline.prepared import PLAN_FILE, Prepared, keep
from hfprune.pipeline.results import SavedModel
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.whole import Recipe


def run_from_scratch(values: Mapping[str, Any], family: Path, label: str) -> None:
    """Carry a recipe out for a model of given sizes that begins with random weights.

    Args:
        values: of the recipe; its target becomes the share of weights that is gone.
        family: output of the finished run whose model has these sizes.
        label: of that model.

    Raises:
        OutputError: it is not there.
    """
    if not (family / METRICS_FILE).is_file():
        raise OutputError(
            f"a model from scratch has the sizes of {label} in {family}, which is no finished run: "
            "name its method in --only too, or leave --only out"
        )
    file = (family if label == PRUNED else family / label) / PLAN_FILE
    plan = PruningPlan.from_dict(json.loads(file.read_text(encoding="utf-8")))
    removed = read_results(family, "the comparison").members[label].sparsity
    # Rounded down, so that it is reached for certain.
    target = {**values["pruning"], "sparsity": int(1e4 * removed) / 1e4}
    run(Recipe(**{**values, "pruning": target}), make=partial(_members, plan))


def _members(plan: PruningPlan, context: Context, prepared: Prepared, dense: SavedModel) -> Members:
    members = FromScratch(context, prepared, dense, dense, None, plan).make()
    prepared.taught.cache = None  # no training follows
    return members


@dataclass(frozen=True)
class FromScratch(Maker):
    """Makes one model of random weights where another would be pruned; all else is as there.

    Attributes:
        plan: from the dense model; only how much of each block it keeps is of account.
    """

    plan: PruningPlan | None = None

    def _pruned(self, label: str, *more: Any) -> tuple[SavedModel, None]:
        after = {"teacher": self.teacher}
        made = partial(_random, self.context, self.prepared, self.teacher, self.plan)
        return self.context.stage("scratch", SavedModel, made, after, by_main=True), None

    def _has_to_learn(self, label: str, pruned: SavedModel) -> bool:
        return True  # nothing of it is the dense model's, also where nothing is removed


def _random(
    context: Context, prepared: Prepared, dense: SavedModel, plan: PruningPlan
) -> SavedModel:
    """A model of the dense one's class and of the plan's sizes; the stage has set the seed."""
    like = prepared.saved(context, dense)
    model = type(like)(copy.deepcopy(like.config))
    shrink_(model, plan)
    return keep(context, model, "scratch", prepared.small.processor, plan)
