"""What a run tells a person: stages as they go, a table at the end."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hfprune.core.processes import processes
from hfprune.core.records import QuantizationRecord
from hfprune.core.results import RunResults
from hfprune.core.text import cell, visible
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.report.overall import Overall, about
from hfprune.report.tables import quantization_table, summary_table
from hfprune.report.verdict import next_commands, verdicts

logger = logging.getLogger(__name__)


# Where there is no terminal, how often a long stage says how far it is.
SECONDS_BETWEEN_LINES = 30.0
# Columns of tables where there is no terminal; they take what they need of it.
WIDE = 200


class _Work:
    """How far one piece of work is, and how long the rest will take at the pace so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start = self.begin = time.monotonic()
        self.first = self.done = self.total = 0
        self.facts: dict[str, str] = {}

    def restart(self, done: int = 0) -> None:
        """Count the pace from here: what was done before, by another run, took no time of ours."""
        self.begin, self.first = time.monotonic(), done
        self.done = self.total = 0

    def move(self, done: int, total: int) -> None:
        if done < self.done:  # a second round of the same work
            self.restart(done)
        self.done, self.total = done, total

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    @property
    def left(self) -> float | None:
        """Seconds, or ``None`` where nothing has been done yet that would tell."""
        if self.done <= self.first or not self.total:
            return None
        pace = (time.monotonic() - self.begin) / (self.done - self.first)
        return max(0.0, pace * (self.total - self.done))

    def text(self) -> str:
        """``40% (120 of 300), 1:20, 2:00 left; loss 0.3120``.

        What is still at work when all that was counted is done says only how long it has taken.
        """
        parts = []
        counts = self.done < self.total
        if counts:
            parts.append(f"{self.done / self.total:.0%} ({self.done} of {self.total})")
        parts.append(clock(self.elapsed))
        if counts and self.left is not None:
            parts.append(f"{clock(self.left)} left")
        return ", ".join(parts) + (f"; {self.facts_text()}" if self.facts else "")

    def facts_text(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.facts.items())


