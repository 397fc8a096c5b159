"""Room on disk for what is too large to be held: a file without a name, read as a tensor."""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Of the free disk what is taken at most: checkpoints and results are still to be written.
SHARE = 0.5


def room_on_disk(size: int, folder: Path) -> Tensor | None:
    """Zeros in a file that goes with the tensor, however the process ends.

    The system keeps in memory what of it is in use and there is memory for.

    Args:
        size: bytes, even.
        folder: on the disk that the file shall lie on; made if need be.

    Returns:
        float16 ``(size / 2,)``, which may be written; ``None`` where that is more than half of
        the free disk, or no such file can be made, which is told.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if size > SHARE * shutil.disk_usage(folder).free:
            return None
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            held = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError) as error:
        logger.warning("no room on disk for the teacher's hidden states in %s: %s", folder, error)
        return None
    return torch.frombuffer(held, dtype=torch.float16)
