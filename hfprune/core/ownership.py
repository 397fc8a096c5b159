"""What hfprune made, and may therefore delete: folders with its marker, and files by name.

A run works in ``<output>.work``, which holds :data:`MARKER` from its first moment, and writes its
output whole. Nothing is ever deleted that holds anything else.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from hfprune.core.errors import OutputError
from hfprune.core.files import atomic_write_json

MARKER: Final = ".hfprune.json"
# Longest name of a file that all usual file systems allow, in bytes.
MOST_NAME: Final = 255
# What is put before and after the name of an output folder while it is written.
ROOM: Final = len("..lock.") + 20

# Files that tokenizers and image processors of transformers save.
TOKENIZER_FILES: Final = frozenset(
    {
        "added_tokens.json",
        "bpe.codes",
        "merges.txt",
        "preprocessor_config.json",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)

# What a sentence encoder, or a CrossEncoder, holds besides a model of transformers, by path.
MODULES_OF_ENCODERS: Final = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "[1-9]_Pooling/config.json",
    "[1-9]_Dense/config.json",
    "[1-9]_Dense/model.safetensors",
    "[1-9]_Dense/pytorch_model.bin",
)

# What a finished run, and the commands that add to one, may have written, by path.
OURS: Final = (
    MARKER,
    ".gitattributes",
    "README.md",
    "config.json",
    "configuration_*.py",
    "modeling_*.py",
    "model*.safetensors",
    "model.safetensors.index.json",
    "generation_config.json",
    "plan.json",
    "recipe.yaml",
    "metrics.json",
    "details.json",
    "deploy.json",
    "cascade.json",
    "report.html",
    "figures/*.png",
    "onnx/*",
    "openvino/*",
    "sentence-encoder/*",
    *MODULES_OF_ENCODERS,
    *sorted(TOKENIZER_FILES),
    "chat_template.jinja",
)


def mark(folder: Path, **facts: str) -> None:
    """Write the marker into a folder that hfprune has just made."""
    atomic_write_json(folder / MARKER, {"made_by": "hfprune", **facts})


def is_marked(folder: Path) -> bool:
    """Whether a folder is ours by its marker; a link to one is not."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    ours = isinstance(found, dict) and found.get("made_by") == "hfprune"
    return ours and not folder.is_symlink()


def make_marked(folder: Path, **facts: str) -> None:
    """Make a folder that has its marker from the first moment.

    Raises:
        OutputError: it cannot be made.
    """
    new = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        new.mkdir(parents=True)
        mark(new, **facts)
        new.rename(folder)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise OutputError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error


def require_ours(folder: Path, what: str) -> None:
    """Refuse a folder that a run would have to delete, unless it carries the marker.

    Args:
        folder: it need not be there.
        what: what hfprune would use the name for.

    Raises:
        OutputError: something is there that hfprune did not make.
    """
    if os.path.lexists(folder) and not is_marked(folder):
        raise OutputError(
            f"{str(folder)!r} is there and was not made by this version of hfprune, which needs "
            f"the name for {what}: move it away, or choose another output_dir"
        )


def remove_marked(folder: Path) -> None:
    """Delete a folder that carries the marker; anything else stays. The marker goes last."""
    if not is_marked(folder):
        return
    for entry in folder.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def require_replaceable(output: Path) -> None:
    """Refuse to replace an output folder unless all that it holds was written by hfprune.

    Raises:
        OutputError: it holds no results of hfprune, or something else besides.
    """
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (is_marked(output) or _holds_results(output)):
        raise OutputError(
            f"{str(output)!r} is not empty and holds no results of hfprune, so it will not be "
            "replaced: choose another output_dir"
        )
    if foreign := foreign_files(output):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise OutputError(
            f"{str(output)!r} holds what hfprune did not write ({', '.join(foreign[:3])}{more}), "
            "which would be deleted: move it away, or choose another output_dir"
        )


def foreign_files(output: Path) -> list[str]:
    """Paths in an output folder that no run and no command of hfprune writes, sorted."""
    members = {path.parent.name for path in output.glob("*/metrics.json")}
    found = []
    for folder, names, files in os.walk(output):
        place = Path(folder).relative_to(output)
        found += [
            (place / name).as_posix()
            for name in names
            if name == ".git" or (Path(folder) / name).is_symlink()
        ]
        names[:] = [name for name in names if name != ".git"]
        parts = place.parts[1:] if place.parts and place.parts[0] in members else place.parts
        for name in files:
            path = "/".join((*parts, name))
            if not any(fnmatch(path, pattern) for pattern in OURS):
                found.append((place / name).as_posix())
    return sorted(found)


def check_name(output: Path) -> None:
    """Refuse names that cannot be an output folder's: none at all, and too long ones.

    Raises:
        OutputError: says which and why.
    """
    shown = os.fspath(output)
    name = Path(os.path.realpath(output)).name if shown else ""
    if not name or shown in (".", ".."):
        raise OutputError(
            f"output_dir {shown!r} is no folder of its own: give a name, such as runs/my-model"
        )
    if (size := len(os.fsencode(name))) > MOST_NAME - ROOM:
        raise OutputError(
            f"output_dir {name[:40]!r}... has a name of {size} bytes; with the work folder's "
            f"ending at most {MOST_NAME - ROOM} can be used: choose a shorter one"
        )


def check_apart(output: Path, inputs: Mapping[str, str | None], others: Iterable[Path]) -> None:
    """Refuse an output that would be written over what is read, compared by real paths.

    Args:
        output: the output folder.
        inputs: by the key of the recipe that names it, a path, or anything else.
        others: further folders that a run deletes.

    Raises:
        OutputError: an input is the output or lies in it, links followed.
    """
    places = [Path(os.path.realpath(place)) for place in (output, *others)]
    for key, value in inputs.items():
        if value is None or not _may_be_path(value):
            continue
        real = Path(os.path.realpath(value))
        for place in places:
            if os.path.exists(real) and (real == place or place in real.parents):
                raise OutputError(
                    f"{key} {value!r} lies in {str(place)!r}, which the run replaces: choose an "
                    "output_dir outside of what it reads"
                )


def _may_be_path(value: str) -> bool:
    return "\0" not in value and not re.match(r"[a-z]+://", value)


def _holds_results(output: Path) -> bool:
    try:
        found = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"format_version", "recipe_sha256"} <= found.keys()
