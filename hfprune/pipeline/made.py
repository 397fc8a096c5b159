"""What is done with the models that a run made: files, what they are worth, the output folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hfprune.core.model_ref import DENSE
from hfprune.core.results import RunResults
from hfprune.pipeline.context import Context
from hfprune.pipeline.members import Members
from hfprune.pipeline.prepared import Prepared
from hfprune.pipeline.results import AllExported, Evaluated, SavedModel, Timed
from hfprune.pipeline.stages import benchmark, deploy, evaluate, export, write


@dataclass(frozen=True)
class Made:
    """The models of a run: of a recipe's, or of a Trainer's.

    Every step is a stage: done once, and again only where what it follows from is another.

    Attributes:
        dense: the model that the others come from and are compared with.
    """

    context: Context
    prepared: Prepared
    dense: SavedModel
    members: Members

    @property
    def models(self) -> dict[str, SavedModel]:
        """By label, the dense one first."""
        return {DENSE: self.dense, **{member.label: member.model for member in self.members.all}}

    def exported(self) -> AllExported:
        """Deployed files of all models."""
        context, models, made = self.context, self.models, self.members.made
        exported = context.stage(
            "export",
            AllExported,
            partial(export.run, context, self.prepared, models, made),
            {**models, **{f"validate {label}": judged for label, judged in made.items()}},
            by_main=True,
        )
        settings = context.recipe.deploy
        if settings is None:
            return exported
        return context.stage(
            "deploy",
            AllExported,
            partial(deploy.run, context, self.prepared, models, exported, settings),
            {"export": exported},
            by_main=True,
        )

    def evaluated(self, exported: AllExported) -> Evaluated:
        """Quality of all models and files on the test rows."""
        return self.context.stage(
            "evaluate",
            Evaluated,
            partial(evaluate.run, self.context, self.prepared, self.models, exported),
            {**self.models, "export": exported, **evaluate.files_read(self.context)},
            by_main=True,
        )

    def timed(self, exported: AllExported) -> Timed:
        """Times and sizes of all models and files."""
        return self.context.stage(
            "benchmark",
            Timed,
            partial(benchmark.run, self.context, self.prepared, self.models, exported),
            {**self.models, "export": exported},
            by_main=True,
        )

    def written(self, output: Path, *, replace: bool) -> RunResults:
        """All of it, and on the main process the output folder.

        Args:
            replace: whether a folder that is there, and not empty, is exchanged.
        """
        context, prepared = self.context, self.prepared
        exported = self.exported()
        evaluated, timed = self.evaluated(exported), self.timed(exported)
        with context.explained("writing the output"):
            found = write.results(
                context, prepared, self.dense, self.members, exported, evaluated, timed
            )
            if context.is_main:
                more = write.details(context, self.dense, self.members, evaluated)
                write.write(
                    context, prepared, self.members, exported, found, more, output, replace=replace
                )
        return found
