"""Which checkpoint of a Trainer is whole, and what ours hold besides."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hfprune.core.errors import CheckpointError
from hfprune.pruning.importance import is_gradient_score
from hfprune.pruning.state import SCORES_NAME, STATE_NAME
from hfprune.recipe.sections.pruning import PruningConfig

# Weights as the Trainer writes them: whole or in shards, as safetensors or as torch.save does
# (save_safetensors=False), or those of adapters alone (one in the folder, several below it).
WEIGHTS = (
    "model*.safetensors",
    "pytorch_model*.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "*/adapter_model.safetensors",
    "*/adapter_model.bin",
)

# Written last of an optimizer's shards under FSDP.
SHARDS_LISTED = ".metadata"

# The state of a training, by the file that the Trainer writes; under FSDP an optimizer's is whole
# in a file of another name, or in shards.
STATES = {
    "optimizer.pt": ("optimizer.pt", "optimizer.bin", f"optimizer_0/{SHARDS_LISTED}"),
    "scheduler.pt": ("scheduler.pt",),
    "rng_state*.pth": ("rng_state*.pth",),
}


def checkpoint_files(pruning: PruningConfig) -> tuple[str, ...]:
    """What a checkpoint of a run that prunes holds besides the Trainer's own files."""
    return (STATE_NAME, SCORES_NAME) if is_gradient_score(pruning.score) else (STATE_NAME,)


def last_checkpoint(
    folder: str | Path,
    needed: Sequence[str] = (),
    tell: Callable[[str], object] | None = None,
) -> Path | None:
    """The newest whole checkpoint of a Trainer's output directory.

    A checkpoint that was being written or deleted when the process died (a file is missing or
    cannot be read) is passed over with a warning.

    Args:
        folder: the Trainer's ``output_dir``.
        needed: names of files that it must hold besides the Trainer's own; see
            :func:`checkpoint_files`.
        tell: is given the warnings, a line each; ``None``: those of Python.
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
        told = f"{path} is not whole and is passed over: {problem}"
        if tell is None:
            warnings.warn(told, stacklevel=2)
        else:
            tell(told)
    return None


def checkpoint_to_resume(folder: str | Path, needed: Sequence[str] = ()) -> Path | None:
    """As :func:`last_checkpoint`; ``None`` only where there is no checkpoint at all.

    One that lacks only what is ``needed`` comes back where there is no better: reading it says why.

    Raises:
        CheckpointError: if there are checkpoints, and none is whole.
    """
    found = last_checkpoint(folder, needed) or last_checkpoint(folder)
    if found is None and any(Path(folder).glob("checkpoint-*")):
        raise CheckpointError(
            f"none of the checkpoints in {folder} is whole, for the reasons given in the warnings: "
            "begin anew without resume_from_checkpoint, or name a checkpoint of another folder"
        )
    return found


def step_of(folder: Any) -> int:
    """How many steps a checkpoint comes after; 0 for what is none."""
    if not isinstance(folder, str | Path):
        return 0
    try:
        told = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
        return int(told["global_step"])
    except (OSError, ValueError, KeyError, TypeError):  # reading it says why
        return 0


def require_resumable(folder: Path, prunes: bool, shrunk: bool) -> None:
    """Refuse to go on from a checkpoint of a training that prunes where nothing is pruned.

    Its weights are those of the dense model, of which only the plan beside them says what counts.

    Args:
        folder: the checkpoint's.
        prunes: whether the training that begins prunes.
        shrunk: whether the model that is trained has been shrunk by this trainer.

    Raises:
        CheckpointError: saying what to do instead.
    """
    if prunes or not (folder / STATE_NAME).is_file():
        return
    if shrunk:
        raise CheckpointError(
            f"{folder} is of the dense model while it was pruned, and this trainer's model has "
            "been shrunk since: call train() without resume_from_checkpoint to train the small "
            "model further, or make a new HFPruneTrainer of the dense model to go on from there"
        )
    raise CheckpointError(
        f"{folder} is of a training that pruned, and this trainer has no pruning: pass the same "
        "pruning to go on from there, or start from the model that "
        f"hfprune.from_pretrained({str(folder)!r}) gives"
    )


def _damage(folder: Path, needed: Sequence[str]) -> str | None:
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        weights = [file for pattern in WEIGHTS for file in sorted(folder.glob(pattern))]
        tensors = [file for file in weights if file.suffix == ".safetensors"]
        for file in [*tensors, *(folder / n for n in needed if n.endswith(".safetensors"))]:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        missing = [name for name in needed if not (folder / name).is_file()]
        pickled = [file for file in weights if file.suffix == ".bin"]
        missing += [f"the end of {file.name}" for file in pickled if not zipfile.is_zipfile(file)]
        # The Trainer takes what is there of these, and starts the rest anew without a word. None
        # at all is what save_only_model leaves.
        states = {}
        for name, patterns in STATES.items():
            files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
            states[name] = bool(files)
            zips = [file for file in files if file.name != SHARDS_LISTED]
            missing += [f"the end of {file.name}" for file in zips if not zipfile.is_zipfile(file)]
        if any(states.values()):
            missing += [name for name, there in states.items() if not there]
        if missing:
            return f"it lacks {', '.join(missing)}"
        return None if weights else "it has no weights"
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
