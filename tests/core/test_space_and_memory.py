"""Disks, limits and memory: who says what, and what is made of it."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hfprune.core import faults
from hfprune.core.errors import OutputError
from hfprune.core.faults import (
    file_size_limit,
    is_disk_full,
    is_file_too_large,
    is_out_of_memory,
    why_not_written,
)
from hfprune.core.files import atomic_directory, cache_folder, follow_umask, keep_in_cache
from hfprune.core.machine import memory_bytes
from hfprune.core.memory import held_bytes, release_memory

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] err == 0. DefaultCPUAllocator: x"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cudaErrorMemoryAllocation"),
        RuntimeError("unable to mmap 123 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("DataLoader worker (pid 3) is killed: insufficient shared memory (shm)"),
        SafetensorError("I/O error: Cannot allocate memory (os error 12)"),
        MemoryError("Unable to allocate 7.45 GiB for an array"),
        ValueError("bad allocation"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_memory_that_ran_out_is_known_by_many_words(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert not is_disk_full(error)
    outer = KeyError("in the end")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyError("memory"),
        OSError(errno.EFBIG, "File too large"),
    ],
)
def test_what_is_no_want_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
        shutil.Error([("a", "b", "[Errno 27] File too large")]),
    ],
    ids=["system", "safetensors", "shutil"],
)
def test_a_limit_on_files_is_no_full_disk(error: BaseException) -> None:
    assert is_file_too_large(error)
    assert not is_disk_full(error)
    said = why_not_written(error)
    assert said is not None
    assert "ulimit -f" in said
    assert "disk is full" not in said


def test_what_torch_says_of_both_is_told_apart_by_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert is_disk_full(error)
    assert not is_file_too_large(error)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, 1000))
    assert file_size_limit() == 1000
    assert is_file_too_large(error)
    assert not is_disk_full(error)
    assert "1,000 bytes a file" in str(why_not_written(error))


PROGRAM = """
import resource, signal, sys
import torch
from safetensors.torch import save_file
from hfprune.core.errors import OutputError
from hfprune.core.files import atomic_directory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with atomic_directory(sys.argv[1]) as folder:
        if sys.argv[2] == "torch":
            torch.save(torch.zeros(100_000), folder / "x.bin")
        elif sys.argv[2] == "safetensors":
            save_file({"a": torch.zeros(100_000)}, folder / "x.safetensors")
        else:
            (folder / "x").write_bytes(bytes(100_000))
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("library", ["python", "safetensors", "torch"])
def test_a_real_limit_is_named(library: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "out"), library],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "the file would grow beyond the largest that is allowed" in done.stdout, done.stderr
    assert "this process may write 20,000 bytes a file" in done.stdout
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.iterdir())


def test_a_full_folder_for_temporary_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, target = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    named = OSError(errno.ENOSPC, "No space left on device", str(temporary / "x" / "y.onnx"))
    assert f"no space for temporary files in {temporary}" in str(why_not_written(named, target))
    other = OSError(errno.ENOSPC, "No space left on device", str(target / "y"))
    assert why_not_written(other, target) == "the disk is full; free some space"
    # Libraries that do not say which file: the disk that has nothing left.
    silent = RuntimeError("Error: No space left on device")
    free = {str(temporary): 1000, str(tmp_path): 2**40}
    monkeypatch.setattr(faults, "_free", lambda folder: free[str(folder)])
    assert str(temporary) in str(why_not_written(silent, target))
    free[str(temporary)] = 2**40
    assert why_not_written(silent, target) == "the disk is full; free some space"
    # What is below the folder for temporary files is full itself.
    assert why_not_written(named, temporary / "out") == "the disk is full; free some space"


@pytest.mark.parametrize(
    ("mask", "files", "folders"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_files_follow_the_umask(mask: int, files: int, folders: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with atomic_directory(tmp_path / "out") as folder:
            save_file({"a": torch.zeros(3)}, folder / "model.safetensors")
            (folder / "model.safetensors").chmod(0o600)  # as some versions of safetensors leave it
            (folder / "run.sh").write_text("x")
            (folder / "run.sh").chmod(0o700)
            (folder / "onnx").mkdir(mode=0o700)
            (folder / "onnx" / "model.onnx").write_text("x")
            (folder / "onnx" / "model.onnx").chmod(0o600)
            (folder / "link").symlink_to("/etc/hostname")
    finally:
        os.umask(before)

    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / "out" / name).lstat().st_mode)

    assert mode("model.safetensors") == mode("onnx/model.onnx") == files
    assert mode("onnx") == mode("") == folders
    assert mode("run.sh") == files | 0o100 | (0o700 & ~mask & 0o700)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors", "run.sh", "onnx", "link",
    }  # fmt: skip


def test_what_was_made_unreadable_stays_so(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    follow_umask(tmp_path)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0


def test_a_cache_that_cannot_be_written_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert keep_in_cache(tmp_path / "a" / "b", b"x")
    assert (tmp_path / "a" / "b").read_bytes() == b"x"
    (tmp_path / "file").write_text("no folder")
    assert not keep_in_cache(tmp_path / "file" / "b", b"x")
    (said,) = caplog.messages
    assert "not kept for later runs" in said
    assert "set XDG_CACHE_HOME to a folder that can be written" in said


def test_a_full_disk_in_a_block_names_the_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="the disk is full; free some space and run again"),
        atomic_directory(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_memory_is_that_of_the_machine_or_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "less").write_text("1048576\n")
    for name, wanted in (("max", whole), ("less", 1048576), ("absent", whole)):
        monkeypatch.setattr("hfprune.core.machine.CGROUP_LIMITS", (tmp_path / name,))
        memory_bytes.cache_clear()
        assert memory_bytes() == wanted
    memory_bytes.cache_clear()


def test_a_user_without_a_home_has_a_cache_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number: no HOME, no entry among the users."""

    def nobody(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder("latency").is_relative_to(tmp_path)


# -- memory that nothing refers to --------------------------------------------------------------


class _Ring:
    """Refers to itself, as a Trainer and its callbacks do."""

    def __init__(self) -> None:
        self.me, self.values = self, np.ones(30_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_memory_in_a_ring_is_given_back() -> None:
    gc.collect()
    gc.disable()
    try:
        before = held_bytes()
        ring = _Ring()
        seen = weakref.ref(ring)
        assert held_bytes() - before > 200e6
        del ring
        assert not release_memory(worth=1e15)
        assert seen() is not None, "below what it is worth nothing is looked for"
        assert release_memory(worth=0)
        assert seen() is None
        assert held_bytes() - before < 100e6
    finally:
        gc.enable()
