"""Problems of a recipe in words: what came, what was expected, what to write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final, get_origin

from hfprune.recipe.places import (
    Clashing,
    KeyPath,
    Origin,
    Place,
    Problem,
    all_keys,
    branches_of,
    choices_of,
    item_type,
    section_in,
)
from hfprune.recipe.yaml_text import PLAIN_SCALARS

MOST_SHOWN: Final = 50


def render(source: str, problems: Sequence[Problem], origins: Mapping[KeyPath, Origin]) -> str:
    placed = []
    for problem in problems:
        found = [problem.origin] if problem.origin else _origins_of(problem.keys, origins)
        where = _where(found)
        shown = f"{dotted_path(problem.shown)}: " if problem.shown else ""
        order = (bool(found and found[-1].override), found[0].line if found else 0)
        placed.append((order, where, problem.text and f"{shown}{problem.text}"))
    shown_of = [item for item in placed if item[2]][:MOST_SHOWN]
    shown_of.sort(key=lambda item: item[0])
    if len(placed) == 1:
        _, where, text = placed[0]
        return _printable(f"{source}, {where}: {text}" if where else f"{source}: {text}")
    lines = [f"{source}: {len(placed)} problems"]
    lines += [f"  {where}: {text}" if where else f"  {text}" for _, where, text in shown_of]
    if more := len(placed) - len(shown_of):
        lines.append(f"  and {more} more")
    return "\n".join(_printable(line) for line in lines)


def _printable(line: str) -> str:
    """Control characters and half surrogates (any text can be a key) as escapes; no token."""
    line = re.sub(r"hf_[A-Za-z0-9]{20,}", "hf_***", line)
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in line
    )


def _origins_of(keys: Sequence[KeyPath], origins: Mapping[KeyPath, Origin]) -> list[Origin]:
    """Where the keys were written, lines first; of keys not written, the nearest section above."""
    found = {origins[key] for key in keys if key in origins}
    for key in keys if not found else ():
        above = [origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in origins]
        if above:
            found.add(above[0])
    return sorted(found, key=lambda origin: (origin.override, origin.line))


def _where(found: Sequence[Origin]) -> str:
    lines = [str(origin.line) for origin in found if not origin.override]
    overrides = [str(origin) for origin in found if origin.override]
    numbers = [f"line{'s' if len(lines) > 1 else ''} {' and '.join(lines)}"] if lines else []
    return " and ".join(numbers + overrides)


def describe(place: Place, kind: str, value: object, context: Mapping[str, Any]) -> str:
    """One pydantic error in our words: what was expected, what came, what to write."""
    if kind == "missing":
        examples = place.field.examples if place.field else None
        meaning = place.field.description if place.field else None
        return (
            f"the key is missing: {_clause(meaning or '')}, for example "
            f"`{place.path[-1]}: {(examples or ['...'])[0]}`"
        )
    if kind in ("extra_forbidden", "invalid_key"):
        if re.search(r"(?:^|_)(?:token|password|secret|api_key)$", str(place.path[-1])):
            return (
                "unknown key. Recipes are published with the models, so they hold no secrets: run "
                "`hf auth login`, or set the variable HF_TOKEN, and remove the key"
            )
        return f"unknown key, with {describe_value(value)}. {_nearest_key(place)}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    if kind == "finite_number":
        return f"must be a finite number, got {describe_value(value)}"
    if kind == "string_unicode":
        return "must be text that UTF-8 can write; it holds half of a surrogate pair"
    if bounds := _bounds(place, context):
        return f"must be {bounds}, got {describe_value(value)}{_percent_hint(value, bounds)}"
    return (
        f"expected {_human(place.annotation)}, got {describe_value(value)}"
        f"{_type_hint(place.annotation, value)}"
    )


# Upper bounds from here on are against slips of the keyboard.
ABSURD: Final = 100


def _bounds(place: Place, context: Mapping[str, Any]) -> str:
    """Both bounds of the value in words, if it broke one of them."""
    words = {
        "ge": "at least {}",
        "gt": "greater than {}",
        "le": "at most {}",
        "lt": "less than {}",
    }
    if not set(words) & set(context):
        return ""
    limits = dict(context)
    if place.field is not None and place.path == place.key:
        for limit in place.field.metadata:
            limits |= {name: getattr(limit, name) for name in words if hasattr(limit, name)}
    if not {"le", "lt"} & set(context):  # one against slips is not worth a word to others
        limits = {k: v for k, v in limits.items() if k not in ("le", "lt") or v < ABSURD}
    return " and ".join(
        text.format(_bound(limits[name])) for name, text in words.items() if name in limits
    )


def _bound(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _percent_hint(value: object, bounds: str) -> str:
    if (
        isinstance(value, int | float)
        and 1 < value <= 100
        and bounds.endswith(("than 1", "most 1"))
    ):
        return f"; it is a fraction: {value:g} percent is {value / 100:g}"
    return ""


def _type_hint(annotation: Any, value: object) -> str:
    branches = branches_of(annotation)
    if isinstance(value, str):
        if bool in branches and value.lower() in ("yes", "on", "y", "no", "off", "n"):
            return f": write {yaml_word(value.lower() in ('yes', 'on', 'y'))}"
        number = value.replace("_", "")
        if int in branches and re.fullmatch(r"[-+]?[0-9]{1,20}", number):
            return f": write {number}, without quotes"
        if float in branches and re.fullmatch(PLAIN_SCALARS[3][1], number):
            return f": write {number}, without quotes"
        literals = [choice for branch in branches for choice in choices_of(branch)]
        if near := _near(value, literals):
            return f". Did you mean {near}?"
    elif str in branches and isinstance(value, int | float):
        return f': write "{yaml_word(value)}", in quotes'
    elif isinstance(value, float) and value.is_integer() and int in branches:
        return f": write {value:.0f}"
    if any(get_origin(branch) is list for branch in branches) and isinstance(
        value, str | int | float
    ):
        return f": write [{yaml_word(value)}]"
    if section_in(annotation) is not None and value is None:
        return ": remove the key, or indent what belongs to it below it"
    return ""


def _human(annotation: Any, many: bool = False) -> str:
    names: dict[Any, tuple[str, str]] = {
        str: ("text", "text"),
        bool: ("true or false", "true or false"),
        int: ("a whole number", "whole numbers"),
        float: ("a number", "numbers"),
        NoneType: ("null", "null"),
    }
    words = []
    for branch in branches_of(annotation):
        if get_origin(branch) is list:
            words.append(f"a list of {_human(item_type(branch), many=True)}")
        elif choices := choices_of(branch):
            words.append(f"one of {', '.join(choices)}")
        elif section_in(branch) is not None:
            words.append("a section (key: value)")
        else:
            words.append(names[branch][many] if branch in names else str(branch))
    return " or ".join(words)


def describe_value(value: object) -> str:
    """A value from a recipe in words, short enough for an error."""
    if isinstance(value, str):
        return f"{short(value)!r} (text)"
    if value is None or isinstance(value, bool):
        return yaml_word(value)
    if isinstance(value, int):
        return f"{yaml_word(value)} (a whole number)"
    if isinstance(value, float):
        return f"{yaml_word(value)} (a number)"
    if isinstance(value, list):
        return f"the list {short(example(value))}"
    if isinstance(value, dict):
        return f"the keys {short(', '.join(map(str, value)))}" if value else "an empty mapping"
    return f"a value of type {type(value).__name__}"


def yaml_word(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    return short(str(value))


def example(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(yaml_word(item) for item in value[:8])}]"
    return yaml_word(value)


def short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _clause(description: str) -> str:
    """The first sentence of a description, to go on within another sentence."""
    first = re.split(r"\.(?:\s|$)| \(", description)[0]
    return first[:1].lower() + first[1:]


def dotted_path(path: KeyPath) -> str:
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            # Any text can be a key: quote what would not be seen as one.
            plain = re.fullmatch(r"[\w-]{1,80}", part)
            parts.append(f"{'.' if parts else ''}{part if plain else repr(short(part))}")
    return "".join(parts)


def _nearest_key(place: Place) -> str:
    key = str(place.path[-1])
    elsewhere = [
        dotted_path(path) for path in all_keys(Clashing.root or place.section) if path[-1] == key
    ]
    belongs = f"It belongs to {' or '.join(elsewhere)}."
    near = _near(key, tuple(place.section.model_fields))
    if elsewhere and near:
        return f"Did you mean {near}? {belongs}"
    return belongs if elsewhere else suggest(key, tuple(place.section.model_fields), "Allowed:")


def _near(word: str, allowed: Sequence[str]) -> str:
    """The allowed words that look like ``word``, quoted; empty where there is none."""
    word = word.lower()
    near = difflib.get_close_matches(word, allowed, n=1)
    if not near and len(word) >= 4:
        near = [choice for choice in allowed if word in choice][:3]
    return " or ".join(repr(choice) for choice in near)


def suggest(word: str, allowed: Sequence[str], otherwise: str) -> str:
    if near := _near(word, allowed):
        return f"Did you mean {near}?"
    return f"{otherwise} {', '.join(allowed)}."
