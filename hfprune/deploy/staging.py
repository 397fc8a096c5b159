"""Files built in a temporary folder and moved into place when all of them are right."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfprune.core.errors import ExportError
from hfprune.deploy.files import MODEL_FILE, MOST_WEIGHT_BYTES, UNTOUCHED


def save_graph(proto: Any, path: Path) -> None:
    """Save a graph in one file, or with its weights beside it where protobuf's 2 GB are too few."""
    import onnx

    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    big = weights > MOST_WEIGHT_BYTES
    onnx.save(
        proto,
        str(path),
        save_as_external_data=big,
        location=f"{path.name}_data" if big else None,
    )


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield an empty directory whose files replace those of ``target`` if the block succeeds."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that moving is renaming.
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ExportError(f"cannot write to {target.parent}: {error}") from error
    try:
        yield staging
        try:
            _install(staging, target)
        except OSError as error:
            raise ExportError(
                f"cannot move the export to {target}: {error}. {UNTOUCHED}"
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _install(staging: Path, target: Path) -> None:
    """Move all files of ``staging`` to ``target``; on any error put the earlier ones back."""
    files = sorted(
        (path.relative_to(staging) for path in staging.rglob("*") if path.is_file()),
        key=lambda path: path.suffix == ".onnx",  # graphs last: where one is, its files are
    )
    stale = [
        Path(name)
        for path in files
        if path.suffix == ".onnx"
        for name in (f"{path}_data", f"{path}.data")
        if Path(name) not in files and (target / name).is_file()
    ]
    made = not target.exists()
    backup = staging / ".earlier"
    done: list[Path] = []
    try:
        for name in [*files, *stale]:
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_file():
                (backup / name).parent.mkdir(parents=True, exist_ok=True)
                _link(place, backup / name)
            done.append(name)
            if name in stale:  # weights of the graph that goes
                place.unlink()
            else:
                os.replace(staging / name, place)
    except BaseException:
        for name in done:
            if (backup / name).is_file():
                os.replace(backup / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)
        if made:
            shutil.rmtree(target, ignore_errors=True)
        raise


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # a file system without hard links
        shutil.copy2(source, destination)


def copy_of_export(onnx_dir: Path, target: Path) -> Path:
    """A folder with the float graph, its weights and its config, linked where that is possible."""
    target.mkdir(parents=True)
    for name in (MODEL_FILE, f"{MODEL_FILE}_data", f"{MODEL_FILE}.data", "config.json"):
        if (onnx_dir / name).is_file():
            _link(onnx_dir / name, target / name)
    return target


def data_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, if any."""
    return [p for p in (Path(f"{path}_data"), Path(f"{path}.data")) if p.is_file()]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence what tracers and quantizers say on their way; their errors still come through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        # torch.onnx reports its steps on the standard output.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
