"""Whether a folder is that of a CrossEncoder of sentence-transformers, by its small files alone.

Its ``config.json`` says nothing of what it does: by that alone it would be a classifier, or with
one output a regression, of single texts.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.kinds import TEXT
from hfprune.core.reading import read_json
from hfprune.core.tasks import Task
from hfprune.models.fetching import small_files
from hfprune.models.layout import LENGTH_FILE, MODULES, PROMPTS_FILE, cross_encoder_files, cut_at

# What it writes into config.json from 4 on, and before.
_MARKS = ("sentence_transformers", "sbert_ce_default_activation_function")


def is_cross_encoder(folder: str | Path) -> bool:
    """Whether a classifier's folder reads two texts together, as its small files say.

    Those are a ``modules.json`` that lists a transformer alone, or a mark in ``config.json``.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    return _config_of(Path(folder)) is not None


def ranks_by_its_files(folder: str | Path) -> bool:
    """Whether it is the folder of a CrossEncoder that gives one number a pair.

    Raises:
        CheckpointError: one of its small files cannot be read.
    """
    config = _config_of(Path(folder))
    return config is not None and len(config.get("id2label") or (0, 1)) == 1


def _config_of(root: Path) -> dict[str, Any] | None:
    """The config of a CrossEncoder's folder; ``None`` for others."""
    if not (root / "config.json").is_file():
        return None
    config = read_json(root / "config.json")
    if not isinstance(config, dict):
        return None
    heads = config.get("architectures")
    first = heads[0] if isinstance(heads, list) and heads else ""
    if not str(first).endswith(TEXT.ending):
        return None
    marked = any(mark in config for mark in _MARKS) or _lists_one(root / MODULES)
    return config if marked else None


def refuse_changed_texts(folder: str | Path) -> None:
    """Refuse a CrossEncoder that changes texts before its tokenizer reads them, unasked.

    It puts a prompt before its pairs, or all texts in small letters.

    Raises:
        CheckpointError: one of its small files cannot be read.
        UnsupportedModelError: it does: of the texts as they come its scores would be others.
    """
    root = Path(folder)
    file, lengths = root / PROMPTS_FILE, root / LENGTH_FILE
    if not (file.is_file() or lengths.is_file()) or not is_cross_encoder(folder):
        return
    # The file counts where modules are listed; before that a CrossEncoder had no such setting.
    said = read_json(lengths) if lengths.is_file() and _lists_one(root / MODULES) else None
    if isinstance(said, dict) and said.get("do_lower_case") is True and not _lowers(root):
        raise UnsupportedModelError(
            f"{lengths} puts all texts in small letters before the tokenizer reads them "
            "(do_lower_case), which no exported file would do: let the tokenizer do it "
            "(do_lower_case in tokenizer_config.json), and set that to false"
        )
    said = read_json(file) if file.is_file() else None
    prompts = said.get("prompts") if isinstance(said, dict) else None
    default = said.get("default_prompt_name") if isinstance(said, dict) else None
    prompt = prompts.get(default) if isinstance(prompts, dict) else None
    if prompt:
        raise UnsupportedModelError(
            f"{file} names the prompt {default!r}, {prompt!r:.80}, as what stands before all pairs "
            "(default_prompt_name); hfprune puts none before pairs: set default_prompt_name to "
            "null there, and write the prompt into the texts where the model needs it"
        )


def longest_pair(folder: str | Path) -> int | None:
    """The most tokens of a pair, where the modules of a CrossEncoder say it (``max_seq_length``).

    Raises:
        CheckpointError: one of its small files cannot be read.
    """
    file = Path(folder) / LENGTH_FILE
    if not file.is_file() or not is_cross_encoder(folder):
        return None
    said = read_json(file)
    wanted = said.get("max_seq_length") if isinstance(said, dict) else None
    return wanted if type(wanted) is int and wanted > 0 else None


def carry_along(model: Any, folder: str | Path, longest: int | None) -> None:
    """Write beside a saved reranker what made the folder that it came from a CrossEncoder's.

    From sentence-transformers 6 on its activation stands there and no longer in ``config.json``,
    which ``save_pretrained`` of transformers writes alone. Nothing is written for a model that
    came from elsewhere, or whose head is no longer that of one number.

    Args:
        model: of transformers, saved in ``folder``.
        longest: tokens at which its tokenizer cuts, which the modules must not exceed.
    """
    source = str(getattr(model, "name_or_path", "") or "")
    if not source or getattr(model.config, "num_labels", None) != 1:
        return
    root, place = small_files(source), Path(folder)
    # Files that were damaged meanwhile are no reason to lose what was trained.
    with contextlib.suppress(CheckpointError):
        if not ranks_by_its_files(root):
            return
        for name, file in cross_encoder_files(root).items():
            if not ((place / name).exists() and (place / name).samefile(file)):
                shutil.copyfile(file, place / name)
        if longest is not None:
            cut_at(place, longest)


def task_in(folder: str | Path, task: Task) -> Task:
    """What a model predicts by its config alone, or by what else its folder says.

    Args:
        folder: of the config.
        task: by the config; a regression of a CrossEncoder is no such thing.
    """
    return "reranking" if task == "regression" and is_cross_encoder(folder) else task


def _lowers(root: Path) -> bool:
    """Whether the tokenizer itself puts texts in small letters, so that doing it before is idle."""
    file = root / "tokenizer.json"
    found = read_json(file) if file.is_file() else None
    first = found.get("normalizer") if isinstance(found, dict) else None
    steps = (
        first.get("normalizers") if isinstance(first, dict) and "normalizers" in first else [first]
    )
    return any(
        step.get("type") == "Lowercase" or step.get("lowercase") is True
        for step in (steps if isinstance(steps, list) else [])
        if isinstance(step, dict)
    )


def _lists_one(file: Path) -> bool:
    found: Any = read_json(file) if file.is_file() else None
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        return False
    return str(found[0].get("type")).rpartition(".")[2] == "Transformer"
