"""Writing that is whole or not at all: a reader never sees half a file or half a folder.

Everything is written beside its place first and then renamed into it, so an interrupted run, a
full disk or a crash leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfprune.core.errors import OutputError
from hfprune.core.faults import is_disk_full, is_file_too_large, why_not_written

logger = logging.getLogger(__name__)

_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all.

    Missing parent folders are made. A file already there is replaced in one step; where ``path``
    is a symbolic link, the file that it points to is replaced.

    Raises:
        OutputError: the file cannot be written. What was at ``path`` is then still there.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(
            f"cannot write {os.fspath(path)!r}: the text cannot be encoded as UTF-8 ({error})"
        ) from error
    atomic_write_bytes(path, data)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """As :func:`atomic_write_text`, of bytes."""
    target = _real(path)
    if target.is_dir():
        raise OutputError(f"cannot write {os.fspath(path)!r}: it is a folder, not a file")
    kept = "the file already there is unchanged" if target.exists() else "nothing was left behind"
    temporary = target.parent / f".hfprune-{secrets.token_hex(4)}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # O_EXCL: never follow or reuse something that another process put there.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(_explain(f"write {os.fspath(path)!r}", error, kept)) from error
    _sync_folder(target.parent)


def atomic_write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` to ``path`` as indented JSON, whole or not at all.

    Raises:
        OutputError: the file cannot be written, or ``obj`` is not JSON (NaN and infinity, which
            most JSON readers refuse, included).
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(
            f"cannot write {os.fspath(path)!r}: the value is not JSON ({error})"
        ) from error
    atomic_write_text(path, text + "\n")


@contextlib.contextmanager
def atomic_directory(target: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Fill a folder beside ``target`` and rename it to ``target`` when the block ends well.

    >>> with atomic_directory("runs/demo") as folder:  # doctest: +SKIP
    ...     (folder / "config.json").write_text("{}")

    Whatever wrote them, files and folders get the permissions that this process gives new ones
    (its umask): some libraries write files that only their owner may read, and a server under
    another user could not load the result.

    When the block raises, what it wrote is removed and ``target`` stays as it was. With
    ``overwrite`` a folder already there is moved aside, the new one moved in, the old one deleted;
    there is no moment at which neither is on the disk.

    Yields:
        The folder to write in; its path is not ``target``, so nothing in it should record it.

    Raises:
        OutputError: ``target`` is a file, or a folder that is not empty (without ``overwrite``),
            or cannot be written; a full disk inside the block is reported the same way.
    """
    check_output_dir(target, overwrite)
    shown = os.fspath(target)
    place = _real(target)
    temporary = _sibling(place, "tmp")
    kept = f"{shown!r} is unchanged" if place.exists() else "nothing was left behind"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise OutputError(_explain(f"make a folder beside {shown!r}", error, kept)) from error

    try:
        yield temporary
        follow_umask(temporary)
        _sync_tree(temporary)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        ours = not isinstance(error, Exception) or isinstance(error, OutputError)
        if not ours and (is_disk_full(error) or is_file_too_large(error)):
            raise OutputError(_explain(f"write {shown!r}", error, kept, place)) from error
        raise

    if not overwrite and _is_full(place):
        # Appeared while the block ran. The work may be hours long: keep it and say where it is.
        raise OutputError(
            f"{shown!r} was filled by something else meanwhile; the finished output is kept in "
            f"{str(temporary)!r}: move it to a free name"
        )
    old = _sibling(place, "old")
    moved = False
    try:
        if place.exists():
            os.rename(place, old)
            moved = True
        os.rename(temporary, place)
    except OSError as error:
        if moved:
            with contextlib.suppress(OSError):
                os.rename(old, place)
        if moved and not place.exists():
            kept = f"the old folder is kept in {str(old)!r}"
        raise OutputError(
            _explain(f"move the finished output to {shown!r}", error, kept)
            + f"; the finished output is kept in {str(temporary)!r}"
        ) from error
    _sync_folder(place.parent)
    if moved:
        try:
            shutil.rmtree(old)
        except OSError as error:
            warnings.warn(
                f"{shown!r} was written, but the folder that it replaced is left in "
                f"{str(old)!r} ({error.strerror}): delete it by hand",
                stacklevel=2,
            )


def remove_leftovers(target: str | os.PathLike[str]) -> None:
    """Delete what an :func:`atomic_directory` for this target left when its process was killed.

    Only for a target that no other process is writing. A folder moved aside (``overwrite``) stays
    where the target is missing: it may be the only copy.
    """
    place = _real(target)
    kinds = "tmp|old" if _is_full(place) else "tmp"
    name = re.escape(f".{place.name[:40]}.") + rf"[0-9a-f]{{8}}\.({kinds})"
    with contextlib.suppress(OSError):
        for entry in list(place.parent.iterdir()):
            if re.fullmatch(name, entry.name) and entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)


