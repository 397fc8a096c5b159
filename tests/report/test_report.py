"""What a person sees of a run: lines where there is no terminal, one live view where there is."""

from __future__ import annotations

import io
import logging
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as RichConsole

from hfprune.report import console as console_module
from hfprune.report.console import Console, clock


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: self.now))


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    made = Console()
    made._rich = RichConsole(file=written, force_terminal=terminal, width=100, highlight=False)
    return made, written


def state(step: int, epoch: float = 0.0) -> Any:
    return SimpleNamespace(global_step=step, max_steps=100, epoch=epoch, num_train_epochs=2)


def test_clock() -> None:
    assert [clock(s) for s in (0, 65, 3599.4, 7265)] == ["0:00", "1:05", "59:59", "2:01:05"]


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock(monkeypatch)
    shown, written = console(terminal=False)
    callback: Any = shown.training("accuracy")
    arguments = SimpleNamespace(num_train_epochs=1.5, max_steps=-1)
    with shown.stage("prune"):
        callback.on_train_begin(None, state(20), None)  # resumed there
        time.now += 10
        callback.on_step_end(None, state(30), None)
        callback.on_log(None, state(30), None, logs={"loss": 0.5, "pruning/sparsity": 0.25})
        time.now += 30
        callback.on_step_end(None, state(60), None)
        callback.on_step_end(None, state(61), None)
        time.now += 10
        callback.on_log(arguments, state(70, 1.4), None, logs={"eval_accuracy": 0.75})
        arguments.max_steps = 100
        callback.on_log(arguments, state(70, 1.5), None, logs={"eval_accuracy": 0.75})
    assert [line.strip() for line in written.getvalue().splitlines()] == [
        "== prune",
        "prune: 60% (60 of 100), 0:40, 0:40 left; loss 0.5000, sparsity 25.0%",
        "epoch 1.4 of 1.5: accuracy 0.7500 on validation rows, sparsity 25.0%, 0:30 left",
        "epoch 1.5 of 2: accuracy 0.7500 on validation rows, sparsity 25.0%, 0:30 left",
        "prune: 50 s",
    ]


def test_the_view_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock(monkeypatch)
    shown, written = console(terminal=True)
    with shown.stage("teacher"):
        time.now += 65
    with shown.stage("export"):
        stage = shown._stage
        assert stage is not None
        with shown.progress("quantization") as move:
            time.now += 5
            move(1, 4)
            plain = RichConsole(file=io.StringIO(), width=100)
            plain.print(shown._view(stage))
            lines = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].strip() == "done: teacher 1:05"
    assert lines[1].split()[0] == "export"
    assert lines[1].split()[-4:] == ["1/4", "0:05", "0:15", "left"]
    assert "teacher: 65 s" in written.getvalue()


def test_an_error_leaves_no_view_behind() -> None:
    shown, _ = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), shown.stage("teacher"):
        raise KeyboardInterrupt
    assert shown.left is None
    with shown.stage("again"):
        pass


def test_what_libraries_log_stands_above_the_view() -> None:
    shown, written = console(terminal=True)
    handler = logging.StreamHandler(written)  # made before the view, as those of libraries are
    logger = logging.getLogger("tests.some_library")
    logger.addHandler(handler)
    try:
        with shown.stage("prune"):
            assert handler.stream is sys.stderr
            assert handler.stream is not written
            logger.warning("mind the gap")
        assert handler.stream is written
    finally:
        logger.removeHandler(handler)
    lines = re.sub(r"\x1b\[\?25[lh]", "", written.getvalue()).splitlines()
    assert "mind the gap" in lines


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, written = console(terminal=True)
    shown._quiet = True
    with shown.stage("teacher"), shown.progress("x") as move:
        move(1, 2)
    shown.reached(1, 2)
    assert written.getvalue() == ""


def test_what_a_stage_begins_with_is_told_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_now = Clock(monkeypatch)
    shown, written = console(terminal=False)
    with shown.stage("recover"):
        move = shown.before("the teacher's answers")
        for done in (10, 20):
            clock_now.now += 40.0
            move(done, 40)
        assert "recover: 50% (20 of 40), 1:20, 1:20 left; now the teacher's answers" in (
            written.getvalue()
        )
        move(40, 40)
        shown.begin(0, 8)
        clock_now.now += 40.0
        shown.reached(2, 8)
    last = written.getvalue().splitlines()[-2]
    assert "25% (2 of 8)" in last
    assert "teacher's" not in last
