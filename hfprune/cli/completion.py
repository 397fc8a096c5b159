"""What the shell completes beyond commands and options: keys of recipes, and their values."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


def complete_word(ctx: typer.Context, incomplete: str) -> list[str]:
    """Overrides that begin with what was typed, whether or not the shell parts words at ``=``.

    bash does: of ``pruning.method=re`` it gives the words ``pruning.method``, ``=`` and ``re``, and
    wants what takes the place of the last. Where that is the ``=`` itself, nothing is incomplete.
    """
    before = [str(word) for word in ctx.params.get("overrides") or ()]
    if len(before) > 1 and before[-1] == "=":
        key = before[-2]
    elif before and not incomplete and "=" not in before[-1]:
        key = before[-1]
    else:
        return complete_override(incomplete)
    return [one.partition("=")[2] for one in complete_override(f"{key}={incomplete}")]


def complete_override(incomplete: str) -> list[str]:
    """Overrides that begin with what was typed: ``pruning.sp`` gives ``pruning.speedup=`` and more.

    After the ``=`` the values that a key names, ``true`` and ``false`` among them. Where one
    section or key is left, what may follow is given too, so that shells put no blank behind it.
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
    found = [one for one in found if one.startswith(incomplete)]
    if len(found) == 1 and found[0] != incomplete and found[0].endswith((".", "=")):
        more = complete_override(found[0])
        usual = [] if found[0].endswith(".") else _usual(Recipe, found[0][:-1])
        return [found[0], *(more if more != found else []), *(one for one in usual if not more)]
    return found


def _usual(section: type[BaseModel], key: str) -> list[str]:
    """An override that says what holds without it; nothing of keys that must be given."""
    name, dot, rest = key.partition(".")
    field = section.model_fields[name]
    if dot:
        inner = [one for one in _parts(field.annotation) if hasattr(one, "model_fields")]
        return [f"{name}.{one}" for one in _usual(inner[0], rest)] if inner else []
    if field.is_required() or isinstance(field.default, list):
        return []
    value = field.get_default(call_default_factory=True)
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return [f"{name}={value}"] if plain else [f"{name}=null"] if value is None else []


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