def check_output_dir(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuse early, before hours of work, an output folder that could not be written at the end.

    Changes nothing on the disk.

    Raises:
        OutputError: ``path`` is a file; a folder that is not empty, without ``overwrite``; with
            ``overwrite``, a folder too precious to replace (the working directory or a folder
            above it, the home directory); or lies where nothing can be written.
    """
    shown = os.fspath(path)
    if not shown:
        raise OutputError("the output folder has no name: give a path")
    place = _real(path)
    if os.path.lexists(place) and not place.is_dir():
        raise OutputError(f"cannot write the folder {shown!r}: a file has that name")
    if _is_full(place):
        if not overwrite:
            raise OutputError(
                f"{shown!r} is not empty: choose another output folder, or set overwrite to true "
                "to replace it"
            )
        here = Path(os.path.realpath(os.curdir))
        home = Path(os.path.realpath(os.path.expanduser("~")))
        if place in (here, *here.parents, home, *home.parents):
            raise OutputError(
                f"{shown!r} will not be overwritten: it is the working or home directory, or "
                "holds it; choose a folder of its own"
            )
    # The new folder is made beside the old one, so it is the parent that must be writable.
    parent = next(folder for folder in place.parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise OutputError(f"cannot write {shown!r}: {str(parent)!r} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write {shown!r}: no permission to write in {str(parent)!r}; choose another "
            "output folder"
        )


def cache_folder(kind: str) -> Path:
    """Where what was computed is kept for later runs: ``$XDG_CACHE_HOME/hfprune/<kind>``.

    Without that variable: ``~/.cache/hfprune/<kind>``; for a user without a home, as in containers
    that run under a number, among the temporary files. The folder need not exist.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:
            base = tempfile.gettempdir()
    return Path(base) / "hfprune" / kind


def keep_in_cache(path: str | os.PathLike[str], data: bytes) -> bool:
    """Write ``path``, whole or not at all, where it only saves work to a later run.

    Returns:
        Whether it was written. Where it cannot be (in containers the home folder is often
        read-only), a warning says so and nothing is raised.
    """
    try:
        atomic_write_bytes(path, data)
    except OutputError as error:
        logger.warning(
            "not kept for later runs: %s; set XDG_CACHE_HOME to a folder that can be written to "
            "keep it",
            error,
        )
        return False
    return True


def trim_cache(folder: str | os.PathLike[str], most: float) -> None:
    """Delete of a cache what was longest not used, until the rest has at most so many bytes.

    The newest file stays, whatever its size. What another process deletes meanwhile is no error.

    Args:
        folder: one of :func:`cache_folder`, which holds nothing but what can be made again.
        most: bytes.
    """
    found: list[tuple[float, int, Path]] = []
    with contextlib.suppress(OSError):
        for path in Path(folder).iterdir():
            with contextlib.suppress(OSError):
                told = path.stat()
                if stat.S_ISREG(told.st_mode) and not path.name.startswith("."):
                    found.append((told.st_mtime, told.st_size, path))
    held = 0
    for number, (_, size, path) in enumerate(sorted(found, reverse=True)):
        held += size
        if number and held > most:
            with contextlib.suppress(OSError):
                path.unlink()


def follow_umask(folder: str | os.PathLike[str], only: str = "*") -> None:
    """Give what lies in a folder the permissions that this process gives new files and folders.

    Only bits that are missing are added, and only to what its owner can read: what was made
    unreadable stays so. Links are not followed.

    Args:
        folder: its own permissions stay.
        only: a pattern of names; what does not fit it stays as it is.
    """
    probe = Path(folder) / f".hfprune-{secrets.token_hex(4)}.tmp"
    # os.umask can only be asked by setting it, which other threads would notice.
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    usual = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    searched = usual | (usual & 0o444) >> 2
    for root, folders, names in os.walk(folder):
        for name, wanted in [(n, searched) for n in folders] + [(n, usual) for n in names]:
            path = os.path.join(root, name)
            if os.path.islink(path) or not fnmatch.fnmatch(name, only):
                continue
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode & 0o400 and wanted & ~mode:
                with contextlib.suppress(OSError):  # another user's, linked into the folder
                    os.chmod(path, mode | wanted)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error


def _real(path: str | os.PathLike[str]) -> Path:
    """The absolute path without symbolic links, so that a rename never replaces a link."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise OutputError(f"{os.fspath(path)!r} is not a usable path: {error}") from error


def _sibling(place: Path, kind: str) -> Path:
    """A free hidden name in the same folder (hence the same file system) as ``place``."""
    return place.parent / f".{place.name[:40]}.{secrets.token_hex(4)}.{kind}"


def _is_full(place: Path) -> bool:
    """Whether ``place`` is a folder that holds something."""
    try:
        return place.is_dir() and any(place.iterdir())
    except OSError as error:
        raise OutputError(f"cannot look into {str(place)!r}: {error.strerror}") from error


def _explain(task: str, error: BaseException, kept: str, place: Path | None = None) -> str:
    number = error.errno if isinstance(error, OSError) else None
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    full = why_not_written(error, place)
    if full is not None:
        why = f"{full} and run again" if full.endswith("space") else full
    elif number in _NO_PERMISSION:
        why = f"no permission ({said}); choose another place or change its permissions"
    else:
        why = said
    return f"cannot {task}: {why}; {kept}"


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the system can."""
    # Windows cannot open a folder, and some network file systems refuse to sync one.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            file = os.path.join(root, name)
            if os.path.isfile(file) and not os.path.islink(file):
                _sync_file(file)
        _sync_folder(Path(root))


def _sync_file(file: str) -> None:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except PermissionError:
        return  # made unreadable on purpose by whoever wrote it
    try:
        os.fsync(descriptor)
    except OSError as error:
        # A full disk may show up only here. EBADF: Windows syncs no file opened for reading.
        if error.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(descriptor)
