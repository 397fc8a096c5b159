"""What transformers and the Hub's client raise, as errors that speak of the recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import transformers

from hfprune.core.errors import CheckpointError, HFPruneError, UnsupportedModelError
from hfprune.core.faults import is_out_of_memory
from hfprune.core.text import one_line
from hfprune.pruning.surgery import CODE_MODULE, RECORD_KEY


def refuse_code(name: str, key: str, auto_map: Any) -> None:
    """Refuse a model or tokenizer whose config names Python code of its own.

    Raises:
        UnsupportedModelError: if ``auto_map`` holds anything.
    """
    if auto_map:
        raise UnsupportedModelError(
            f"{key} {name!r} brings Python code of its own (auto_map: {auto_map!r:.120}), which is "
            "not run unless the recipe says so: read that code, then set "
            "model.trust_remote_code: true, or name a model without it"
        )


def code_of(config: Any) -> Any:
    """The ``auto_map`` of a config, but for the file that hfprune wrote for those without it.

    A model with hfprune's record is built by that record, and no file of the folder is run.
    """
    auto_map = getattr(config, "auto_map", None)
    if not isinstance(auto_map, dict) or getattr(config, RECORD_KEY, None) is None:
        return auto_map
    ours = all(str(name).startswith(f"{CODE_MODULE}.") for name in auto_map.values())
    return None if ours else auto_map


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """Without transformers' own list of missing weights, which tells people to train the model."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


@contextlib.contextmanager
def explained(name: str, revision: str | None, key: str, trusted: bool) -> Iterator[None]:
    """Within it, whatever a library raises while it loads becomes one line about the recipe.

    Args:
        name: what is loaded.
        key: the recipe's key that names it.
        trusted: whether code that comes with it may run.

    Raises:
        HFPruneError: as raised within.
        UnsupportedModelError: transformers wants to run code and may not.
        CheckpointError: for all else but exhausted memory.
    """
    try:
        yield
    except HFPruneError:
        raise
    except Exception as error:
        text = str(error)
        if not trusted and "trust_remote_code" in text:
            refuse_code(name, key, "see its config.json")
        if is_out_of_memory(error):
            raise
        at = f" at revision {revision!r}" if revision is not None else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = one_line(" ".join(lines[:2]), 400)
        raise CheckpointError(
            f"{key} {name!r}{at} cannot be loaded: {type(error).__name__}: {said}. Check the name "
            "or path, the revision, that its files are whole, and (for the Hub) the network and "
            "access"
        ) from error


def find(name: str, key: str, look: Any) -> Any:
    """What ``look()`` gives; what it raises about a place is said with the key that names it.

    Raises:
        CheckpointError: ``... cannot be loaded: there is no such folder ...``
    """
    try:
        return look()
    except CheckpointError as error:
        shown = one_line(repr(name), 200)
        raise CheckpointError(f"{key} {shown} cannot be loaded: {error}") from error
