"""Which checkpoint of a Trainer is whole, and what ours hold besides."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfprune.pruning.importance import is_gradient_score
from hfprune.pruning.state import SCORES_NAME, STATE_NAME
from hfprune.recipe.sections.pruning import PruningConfig


def checkpoint_files(pruning: PruningConfig) -> tuple[str, ...]:
    """What a checkpoint of a run that prunes holds besides the Trainer's own files."""
    return (STATE_NAME, SCORES_NAME) if is_gradient_score(pruning.score) else (STATE_NAME,)


def last_checkpoint(folder: str | Path, needed: Sequence[str] = ()) -> Path | None:
    """The newest whole checkpoint of a Trainer's output directory.

    A checkpoint that was being written or deleted when the process died (a file is missing or
    cannot be read) is passed over with a warning.

    Args:
        folder: the Trainer's ``output_dir``.
        needed: names of files that it must hold besides the Trainer's own; see
            :func:`checkpoint_files`.
    """
    found = [
        (int(match.group(1)), path)
        for path in Path(folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    for _, path in sorted(found, reverse=True):
        problem = _damage(path, needed)
        if problem is None:
            return path
        warnings.warn(f"{path} is not whole and is passed over: {problem}", stacklevel=2)
    return None


def _damage(folder: Path, needed: Sequence[str]) -> str | None:
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        weights = sorted(folder.glob("model*.safetensors"))
        for file in [*weights, *(folder / n for n in needed if n.endswith(".safetensors"))]:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        missing = [name for name in needed if not (folder / name).is_file()]
        # The Trainer takes what is there of these, and starts the rest anew without a word. None
        # at all is what save_only_model leaves.
        states = {"optimizer.pt": False, "scheduler.pt": False, "rng_state*.pth": False}
        for pattern in states:
            files = sorted(folder.glob(pattern))
            states[pattern] = bool(files)
            missing += [f"the end of {file.name}" for file in files if not zipfile.is_zipfile(file)]
        if any(states.values()):
            missing += [pattern for pattern, there in states.items() if not there]
        if missing:
            return f"it lacks {', '.join(missing)}"
        return None if weights else "it has no weights"
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
