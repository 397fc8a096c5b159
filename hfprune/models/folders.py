"""Where in a folder the model lies, and what is a folder at all: a path, or a name on the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from hfprune.core.errors import CheckpointError, DataError
from hfprune.core.reading import pointer_problem, read_json
from hfprune.core.text import one_line

_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_WEIGHTS = ("*.safetensors", "*.bin")

# What a tokenizer can be made of; a folder with none of them has none.
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
    "bpe.codes",
)
_FLOATS = ("F16", "BF16", "F32", "F64")


def looks_like_path(name: str) -> bool:
    """Whether a name can only be meant as a path here: the Hub is then not asked for it.

    So are names that the Hub does not allow, and ``runs/reviews`` where there is a folder ``runs``.
    """
    if _HUB_NAME.fullmatch(name) is None or name.endswith((".safetensors", ".onnx", ".bin")):
        return True
    owner, slash, _ = name.partition("/")
    return bool(slash) and os.path.isdir(owner)


def check_place(name: str) -> None:
    """Refuse a path that is not there, at once.

    Raises:
        CheckpointError: saying that it was taken for a path.
    """
    try:
        if Path(name).is_dir() or not looks_like_path(name):
            return
        is_file = Path(name).is_file()
    except (OSError, ValueError) as error:  # too long, a null character
        raise CheckpointError(f"there is no folder of that name: {one_line(str(error))}") from error
    if is_file:
        raise CheckpointError("it is a file; give the folder that holds it")
    near = next((path for path in Path(name).parents if path.is_dir()), Path("."))
    where = f" ({near} is there)" if str(near) not in (".", "/") else ""
    raise CheckpointError(
        f"there is no such folder here{where}. It was taken for a path and not looked for on the "
        "Hub, where names look like owner/name"
    )


def model_folder(name: str) -> str:
    """Where in a folder transformers finds the model.

    A folder of sentence-transformers may hold it below, as the first module of ``modules.json``.
    Anything else (a plain folder, a name on the Hub) comes back as it is.
    """
    listed = Path(name) / "modules.json"
    if (Path(name) / "config.json").is_file() or not listed.is_file():
        return name
    try:
        first = read_json(listed, DataError)[0]["path"]
        return str(inside(Path(name), first))
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{listed} does not name the modules of a sentence encoder: {error!r:.200}"
        ) from error


def module_folders(name: str) -> list[Path]:
    """The folder and those of the modules that its ``modules.json`` lists, as far as there are any.

    What is listed wrongly is left to whoever reads the modules.
    """
    root, found = Path(name), [Path(name)]
    listed = root / "modules.json"
    modules = read_json(listed) if listed.is_file() else []
    for entry in modules if isinstance(modules, list) else []:
        try:
            place = inside(root, entry["path"])
        except (ValueError, LookupError, TypeError):
            continue
        if place.is_dir() and place not in found:
            found.append(place)
    return found


def inside(folder: Path, path: object) -> Path:
    """A path below a folder, as a file in it names it.

    Raises:
        ValueError: it is no text, or leads out of the folder.
    """
    if not isinstance(path, str):
        raise ValueError(f"a path must be text, got {path!r:.80}")
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in path or "\0" in path:
        raise ValueError(f"the path {path!r:.80} leads out of the folder")
    return folder / path


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds any file that a tokenizer is made of."""
    return any((Path(folder) / name).is_file() for name in _VOCABULARIES)


def check_files(folder: str | Path) -> None:
    """Refuse weights that are not what they seem, before anything is loaded from a folder.

    Raises:
        CheckpointError: a file is the pointer that git leaves without git-lfs, is damaged, or holds
            weights of whole numbers or truth values, which would be turned into floats unasked.
    """
    place = Path(folder)
    if not place.is_dir():
        return  # a name on the Hub
    for path in sorted(path for pattern in _WEIGHTS for path in place.glob(pattern)):
        if (pointer := pointer_problem(path)) is not None:
            raise CheckpointError(f"{path} cannot be read: {pointer}")
        if path.suffix == ".safetensors":
            _check_dtypes(path)


def _check_dtypes(path: Path) -> None:
    wrong = []
    try:
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():
                kind = opened.get_slice(name).get_dtype()
                if name.endswith((".weight", ".bias")) and kind not in _FLOATS:
                    wrong.append(f"{one_line(name, 80)} ({kind})")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cannot be read: {one_line(str(error), 200)}; check that all "
            "files are whole"
        ) from error
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{path} holds weights that are no floating-point numbers of 16 bits or more: "
            f"{', '.join(wrong[:3])}{more}; quantized weights cannot be pruned, start from the "
            "model before it was quantized"
        )
