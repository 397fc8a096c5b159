"""One run at a time on one output: a lock that dies with its owner.

The lock is a file beside what it guards, so that it outlives work and output folders. Its owner
holds it by ``flock``, which the system lets go of when the process ends, however it ends; pid, host
and start time in it tell a second run who the owner is. On a disk that several hosts share
``flock`` may not reach the others: there a touch of the file every half a minute says that the
owner lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from hfprune.core.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: there the file's content alone tells
    fcntl = None  # type: ignore[assignment]

SUFFIX: Final = ".lock"
# The owner touches its lock this often; one that was not touched for so long is dead, in seconds.
BEAT: Final = 30.0
DEAD: Final = 300.0
# Looks, a tenth of a second apart, at a lock whose owner has not written its name yet.
MOST_UNNAMED: Final = 20


class Owner(NamedTuple):
    """Who holds a lock; ``started`` is when the process began, in seconds since 1970."""

    pid: int
    host: str
    started: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, started {when}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the process exists on this host; another with its number does not count."""
        return self.is_here and abs((_start_of(self.pid) or 0.0) - self.started) < 2.0


def this_process() -> Owner:
    """The owner that this process would be."""
    return Owner(os.getpid(), socket.gethostname(), _start_of(os.getpid()) or time.time())


class FolderLock:
    """Held while a run works on an output folder.

    >>> with FolderLock(Path("runs/demo")):  # doctest: +SKIP
    ...     ...

    Raises (on entering):
        OutputError: another run holds it, and which; or the file cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}{SUFFIX}")
        self._descriptor: int | None = None
        self._unnamed = 0
        self._ended = threading.Event()

    def __enter__(self) -> FolderLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._descriptor is None:
                self._try()
        except OSError as error:
            raise OutputError(
                f"cannot write the lock {str(self.path)!r}: {error.strerror}; choose an output "
                "folder where files can be written"
            ) from error
        threading.Thread(target=self._beat, daemon=True, name="hfprune-lock").start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._ended.set()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()  # while it is held: nobody else can have it open as theirs
            os.close(descriptor)

    def _try(self) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _hold(descriptor):
                owner = _read(descriptor)
                if owner is None and self._unnamed < MOST_UNNAMED:
                    self._unnamed += 1  # its owner has only just taken it
                    time.sleep(0.1)
                    os.close(descriptor)
                    return
                raise self._busy(owner)
            if not self._is_in_place(descriptor):
                os.close(descriptor)  # its owner has just left and deleted it
                return
            earlier = _read(descriptor)
            if earlier is not None and self._lives(earlier):
                raise self._busy(earlier)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(this_process()._asdict()).encode(), 0)
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _lives(self, owner: Owner) -> bool:
        """Whether an owner lives although the system let us hold its file."""
        if owner.is_here:
            # With flock it would still hold it, but for the one process that holds it twice.
            return owner.is_alive and (fcntl is None or owner == this_process())
        now = time.time()
        with contextlib.suppress(OSError):  # by the clock of the disk, not by ours
            probe = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
        return now - self.path.stat().st_mtime < DEAD

    def _busy(self, owner: Owner | None) -> OutputError:
        who = "another run" if owner is None else str(owner)
        more = ""
        if owner is not None and not owner.is_here:
            more = (
                f"; if that process is gone, wait {DEAD / 60:.0f} minutes, or delete "
                f"{str(self.path)!r}"
            )
        return OutputError(
            f"{str(self.target)!r} is being written by {who}: wait for it, end it, or choose "
            f"another output_dir{more}"
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _hold(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a disk without such locks: the content tells
    return True


def _read(descriptor: int) -> Owner | None:
    try:
        found: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
        return Owner(int(found["pid"]), str(found["host"]), float(found["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _start_of(pid: int) -> float | None:
    """When a process of this host began, in seconds since 1970; ``None`` if there is none."""
    import psutil  # type: ignore[import-untyped]

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
