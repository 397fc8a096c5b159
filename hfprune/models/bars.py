"""transformers 5 draws a bar for each model that it loads or saves; a run does so all the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from transformers.utils import logging

_HIDDEN: Final = ("Loading weights", "Writing model shards")


@contextmanager
def without_model_bars() -> Iterator[None]:
    """Hide these bars: a run tells what it does itself. Bars of downloads stay.

    transformers 4 draws none, and nothing is changed there.
    """
    set_hook = getattr(logging, "set_tqdm_hook", None)
    if set_hook is None:
        yield
        return
    previous: Any = None

    def hook(make: Callable[..., Any], given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        if named.get("desc") in _HIDDEN:
            named = {**named, "disable": True}
        return make(*given, **named) if previous is None else previous(make, given, named)

    previous = set_hook(hook)
    try:
        yield
    finally:
        set_hook(previous)
