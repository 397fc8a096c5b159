"""One run at a time on one output: who holds it, who is told, and what a dead owner leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfprune.core import locks
from hfprune.core.errors import OutputError
from hfprune.core.locks import FolderLock, Owner, this_process

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from hfprune.core.locks import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(target: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_it_leaves_nothing_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        with FolderLock(tmp_path / "out") as lock:
            assert json.loads(lock.path.read_text()) == this_process()._asdict()
        assert list(tmp_path.iterdir()) == []


def test_a_second_run_says_who_holds_it(tmp_path: Path) -> None:
    process = holder(tmp_path / "out")
    try:
        with pytest.raises(OutputError) as caught, FolderLock(tmp_path / "out"):
            pytest.fail("both hold it")
        told = str(caught.value)
        assert f"is being written by process {process.pid} on {socket.gethostname()}" in told
        assert "wait for it, end it, or choose another output_dir" in told
        with FolderLock(tmp_path / "other"):
            pass
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def test_a_dead_owners_lock_is_taken_over(tmp_path: Path) -> None:
    process = holder(tmp_path / "out")
    process.kill()
    process.wait(10)
    assert (tmp_path / ".out.lock").is_file()
    with FolderLock(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with (
        FolderLock(tmp_path / "out"),
        pytest.raises(OutputError, match=f"by process {os.getpid()} on"),
        FolderLock(tmp_path / "out"),
    ):
        pytest.fail("held twice")


def test_a_process_with_the_number_of_a_dead_one_is_not_the_owner(tmp_path: Path) -> None:
    old = this_process()._replace(started=this_process().started - 3600)
    assert not old.is_alive
    assert this_process().is_alive
    (tmp_path / ".out.lock").write_text(json.dumps(old._asdict()))
    with FolderLock(tmp_path / "out"):
        pass


@pytest.mark.parametrize("age", [10.0, locks.DEAD + 60])
def test_another_host_lives_as_long_as_it_touches_its_lock(tmp_path: Path, age: float) -> None:
    """On a disk that is shared, where flock does not reach the other host."""
    file = tmp_path / ".out.lock"
    file.write_text(json.dumps(Owner(1, "elsewhere", 0.0)._asdict()))
    then = time.time() - age
    os.utime(file, (then, then))
    if age < locks.DEAD:
        message = "by process 1 on elsewhere, .*wait 5 minutes, or delete '.*/.out.lock'"
        with pytest.raises(OutputError, match=message), FolderLock(tmp_path / "out"):
            pytest.fail("taken from a living owner")
    else:
        with FolderLock(tmp_path / "out"):
            pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_lock_without_an_owner_is_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / ".out.lock").write_text(content)
    with FolderLock(tmp_path / "out"):
        pass


def test_without_locks_of_the_system_the_content_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder(tmp_path / "out")
    monkeypatch.setattr(locks, "fcntl", None)
    try:
        with pytest.raises(OutputError, match=f"by process {process.pid}"):
            FolderLock(tmp_path / "out").__enter__()
    finally:
        process.kill()
        process.wait(10)
    with FolderLock(tmp_path / "out"):
        pass


def test_an_owner_that_has_not_written_its_name_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    file = tmp_path / ".out.lock"
    names: list[Owner | None] = [None, None, Owner(7, "here", 0.0)]
    monkeypatch.setattr(locks, "_read", lambda descriptor: names.pop(0) if names else None)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="is being written by process 7 on here"):
            FolderLock(tmp_path / "out").__enter__()
        monkeypatch.setattr(locks, "MOST_UNNAMED", 1)
        with pytest.raises(OutputError, match="is being written by another run"):
            FolderLock(tmp_path / "out").__enter__()
