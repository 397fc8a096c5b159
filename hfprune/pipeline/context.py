"""What all stages of a run are given: the recipe, the console, the processes, the work folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import set_seed

from hfprune.core.errors import HFPruneError, OutputError, TrainingError
from hfprune.core.exchange import from_main
from hfprune.core.faults import is_disk_full, is_out_of_memory, why_not_written
from hfprune.core.memory import release_memory
from hfprune.core.ownership import check_name
from hfprune.core.processes import processes
from hfprune.core.text import one_line
from hfprune.pipeline.results import StageResult
from hfprune.pipeline.store import ResultT, StageStore
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.console import Console


@dataclass
class Context:
    """One run, as its stages see it."""

    recipe: Recipe
    console: Console
    store: StageStore
    state: PartialState = field(default_factory=processes)
    # What the stage that is being done follows from; its checkpoints are bound to it.
    inputs: Mapping[str, str] = field(default_factory=dict)
    go_on: str = "run the same command again with resume=true (and without overwrite=true)"

    @classmethod
    def of(cls, recipe: Recipe, console: Console | None = None) -> Context:
        """The context of a recipe; nothing is read or written.

        Raises:
            OutputError: the output folder has no usable name.
        """
        check_name(Path(recipe.output_dir))
        return cls(recipe, console or Console(), StageStore(Path(recipe.output_dir)))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return bool(self.state.is_main_process)

    def path(self, place: str) -> Path:
        """Where something that a result names by its place in the work folder lies."""
        return self.store.folder / place

    def stage(
        self,
        name: str,
        kind: type[ResultT],
        do: Callable[[], ResultT],
        after: Mapping[str, StageResult],
        *,
        by_main: bool = False,
        helping: Callable[[], object] | None = None,
    ) -> ResultT:
        """Do a stage, or take its result from an earlier run.

        Args:
            name: as it is told and kept.
            kind: the class of its result.
            do: does it.
            after: results of the stages that it follows from, by name.
            by_main: only the main process works, and the others wait for its result, however
                long it takes.
            helping: what the others do of it before they wait.
        """
        inputs, found = self._taken(name, kind, after)
        if found is not None:
            return found
        start = time.monotonic()
        # A stage is a function of what it starts from, whichever stages this process did before.
        set_seed(self.recipe.training.seed)
        self.inputs = inputs
        result: ResultT | None = None
        with self.console.stage(name), self.explained(f"stage {name!r}"):
            if self.is_main or not by_main:
                result = _only(kind, do())
            elif helping is not None:
                helping()
        if not by_main:
            self.state.wait_for_everyone()  # the main process has written what all will read
        if self.is_main and result is not None:
            with self.explained(f"stage {name!r}"):
                self.store.put(name, result, inputs, time.monotonic() - start)
        release_memory()
        told = None if result is None else result.model_dump(mode="json", exclude_unset=True)
        return kind.model_validate(from_main(told)) if by_main or result is None else result

    def _taken(
        self, name: str, kind: type[ResultT], after: Mapping[str, StageResult]
    ) -> tuple[dict[str, str], ResultT | None]:
        """The inputs of a stage, and its earlier result; the main process decides for all."""
        answer: list[Any] = [{}, None]
        if self.is_main:
            inputs = self.store.inputs_of(after)
            earlier = self.store.take(name, kind, inputs)
            if not isinstance(earlier, str):
                self.console.note(f"{name}: done before, not repeated")
                answer = [inputs, earlier.model_dump(mode="json", exclude_unset=True)]
            else:
                if earlier:
                    self.console.note(f"{name}: {earlier}, so it is done again")
                answer = [inputs, None]
        inputs, values = from_main(answer)
        return dict(inputs), None if values is None else kind.model_validate(values)

    @contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """A full disk or exhausted memory as an error that says what is safe and how to go on."""
        try:
            yield
        except Exception as error:
            explanation = self._explanation(doing, error)
            if explanation is None:
                raise
            raise explanation from error

    def _explanation(self, doing: str, error: Exception) -> HFPruneError | None:
        finished = ", ".join(self.store.seconds()) or "none yet"
        go_on = (
            f"finished stages ({finished}) and checkpoints are safe in {self.store.folder}; "
            f"{self.go_on} to go on"
        )
        ours = isinstance(error, HFPruneError)
        if isinstance(error, OutputError) or (ours and is_disk_full(error)):
            return OutputError(f"{doing}: {error}; {go_on}")
        if ours:
            return None
        full = why_not_written(error, self.store.folder)
        if full is not None:
            name = getattr(error, "filename", None) or self.store.folder
            why, _, remedy = full.partition("; ")
            remedy = f"{remedy}; " if remedy else ""
            return OutputError(
                f"{doing}: {why}, writing {name} failed ({brief(error)}); {remedy}{go_on}"
            )
        if is_out_of_memory(error):
            training = self.recipe.training
            pruning = self.recipe.pruning
            memory = f", pruning.memory_gb ({pruning.memory_gb:g})"
            return TrainingError(
                f"{doing}: out of memory ({brief(error)}); lower "
                f"training.per_device_eval_batch_size ({training.per_device_eval_batch_size})"
                f"{memory if pruning.method == 'reconstruction' else ''} "
                f"or benchmark.batch_sizes ({self.recipe.benchmark.batch_sizes}); {go_on}"
            )
        if isinstance(error, OSError) and error.filename is not None:
            return OutputError(f"{doing}: {error.filename}: {error.strerror}; {go_on}")
        return None


def brief(error: BaseException) -> str:
    """Class and text of an error in one line."""
    return one_line(f"{type(error).__name__}: {error}")


def _only(kind: type[ResultT], result: ResultT) -> ResultT:
    """A result without what a more special class adds: as it will be read again."""
    if type(result) is kind:
        return result
    told = result.model_dump(mode="json", include=set(kind.model_fields), exclude_unset=True)
    return kind.model_validate(told)
