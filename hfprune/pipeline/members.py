"""The order of the stages that make the pruned models: one, a family, or the fastest in a drop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hfprune.core.errors import PlanError, TrainingError
from hfprune.core.model_ref import DENSE, PRUNED
from hfprune.pipeline.candidates import best_candidate
from hfprune.pipeline.context import Context
from hfprune.pipeline.decisions import (
    FIRST_SPEEDUP,
    SpeedStep,
    fastest_within,
    judged_metric,
    metric_drop,
    next_speedup,
)
from hfprune.pipeline.landing import at_speed
from hfprune.pipeline.prepared import Prepared, plan_in
from hfprune.pipeline.recovering import recovered, suffix_of
from hfprune.pipeline.results import (
    Baseline,
    Candidates,
    Latency,
    SavedModel,
    Scaled,
    StageResult,
    Tokens,
    Validated,
)
from hfprune.pipeline.stages import (
    export,
    finish,
    latency,
    prune,
    reconstruct,
    recover,
    vocabulary,
)
from hfprune.pipeline.stages import temperature as scaling
from hfprune.pruning.cost import LatencyTable
from hfprune.recipe.sections.pruning import PruningConfig


@dataclass(frozen=True)
class Member:
    """A pruned model, and what it came from.

    Attributes:
        label: what it is called: ``pruned``, or of a family its speed-up.
        model: where it lies, in the form in which it is published.
        working: the same as it was trained, which the next of a family is pruned from.
        temperature: that its logits were divided by.
        pruned_log, log: files of the logs of pruning and recovery.
        table: latency table of its target, if that is a speed.
        candidates: what there was to choose from, by name.
        validated: its deployed file and metric, if it was judged by them.
    """

    label: str
    model: SavedModel
    pruned_log: str | None = None
    log: str | None = None
    table: LatencyTable | None = None
    candidates: dict[str, dict[str, Any]] | None = None
    validated: Validated | None = None
    working: SavedModel | None = None
    temperature: float | None = None

    @property
    def made_of(self) -> str:
        """The folder of the model that its deployed files were made of."""
        return self.model.folder


@dataclass
class Members:
    """All pruned models, in order, and what was found on the way."""

    all: list[Member] = field(default_factory=list)
    search: dict[str, Any] | None = None
    tokens: Tokens | None = None
    dense: Validated | None = None

    @property
    def is_family(self) -> bool:
        """Whether each has a folder of its own."""
        return [member.label for member in self.all] != [PRUNED]

    @property
    def made(self) -> dict[str, Validated]:
        """What was exported to judge it, by label."""
        found = {member.label: member.validated for member in self.all} | {DENSE: self.dense}
        return {label: judged for label, judged in found.items() if judged is not None}


@dataclass(frozen=True)
class Maker:
    """Makes pruned models from a teacher, stage by stage.

    Attributes:
        teacher: the dense model.
        start: what is pruned and distilled from: the teacher, or it with fewer tokens.
        table: latency table for all speeds, taken as it is: nothing is measured.
    """

    context: Context
    prepared: Prepared
    teacher: SavedModel
    start: SavedModel
    table: LatencyTable | None = None

    @property
    def _teachers(self) -> dict[str, StageResult]:
        """What is learned from besides."""
        others = self.prepared.taught.others
        return {f"teacher {number}": other for number, other in enumerate(others, 2)}

    def make(self) -> Members:
        """All pruned models that the recipe asks for, each pruned from the one before it."""
        # What is left to do once the vocabulary has been reduced.
        pruning = self.context.recipe.pruning.model_copy(update={"vocabulary": None})
        if pruning.max_metric_drop is not None:
            return self._step_up(pruning, pruning.max_metric_drop)
        targets = [(PRUNED, pruning)]
        if isinstance(pruning.speedup, list):
            targets = [
                (f"{speed:g}x", pruning.model_copy(update={"speedup": speed}))
                for speed in pruning.speedup
            ]
        current, members = self.start, Members()
        for label, target in targets:
            member = self._member(label, target, current)
            members.all.append(member)
            current = member.working or member.model
        return members

    def _member(self, label: str, target: PruningConfig, current: SavedModel) -> Member:
        """Prune one model from ``current`` to a target, and train what is left."""
        context, prepared = self.context, self.prepared
        suffix = suffix_of(label)
        after: dict[str, StageResult] = {
            "teacher": self.teacher, "start": self.start, "current": current,
            **self._teachers,
        }  # fmt: skip
        table, dense_file = None, None
        if target.speedup is not None and self.table is not None:
            table = self.table
            table.budget_ms(latency.single_speed(target))  # refuses the impossible
        elif target.speedup is not None:
            dense_file = context.stage(
                "baseline",
                Baseline,
                lambda: latency.baseline(context, prepared, self.teacher),
                {"teacher": self.teacher},
                by_main=True,
            )
            measured = context.stage(
                f"latency{suffix}",
                Latency,
                partial(latency.run, context, prepared, self.teacher, dense_file, target),
                {"teacher": self.teacher, "baseline": dense_file},
                by_main=True,
            )
            table = LatencyTable.from_dict(measured.table)
            after |= {"baseline": dense_file, "latency": measured}
        chosen: dict[str, dict[str, Any]] | None = None
        pruned_log: str | None = None
        if target.method == "reconstruction":
            found = context.stage(
                f"reconstruct{suffix}",
                Candidates,
                partial(reconstruct.run, context, prepared, label, target, current, self.start,
                        table, dense_file),
                after,
                by_main=True,
                helping=partial(reconstruct.help_with, context, prepared, target, current,
                                self.start),
            )  # fmt: skip
            best, chosen = best_candidate(
                context, prepared, label, self.start, found, self._teachers
            )
            model = SavedModel(folder=found.found[best].folder)
        else:
            model, table = self._pruned(label, suffix, target, current, table, dense_file, after)
            pruned_log = model.log
        log: str | None = None
        if context.recipe.recovery.trains and self._has_to_learn(label, model):
            model = recovered(context, prepared, label, self.start, model, self._teachers)
            log = model.log
        finished, temperature = self._finished(label, suffix, target, model), None
        if context.recipe.fits_temperature:
            scaled = context.stage(
                f"temperature{suffix}",
                Scaled,
                partial(scaling.run, context, prepared, label, finished),
                {"finished": finished},
                by_main=True,
            )
            finished, temperature = SavedModel(folder=scaled.folder), scaled.temperature
        return Member(
            label, finished, pruned_log, log, table, chosen, working=model, temperature=temperature
        )

    def _has_to_learn(self, label: str, pruned: SavedModel) -> bool:
        return recover.has_to_learn(
            self.context, self.prepared, label, pruned, self.start, self.teacher
        )

    def _pruned(
        self,
        label: str,
        suffix: str,
        target: PruningConfig,
        current: SavedModel,
        table: LatencyTable | None,
        dense_file: Baseline | None,
        after: dict[str, StageResult],
    ) -> tuple[SavedModel, LatencyTable | None]:
        """Prune while training, and the table that it was pruned by."""
        context, prepared = self.context, self.prepared

        def prune_once(
            again: str, by: LatencyTable | None, after: dict[str, StageResult]
        ) -> SavedModel:
            return context.stage(
                f"prune{suffix}{again}",
                SavedModel,
                partial(prune.run, context, prepared, f"{label}{again.replace(' ', '-')}", target,
                        current, self.start, by),
                after,
                by_main=target.keep_layers is not None,
            )  # fmt: skip

        if table is None or dense_file is None:
            return prune_once("", table, after), table
        speed = latency.single_speed(target)
        return at_speed(context, prepared, label, speed, table, dense_file, after, prune_once)

    def _finished(
        self, label: str, suffix: str, target: PruningConfig, model: SavedModel
    ) -> SavedModel:
        """The model as it is published."""
        plan = plan_in(self.context.path(model.folder))
        if not finish.may_finish(plan, target.layout):
            return model
        return self.context.stage(
            f"finish{suffix}",
            SavedModel,
            partial(finish.run, self.context, self.prepared, label, model, target.layout),
            {"trained": model},
            by_main=True,
        )

    def _step_up(self, pruning: PruningConfig, limit: float) -> Members:
        """The fastest model within ``max_metric_drop``.

        Judged by the quantized model on the validation rows, against the dense one there.
        """
        context, recipe = self.context, self.context.recipe
        metric = judged_metric(
            recipe.training.metric_for_best_model,
            recipe.training.greater_is_better,
            recipe.evaluation.metrics,
        )
        dense = self._validated(DENSE, self.teacher)
        floor = dense.metric
        current, steps, made = self.start, list[SpeedStep](), dict[float, Member]()
        while (speed := next_speedup(steps, limit)) is not None:
            label = f"{speed:g}x"
            target = pruning.model_copy(update={"speedup": speed, "max_metric_drop": None})
            try:
                member = self._member(label, target, current)
            except PlanError as error:  # faster than a model without blocks
                steps.append(SpeedStep(speed, stopped=str(error)))
                continue
            current = member.working or member.model
            judged = self._validated(label, member.model)
            drop = metric_drop(floor, judged.metric, metric.greater_is_better)
            steps.append(SpeedStep(speed, judged.metric, drop))
            made[speed] = replace(member, label=PRUNED, validated=judged)
            context.console.note(
                f"{label}: validation {metric.name} {judged.metric:.4f}, {drop:+.4f} below dense"
            )
        best = fastest_within(steps, limit)
        if best is None:
            drop = float("nan") if steps[0].drop is None else steps[0].drop
            raise TrainingError(
                f"even at a speed-up of {FIRST_SPEEDUP:g} the validation metric falls by "
                f"{drop:.4f}, more than max_metric_drop {limit:g}; "
                "train longer (recovery.num_train_epochs) or allow a larger drop"
            )
        search = {
            "dense": floor,
            "limit": limit,
            "metric": metric.name,
            "steps": [step.to_dict() for step in steps],
            "chosen": f"{best.speedup:g}x",
        }
        return Members([made[best.speedup]], search, dense=dense)

    def _validated(self, label: str, model: SavedModel) -> Validated:
        return self.context.stage(
            f"validate {label}",
            Validated,
            partial(export.validate, self.context, self.prepared, model, label),
            {"validated": model},
            by_main=True,
        )


def make_members(
    context: Context, prepared: Prepared, dense: SavedModel, table: LatencyTable | None = None
) -> Members:
    """The pruned models, from the teacher or from a copy of it with fewer tokens.

    Args:
        table: as of :class:`Maker`.
    """
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
    members = Maker(context, prepared, dense, start, table).make()
    members.tokens = tokens
    prepared.taught.cache = None  # no training follows
    return members
