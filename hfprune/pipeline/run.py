"""One run, from a recipe to a directory: the order of its stages.

Every stage leaves its result in a work directory beside the output and is not repeated when the
run is resumed, as long as all that it follows from is the same. The output directory appears at
the end, whole or not at all. One run at a time works on an output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from hfprune.core.exchange import from_main, tell_failure
from hfprune.core.locks import FolderLock
from hfprune.core.processes import lost_processes, precision_left_alone
from hfprune.core.results import RunResults
from hfprune.core.signals import terminated_as_interrupted
from hfprune.models.bars import without_model_bars
from hfprune.pipeline import preflight, progress
from hfprune.pipeline.context import Context
from hfprune.pipeline.fingerprint import recipe_digest
from hfprune.pipeline.made import Made
from hfprune.pipeline.members import Members, make_members
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import SavedModel
from hfprune.pipeline.stages import data, push, teacher, write
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.console import Console


def run(
    recipe: Recipe,
    console: Console | None = None,
    *,
    make: Callable[[Context, Prepared, SavedModel], Members] = make_members,
) -> dict[str, Any] | None:
    """Carry a recipe out.

    Args:
        make: makes the small models from the dense one, in another way in comparisons.

    Returns:
        The content of ``metrics.json`` on the main process, ``None`` on the others.

    Raises:
        HFPruneError: whatever was wrong with the recipe's model, data or output, before any long
            work where that can be known.
    """
    context = Context.of(recipe, console)
    with _working(context):
        found = write.finished_before(context) if context.is_main else None
        if from_main(found is not None):
            return None if found is None else _finished(context, found).to_json()
        prepared = _prepare(context)
        dense = _teacher(context, prepared)
        _more_teachers(context, prepared, dense)
        members = make(context, prepared, dense)
        if not context.is_main:
            return None
        return _results(context, prepared, dense, members).to_json()


def train_teacher(recipe: Recipe, console: Console | None = None) -> Path:
    """Only fine-tune the dense model of a recipe; it is saved as ``output_dir``.

    For comparisons in which several runs start from one teacher. Errors as :func:`run`.
    """
    context = Context.of(recipe, console)
    with _working(context):
        dense = _teacher(context, _prepare(context))
        if context.is_main:
            with context.explained("writing the output"):
                write.write_teacher(context, dense)
            context.store.remove()
        context.state.wait_for_everyone()
    return context.store.output


@contextmanager
def _working(context: Context) -> Iterator[None]:
    """The output is ours alone; who waits for the main process hears of its failure."""
    with ExitStack() as stack:
        try:
            stack.enter_context(terminated_as_interrupted())
            stack.enter_context(precision_left_alone())
            stack.enter_context(without_model_bars())
            if context.is_main:
                preflight.check_places(context)
                stack.enter_context(FolderLock(context.store.output))
            yield
        except BaseException:
            tell_failure()
            raise


def _finished(context: Context, found: RunResults) -> RunResults:
    """What is left to do for a run that was finished before."""
    context.store.remove_leftovers()
    context.console.note(f"{context.store.output}: finished before, nothing to resume")
    _tell(context, found)
    push.run(context, found.members)
    return found


def _tell(context: Context, found: RunResults) -> None:
    """The table of all models, what it comes to, and what to type next."""
    context.console.summary(found)
    context.console.verdict(found, context.recipe.pruning, str(context.store.output))


def _prepare(context: Context) -> Prepared:
    """Check what can be checked at once, open the work folder, read the rows."""
    recipe = context.recipe
    lost = lost_processes()
    if lost is not None:
        context.console.warn(lost)
    if context.is_main:
        preflight.check(context)
        context.store.open(
            recipe_digest(recipe),
            dump_recipe(recipe),
            resume=recipe.resume,
            overwrite=recipe.overwrite,
        )
    preflight.require_shared(context.store.folder)
    set_seed(recipe.training.seed)
    prepared = data.prepare(context)
    # Before the dense model is trained: it takes seconds, and may find what is wrong with one.
    prepared.taught.outside = teacher.outside(context, prepared)
    progress.plan(context, prepared)
    return prepared


def _teacher(context: Context, prepared: Prepared) -> SavedModel:
    return context.stage("teacher", SavedModel, lambda: teacher.run(context, prepared), {})


def _more_teachers(context: Context, prepared: Prepared, dense: SavedModel) -> None:
    """The dense model with other seeds, to learn from as well."""
    prepared.taught.others = tuple(
        context.stage(
            f"teacher {number}", SavedModel, partial(teacher.another, context, prepared, number), {}
        )
        for number in range(2, context.recipe.teacher.num_seeds + 1)
    )
    if (prepared.taught.others or prepared.taught.outside) and context.is_main:
        teacher.tell_ceiling(context, prepared, dense)


def _results(
    context: Context, prepared: Prepared, dense: SavedModel, members: Members
) -> RunResults:
    """Deployed files, what they are worth, and the output folder."""
    recipe = context.recipe
    made = Made(context, prepared, dense, members)
    found = made.written(context.store.output, replace=recipe.overwrite or recipe.resume)
    context.store.remove()
    _tell(context, found)
    context.console.note(f"results: {context.store.output}")
    push.run(context, [member.label for member in members.all])
    return found
