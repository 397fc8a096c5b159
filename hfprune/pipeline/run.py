"""One run, from a recipe to a directory: the order of its stages.

Every stage leaves its result in a work directory beside the output and is not repeated when the
run is resumed, as long as all that it follows from is the same. The output directory appears at
the end, whole or not at all. One run at a time works on an output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed

from hfprune.core.exchange import from_main, tell_failure
from hfprune.core.locks import FolderLock
from hfprune.core.model_ref import DENSE
from hfprune.core.processes import lost_processes
from hfprune.core.results import RunResults
from hfprune.core.signals import terminated_as_interrupted
from hfprune.pipeline import preflight, progress
from hfprune.pipeline.context import Context
from hfprune.pipeline.fingerprint import recipe_digest
from hfprune.pipeline.members import Maker, Members
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import AllExported, Evaluated, SavedModel, Timed, Tokens
from hfprune.pipeline.stages import (
    benchmark,
    data,
    deploy,
    evaluate,
    export,
    push,
    teacher,
    vocabulary,
    write,
)
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.console import Console


def run(recipe: Recipe, console: Console | None = None) -> dict[str, Any] | None:
    """Carry a recipe out.

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
        members = _members(context, prepared, dense)
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
    progress.plan(context, prepared)
    return prepared


def _teacher(context: Context, prepared: Prepared) -> SavedModel:
    return context.stage("teacher", SavedModel, lambda: teacher.run(context, prepared), {})


def _members(context: Context, prepared: Prepared, dense: SavedModel) -> Members:
    """The pruned models, from the teacher or from a copy of it with fewer tokens."""
    start, tokens = dense, None
    settings = context.recipe.pruning.vocabulary
    if settings is not None:
        start = context.stage(
            "vocabulary",
            SavedModel,
            partial(vocabulary.run, context, prepared, dense, settings.min_count),
            {"teacher": dense},
            by_main=True,
        )
        vocabulary.read_as(context, prepared, start)
        tokens = context.stage(
            "tokens",
            Tokens,
            partial(vocabulary.compare, context, prepared, start),
            {"vocabulary": start},
            by_main=True,
        )
        context.console.note(tokens.text())
    members = Maker(context, prepared, dense, start).make()
    members.tokens = tokens
    prepared.taught.cache = None  # no training follows
    return members


def _results(
    context: Context, prepared: Prepared, dense: SavedModel, members: Members
) -> RunResults:
    """Deployed files, what they are worth, and the output folder."""
    models = {DENSE: dense, **{member.label: member.model for member in members.all}}
    exported = context.stage(
        "export",
        AllExported,
        partial(export.run, context, prepared, models, members.made),
        {**models, **{f"validate {label}": judged for label, judged in members.made.items()}},
        by_main=True,
    )
    settings = context.recipe.deploy
    if settings is not None:
        exported = context.stage(
            "deploy",
            AllExported,
            partial(deploy.run, context, prepared, exported, settings),
            {"export": exported},
            by_main=True,
        )
    after = {**models, "export": exported}
    evaluated = context.stage(
        "evaluate",
        Evaluated,
        partial(evaluate.run, context, prepared, models, exported),
        after,
        by_main=True,
    )
    timed = context.stage(
        "benchmark",
        Timed,
        partial(benchmark.run, context, prepared, models, exported),
        after,
        by_main=True,
    )
    with context.explained("writing the output"):
        found = write.results(context, prepared, dense, members, exported, evaluated, timed)
        more = write.details(context, dense, members, evaluated)
        write.write(context, prepared, members, exported, found, more)
    context.store.remove()
    _tell(context, found)
    context.console.note(f"results: {context.store.output}")
    push.run(context, [member.label for member in members.all])
    return found
