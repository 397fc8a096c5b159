"""Telling a full disk and exhausted memory from bugs, whatever class a library raises for them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

# Less than this left means that a file system is full: what was being written is gone by then.
_NEARLY_NOTHING = 2**20

# What libraries that write from C++ or Rust say: only the text of their errors tells.
_FULL_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "os error 28",
    "os error 122",
)
_TOO_LARGE_TEXTS = ("File too large", "os error 27", "Maximum file size exceeded")
# torch.save, which does not pass the reason on.
_UNWRITTEN_TEXTS = ("PytorchStreamWriter failed writing", "inline_container.cc")
_MEMORY_TEXTS = (
    "out of memory",  # CUDA, HIP, XPU, MPS
    "OutOfMemory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # PyTorch on the CPU
    "not enough memory",  # PyTorch on the CPU, Windows
    "alloc_cpu.cpp",
    "Cannot allocate memory",
    "os error 12)",  # Rust
    "unable to mmap",
    "Failed to allocate memory",  # ONNX Runtime
    "could not create a memory object",  # oneDNN
    "could not allocate",
    "std::bad_alloc",
    "bad allocation",
    "Unable to allocate",  # NumPy
    "insufficient shared memory",  # of workers that load data
)
# oneDNN; with "descriptor" it is an operation that it cannot do, whatever the memory.
_NO_PRIMITIVE = re.compile(r"could not create a primitive(?! descriptor)")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that no space is left on a disk.

    A limit on the size of files (:func:`is_file_too_large`) is none.
    """
    return any(
        (isinstance(one, OSError) and one.errno in NO_SPACE) or _says(one, _FULL_TEXTS)
        for one in _chain(error)
    ) or (_unwritten(error) and not file_size_limit())


def is_file_too_large(error: BaseException) -> bool:
    """Whether an error says that a file may not grow further (``ulimit -f``, the file system)."""
    return any(
        (isinstance(one, OSError) and one.errno == errno.EFBIG) or _says(one, _TOO_LARGE_TEXTS)
        for one in _chain(error)
    ) or (_unwritten(error) and bool(file_size_limit()) and not is_disk_full(error))


def file_size_limit() -> int:
    """Bytes that a file of this process may have (``RLIMIT_FSIZE``); 0: no limit is set."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return 0 if soft == resource.RLIM_INFINITY else soft


def why_not_written(
    error: BaseException, place: str | os.PathLike[str] | None = None
) -> str | None:
    """Why something could not be written and what to do; ``None``: not for want of space or size.

    Args:
        error: what was raised.
        place: the folder that was being filled: if it is the folder for temporary files that is
            full, that one is named. ``None``: what was written is known.
    """
    if is_file_too_large(error):
        limit = file_size_limit()
        most = f" (this process may write {limit:,} bytes a file)" if limit else ""
        return (
            f"the file would grow beyond the largest that is allowed{most}: raise the limit "
            "(ulimit -f unlimited), or write to another file system"
        )
    if not is_disk_full(error):
        return None
    temporary = None if place is None else full_temporary_folder(error, place)
    if temporary is not None:
        return (
            f"the disk is full: no space for temporary files in {temporary}; free some, or set "
            "TMPDIR to a folder with more"
        )
    return "the disk is full; free some space"


def full_temporary_folder(error: BaseException, place: str | os.PathLike[str]) -> str | None:
    """The folder for temporary files, if that is what is full, and ``place`` is on another disk."""
    try:
        folder = Path(os.path.realpath(tempfile.gettempdir()))
    except FileNotFoundError:  # none of the usual ones can be written
        return os.environ.get("TMPDIR", "the usual places")
    target = Path(os.path.realpath(place))
    if target.is_relative_to(folder):
        return None
    for one in _chain(error):
        name = getattr(one, "filename", None)
        if isinstance(name, str | os.PathLike) and os.fspath(name):
            return str(folder) if Path(os.path.realpath(name)).is_relative_to(folder) else None
    there = next(path for path in (target, *target.parents) if path.exists())
    if _free(folder) < _NEARLY_NOTHING <= _free(there):
        return str(folder)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that memory (of any device) ran out."""
    return any(
        isinstance(one, MemoryError)
        or type(one).__name__ == "OutOfMemoryError"
        or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
        or (
            (
                isinstance(one, RuntimeError | ValueError | OSError)
                or _is_safetensors(one)
                or type(one).__module__.startswith("onnxruntime")
            )
            and _tells_of_memory(str(one))
        )
        for one in _chain(error)
    )


def _tells_of_memory(text: str) -> bool:
    return any(one in text for one in _MEMORY_TEXTS) or bool(_NO_PRIMITIVE.search(text))


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return _NEARLY_NOTHING


def _says(error: BaseException, texts: tuple[str, ...]) -> bool:
    # shutil.Error: copytree collects what went wrong as texts.
    kinds = (RuntimeError, shutil.Error)
    return (isinstance(error, kinds) or _is_safetensors(error)) and any(
        text in str(error) for text in texts
    )


def _unwritten(error: BaseException) -> bool:
    return any(_says(one, _UNWRITTEN_TEXTS) for one in _chain(error))


def _is_safetensors(error: BaseException) -> bool:
    return type(error).__name__ == "SafetensorError"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
