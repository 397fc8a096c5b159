"""Telling a full disk and exhausted memory from bugs, whatever class a library raises for them."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

# What libraries that write from C++ or Rust say: only the text of their errors tells.
_FULL_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "os error 28",
    "PytorchStreamWriter failed writing",  # torch.save, which does not pass the reason on
    "inline_container.cc",
)
_MEMORY_TEXTS = (
    "out of memory",  # CUDA, HIP, XPU, MPS
    "can't allocate memory",  # PyTorch on the CPU
    "Cannot allocate memory",
    "Failed to allocate memory",  # ONNX Runtime
    "std::bad_alloc",
)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that nothing more can be written."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in NO_SPACE:
            return True
        # shutil.Error: copytree collects what went wrong as texts.
        if (isinstance(one, RuntimeError | shutil.Error) or _is_safetensors(one)) and any(
            text in str(one) for text in _FULL_TEXTS
        ):
            return True
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that memory (of any device) ran out."""
    return any(
        isinstance(one, MemoryError)
        or type(one).__name__ == "OutOfMemoryError"
        or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
        or (
            (
                isinstance(one, RuntimeError | ValueError)
                or type(one).__module__.startswith("onnxruntime")
            )
            and any(text in str(one) for text in _MEMORY_TEXTS)
        )
        for one in _chain(error)
    )


def _is_safetensors(error: BaseException) -> bool:
    return type(error).__name__ == "SafetensorError"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
