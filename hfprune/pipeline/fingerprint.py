"""What results follow from, as digests: the recipe, the rows, the model it starts from."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset

from hfprune.core.files import sha256_file
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.task_data import SPLITS, TaskData
from hfprune.models.folders import model_folder, module_folders
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.hub import HubConfig
from hfprune.recipe.sections.whole import Recipe

# Rows at a time; memory, not results, depends on it.
_ROWS = 1000


def digest_of(*values: Any) -> str:
    """SHA-256 of JSON values, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of what a recipe's results follow from: what may change on resuming is out.

    That is how the run is carried on and published, and how many rows are computed at a time as
    long as an optimizer step sees the same rows.
    """
    training = recipe.training
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    same = training.model_copy(
        update={
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": 1,
            "per_device_eval_batch_size": 1,
            "gradient_checkpointing": False,
        }
    )
    update = {
        "resume": False,
        "overwrite": False,
        "hub": HubConfig(),
        "training": same,
        "pruning": recipe.pruning.model_copy(update={"memory_gb": 1.0}),
    }
    return hashlib.sha256(dump_recipe(recipe.model_copy(update=update)).encode()).hexdigest()


class _Hashing(io.RawIOBase):
    """A file that keeps nothing but the digest of what is written to it."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._found.update(data)
        return len(data)


def data_digest(data: TaskData) -> str:
    """SHA-256 of all rows as a model reads them, their labels and the labels' names.

    Of images that lie in files of their own: path, size and time of the last change.
    """
    found = hashlib.sha256(json.dumps([data.label_names, data.task]).encode())
    for name in SPLITS:
        split = data.split(name)
        if IMAGE_COLUMN in split.column_names:
            _add_image_files(split, found)
        if len(split) == 0:
            found.update(b"empty")
            continue
        _add_rows(split, found)
    if data.unlabeled is not None:
        for texts in (data.unlabeled.texts, data.unlabeled.pairs or ()):
            for start in range(0, len(texts), _ROWS):
                found.update(json.dumps(texts[start : start + _ROWS]).encode())
    return found.hexdigest()


def rows_digest(rows: Dataset) -> str:
    """SHA-256 of all rows of a data set, and of its columns' names."""
    found = hashlib.sha256(json.dumps(rows.column_names).encode())
    _add_rows(rows, found)
    return found.hexdigest()


def _add_rows(split: Dataset, found: Any) -> None:
    arrow = split.with_format("arrow")
    for start in range(0, len(split), _ROWS):
        table = arrow[start : start + _ROWS]
        # Where chunks begin is of no account, so they are joined before they are written.
        plain = table.replace_schema_metadata(None).combine_chunks()
        with pa.ipc.new_stream(pa.PythonFile(_Hashing(found), "w"), plain.schema) as stream:
            stream.write_table(plain)


def _add_image_files(split: Any, found: Any) -> None:
    column = split.data.column(IMAGE_COLUMN)
    for chunk in column.chunks:
        for entry in chunk.to_pylist():
            path = entry.get("path") if isinstance(entry, dict) and not entry.get("bytes") else None
            if path is not None and Path(path).is_file():
                told = Path(path).stat()
                found.update(f"{told.st_size} {told.st_mtime_ns}".encode())


def model_digest(name: str | None, revision: str | None, *, modules: bool = False) -> str | None:
    """What a model to start from is: the content of its folder, or its name on the Hub.

    Args:
        name: of the model; ``None`` has no digest.
        revision: on the Hub.
        modules: whether what follows the transformer counts too (pooling, dense layers, prompts),
            as of a sentence encoder, whose embeddings are learned.
    """
    if name is None:
        return None
    folder = Path(model_folder(name))
    if not folder.is_dir():
        return digest_of(name, revision)
    found = _files_in(folder)
    for place in module_folders(name) if modules else ():
        below = place.relative_to(name).as_posix()
        found |= {f"{below}/{file}": digest for file, digest in _files_in(place).items()}
    return digest_of(found)


def _files_in(folder: Path) -> dict[str, str]:
    return {
        path.name: sha256_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".txt", ".model")
    }
