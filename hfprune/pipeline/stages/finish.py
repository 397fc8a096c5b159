"""A pruned and trained model without emptied layers, loaded by transformers alone if it can be."""

from __future__ import annotations

from hfprune.families import model_sizes
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
    before = len(model_sizes(model))
    alone, count = finish_(model, layout), len(model_sizes(model))
    if alone:
        context.console.note(f"{label}: {count} layers that transformers loads without hfprune")
    elif count == before:
        return trained
    else:
        context.console.note(f"{label}: {count} of {before} layers are left")
    plan = plan_in(context.path(trained.folder))
    return keep(context, model, f"{label}-finished", prepared.small.processor, plan)


def may_finish(plan: PruningPlan, layout: Layout) -> bool:
    """Whether there is a form to look for: layers are alike, or whole layers are gone.

    >>> dense = PruningPlan.dense([(2, 3), (2, 3)])
    >>> may_finish(PruningPlan.first_units([(2, 3), (2, 3)], [(2, 3), (0, 0)]), "uneven")
    True
    >>> may_finish(dense, "uneven")
    False
    """
    if layout == "uniform":
        return True
    return (0, 0) in plan.sizes()