def clock(seconds: float) -> str:
    """Minutes and seconds, from an hour on with hours: ``1:05``, ``2:01:05``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Console:
    """Writes to stderr, on the main process only; plain lines where that is no terminal.

    On a terminal the stage that is running stands below the lines, with its bar, its time, the
    time left, what training has reached, and the stages that are done. Elsewhere a line says so
    every :data:`SECONDS_BETWEEN_LINES`.

    Args:
        quiet: only warnings.
        live: false where somebody else moves bars, such as a Trainer: lines only.
    """

    def __init__(self, quiet: bool = False, live: bool = True) -> None:
        self._quiet = quiet
        self._rich = RichConsole(
            file=sys.stderr, highlight=False, force_terminal=None if live else False
        )
        # Lines of a log are not cut: who reads them searches in them.
        self._whole = not self._rich.is_terminal
        self._overall: Overall | None = None
        self._finished: list[str] = []
        self._stage: _Work | None = None
        self._told = 0.0

    @property
    def silent(self) -> bool:
        return self._quiet or not processes().is_main_process

    def note(self, text: str) -> None:
        """One line."""
        if not self.silent:
            self._line(f"  {visible(text)}")

    def warn(self, text: str) -> None:
        """One line that is shown also where progress is not."""
        if processes().is_main_process:
            self._line(f"warning: {visible(text)}", style="yellow")

    def _line(self, text: str, style: str | None = None) -> None:
        self._rich.print(text, markup=False, style=style, soft_wrap=self._whole)

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        """What the run will go through: its stages with the seconds expected of each."""
        self._overall = Overall(stages)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage, and how long it took when it ends well."""
        stage = _Work(name)
        number = None if self._overall is None else self._overall.begin(name)
        if not self.silent:
            self._line(f"== {visible(name)}{self._of_all(number)}", style="bold")
        self._stage, self._told = stage, stage.start
        try:
            with self._shown(stage):
                yield
        finally:
            self._stage = None
        self.note(f"{name}: {stage.elapsed:.0f} s")
        self._finished.append(f"{name} {clock(stage.elapsed)}")
        if self._overall is not None:
            self._overall.end(name, stage.elapsed)

    def _of_all(self, number: int | None) -> str:
        """`` (stage 3 of 8, about 12 minutes left in all)``, as far as that is known."""
        if self._overall is None or number is None:
            return ""
        left = self._overall.left(0.0, None)
        more = "" if left is None else f", {about(left)} left in all"
        return f" (stage {number} of {len(self._overall.planned)}{more})"

    def _left_in_all(self, work: _Work) -> str:
        left = None if self._overall is None else self._overall.left(work.elapsed, work.left)
        return "" if left is None else f"{about(left)} left in all"

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Gives a function of (done, total) that moves a bar."""
        alone = self._stage is None
        work = self._stage or _Work(name)
        work.restart()
        self._told = time.monotonic()

        def move(done: int, total: int) -> None:
            work.move(done, total)
            self._tell(work)

        with self._shown(work) if alone else nullcontext():
            yield move
        work.restart()

    def begin(self, done: int, total: int) -> None:
        """A training of the current stage begins, at the step where an earlier run stopped."""
        if self._stage is not None:
            self._stage.restart(done)
            self._stage.move(done, total)

    @property
    def left(self) -> float | None:
        """Seconds until the current stage is done, where that can be told."""
        return None if self._stage is None else self._stage.left

    def reached(self, done: int, total: int, **facts: str) -> None:
        """Where the training of the current stage is; ``facts`` are kept until they change."""
        if self._stage is not None:
            self._stage.facts |= facts
            self._stage.move(done, total)
            self._tell(self._stage)

    def now(self, what: str) -> None:
        """What the current stage is at, shown beside how far it is."""
        if self._stage is not None:
            self._stage.facts["now"] = what

    def before(self, what: str) -> Callable[[int, int], None]:
        """A function of (done, total): how far something is that the current stage begins with."""

        def move(done: int, total: int) -> None:
            if self._stage is not None:
                self.now(what)
                self._stage.move(done, total)
                self._tell(self._stage)
                if done >= total:
                    self._stage.facts.pop("now")
                    self._stage.restart()

        return move

    def training(self, metric: str) -> TrainerCallback:
        """What shows a Trainer's steps, losses, sparsity and evaluations in the current stage.

        Args:
            metric: of those that evaluations compute, the one to show.
        """
        return _TrainingProgress(self, metric)

    @contextmanager
    def _shown(self, work: _Work) -> Iterator[None]:
        """On a terminal, the view of a piece of work while it is being done."""
        if self.silent or not self._rich.is_terminal:
            yield
            return
        with (
            Live(
                get_renderable=lambda: self._view(work),
                console=self._rich,
                transient=True,
                # Results go to stdout, which may be a file.
                redirect_stdout=sys.stdout.isatty(),
            ),
            _logged_through(self._rich.file),
        ):
            yield

    def _view(self, work: _Work) -> Group:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=work.total or None, completed=work.done, width=30)
        left = work.left
        counted = f"{work.done}/{work.total}" if work.total else ""
        remaining = "" if not left else f"{clock(left)} left"
        row.add_row(cell(work.name), bar, counted, clock(work.elapsed), remaining)
        lines: list[Any] = [row]
        if in_all := self._left_in_all(work):
            lines.append(Text(f"  {in_all}", style="dim"))
        if work.facts:
            lines.append(Text(f"  {visible(work.facts_text())}", overflow="ellipsis", no_wrap=True))
        if self._finished:
            lines.insert(0, Text(f"done: {visible(', '.join(self._finished))}", style="dim"))
        return Group(*lines)

    def _tell(self, work: _Work) -> None:
        """Where there is no terminal, a line now and then."""
        now = time.monotonic()
        if self.silent or self._rich.is_terminal or now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        in_all = self._left_in_all(work)
        self.note(f"{work.name}: {work.text()}" + (f"; {in_all}" if in_all else ""))

    def quantization(self, label: str, record: QuantizationRecord) -> None:
        """The candidates of a search for int8 settings, to stderr."""
        if not self.silent:
            width = None if self._rich.is_terminal else WIDE
            RichConsole(file=sys.stderr, highlight=False, width=width).print(
                quantization_table(label, record)
            )

    def summary(self, results: RunResults) -> None:
        """The table of a run, to stdout."""
        if not self.silent:
            RichConsole(highlight=False, width=_width()).print(summary_table(results))

    def verdict(self, results: RunResults, asked: PruningConfig | None, folder: str) -> None:
        """What the run came to, in a sentence or four, and what to type next; to stdout.

        Args:
            results: of the run.
            asked: the recipe's ``pruning``.
            folder: of the output.
        """
        if self.silent:
            return
        out = RichConsole(highlight=False, width=_width())
        plain = not out.is_terminal
        for found in verdicts(results, asked):
            name = f"{found.label}: " if results.family is not None else ""
            out.print(f"{visible(name + found.text())}", markup=False, soft_wrap=plain)
        labels = list(results.members) if results.family is not None else []
        out.print("next:", markup=False)
        pairs = results.data.get("pairs") is True
        for command in next_commands(folder, labels, results.task, pairs=pairs):
            out.print(f"  {visible(command)}", markup=False, soft_wrap=True)


@contextmanager
def _logged_through(stream: Any) -> Iterator[None]:
    """What libraries log to a stream goes where :data:`sys.stderr` leads now: above the live view.

    Handlers keep the stream that they were made with, and would write into the view's lines.
    """
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    moved = [
        handler
        for logger in loggers
        for handler in getattr(logger, "handlers", ())
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(stream)


class _TrainingProgress(TrainerCallback):
    """Carries a Trainer's events to a console."""

    def __init__(self, console: Console, metric: str) -> None:
        self._console = console
        self._metric = metric
        self._sparsity = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._console.begin(state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._console.reached(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        names = {
            "loss": ("loss", ".4f"),
            "pruning/sparsity": ("sparsity", ".1%"),
            f"eval_{self._metric}": (self._metric, ".4f"),
        }
        facts = {
            shown: format(value, form)
            for name, (shown, form) in names.items()
            if isinstance(value := (logs or {}).get(name), float)
        }
        self._sparsity = facts.get("sparsity", self._sparsity)
        self._console.reached(state.global_step, state.max_steps, **facts)
        if self._metric in facts:
            at = f", sparsity {self._sparsity}" if self._sparsity else ""
            left = "" if self._console.left is None else f", {clock(self._console.left)} left"
            # The state's number is rounded up: 2 of a training of 1.5 epochs.
            epochs = args.num_train_epochs if args.max_steps <= 0 else state.num_train_epochs
            self._console.note(
                f"epoch {state.epoch or 0:.3g} of {epochs:.3g}: "
                f"{self._metric} {facts[self._metric]} on validation rows{at}{left}"
            )


def _width() -> int | None:
    return None if sys.stdout.isatty() else WIDE
