"""What the shell completes beyond commands and options: keys of recipes, and their values."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def complete_override(incomplete: str) -> list[str]:
    """Overrides that begin with what was typed: ``pruning.sp`` gives ``pruning.speedup=`` and more.

    After the ``=`` the values that a key names, ``true`` and ``false`` among them.
    """
    from pydantic import BaseModel

    from hfprune.recipe.sections.whole import Recipe

    def keys(section: type[BaseModel], before: str) -> Iterator[tuple[str, Any]]:
        for name, field in section.model_fields.items():
            yield f"{before}{name}", field.annotation
            for inner in _parts(field.annotation):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from keys(inner, f"{before}{name}.")

    known = dict(keys(Recipe, ""))
    key, equals, _ = incomplete.partition("=")
    if equals and key in known:
        found = [f"{key}={value}" for value in _values(known[key])]
    else:
        sections = {name.rpartition(".")[0] for name in known}
        found = [name if name in sections else f"{name}=" for name in known]
        found = [f"{name}." if name in sections else name for name in found]
        # One step at a time: sections first, then what is in them.
        depth = incomplete.count(".")
        found = [one for one in found if one.rstrip(".").count(".") == depth]
    return [one for one in found if one.startswith(incomplete)]


def _parts(annotation: Any) -> Iterator[Any]:
    """The types of a union, and what is annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _values(annotation: Any) -> Iterator[str]:
    for part in _parts(annotation):
        if get_origin(part) is Literal:
            yield from map(str, get_args(part))
        elif part is bool:
            yield from ("true", "false")
        elif part is type(None):
            yield "null"
