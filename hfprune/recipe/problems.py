"""All problems of a section's values at once, clashes among what is right alone included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from hfprune.recipe.places import Clashing, KeyPath, Problem, locate, section_in
from hfprune.recipe.wording import MOST_SHOWN, describe

# Of what Pydantic tells of a number that is out of bounds.
BOUNDS: Final = frozenset({"ge", "gt", "le", "lt"})


def problems_of(
    section: type[Clashing], values: Mapping[str, Any], error: ValidationError
) -> list[Problem]:
    """Every problem of ``values``, as a list that is never empty.

    Pydantic stops at the first kind of problem: clashes are looked for only among values that are
    right alone. So the wrong ones are set aside here, and the clashes of the rest added.
    """
    problems: dict[KeyPath, Problem] = {}
    looked_into: set[KeyPath] = set()
    blamed: set[KeyPath] = set()
    beyond: set[KeyPath] = set()
    try:
        section.model_validate(values)  # `values` may have more sections than `error` knew
    except ValidationError as again:
        error = again
    for detail in error.errors(include_url=False):
        if detail["type"] == "value_error":
            continue  # a clash; found again below, with its keys
        place = locate(section, detail["loc"])
        if (
            detail["type"] == "literal_error"
            and isinstance(detail["input"], Mapping)
            and section_in(place.annotation) is not None
        ):
            continue  # a section where a word would do too: its own problems say what is wrong
        blamed.add(place.key)
        # A value of several types gets an error from each: what is wrong inside a list says
        # more than "not a list", and that more than "not text".
        # A number out of bounds is no word misspelt, where a word would do too.
        if place.path in looked_into or (
            place.path in problems
            and (
                detail["type"].endswith("_type")
                or (detail["type"] == "literal_error" and place.path in beyond)
            )
        ):
            continue
        if BOUNDS & set(detail.get("ctx") or ()):
            beyond.add(place.path)
        if place.path != place.key:
            problems.pop(place.key, None)
            looked_into.add(place.key)
        # Finding near words takes time: no more of it than is shown.
        text = ""
        if len(problems) < MOST_SHOWN:
            text = describe(place, detail["type"], detail["input"], detail.get("ctx") or {})
        problems[place.path] = Problem(text, place.path, (place.path,))
    found = list(problems.values())
    for clash in _all_clashes(_salvage(section, values, (), blamed), ()):
        if not any(key[: len(bad)] == bad for key in clash.keys for bad in blamed):
            found.append(clash)
    return found or [Problem(str(error), (), ())]


def _all_clashes(section: Clashing, path: KeyPath) -> Iterator[Problem]:
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Clashing):
            yield from _all_clashes(inner, (*path, name))
    for clash in section._clashes():
        keys = tuple(tuple(key.split(".")) for key in clash.keys)
        shown = keys[0] if len(keys) == 1 else ()
        yield Problem(clash.text, shown, keys).under(path)


def _salvage(
    section: type[Clashing], values: Mapping[str, Any], path: KeyPath, blamed: set[KeyPath]
) -> Clashing:
    """The section with what is right in ``values``, and defaults or examples for the rest.

    What an example stands for is added to ``blamed``: no clash with it is to be believed.
    """
    made: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        here = (*path, name)
        inner = section_in(field.annotation)
        if name in values and here not in blamed:
            value = values[name]
            if inner is not None and isinstance(value, Mapping):
                value = _salvage(inner, value, here, blamed)
        elif not field.is_required():
            value = field.get_default(call_default_factory=True)
        else:
            blamed.add(here)
            value = (
                (field.examples or [None])[0]
                if inner is None
                else _salvage(inner, {}, here, blamed)
            )
        made[name] = value
    return section.model_construct(_fields_set=set(values) & set(made), **made)


def with_required_sections(section: type[Clashing], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``{}`` for required sections that are missing.

    The error then names the keys that they need.
    """
    filled = dict(values)
    for name, field in section.model_fields.items():
        if field.is_required() and section_in(field.annotation) is not None:
            filled.setdefault(name, {})
    return filled
