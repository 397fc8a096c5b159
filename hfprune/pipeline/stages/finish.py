"""A pruned and trained model in the form that transformers builds alone, if it has one."""

from __future__ import annotations

from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, keep, plan_in
from hfprune.pipeline.results import SavedModel
from hfprune.pruning.layout import Layout, finish_
from hfprune.pruning.plan import PruningPlan


def run(
    context: Context, prepared: Prepared, label: str, trained: SavedModel, layout: Layout
) -> SavedModel:
    """The model without emptied layers, its sizes in its config; or as it is, if that cannot be.

    Last of all: while a model is trained, its layers stand where the teacher's stand.
    """
    model = prepared.saved(context, trained)
    if not finish_(model, layout):
        return trained
    config = model.config
    context.console.note(
        f"{label}: {config.num_hidden_layers} layers that transformers loads without hfprune"
    )
    plan = plan_in(context.path(trained.folder))
    return keep(context, model, f"{label}-finished", prepared.small.processor, plan)


def may_finish(plan: PruningPlan, layout: Layout) -> bool:
    """Whether there is a form to look for: layers are alike, or whole layers are all that is gone.

    >>> dense = PruningPlan.dense([(2, 3), (2, 3)])
    >>> may_finish(PruningPlan.first_units([(2, 3), (2, 3)], [(2, 3), (0, 0)]), "uneven")
    True
    >>> may_finish(dense, "uneven")
    False
    """
    if layout == "uniform":
        return True
    pairs = list(zip(plan.sizes(), plan.totals(), strict=True))
    gone = [kept == (0, 0) for kept, _ in pairs]
    return any(gone) and all(kept in ((0, 0), total) for kept, total in pairs)
