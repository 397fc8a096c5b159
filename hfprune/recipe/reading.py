"""Reading a recipe: a YAML file and ``key.path=value`` overrides -> one frozen :class:`Recipe`.

All problems of a recipe are reported in one error. Only :class:`~hfprune.core.errors.RecipeError`
is raised, whatever the file holds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from hfprune.core.errors import RecipeError
from hfprune.recipe.places import KeyPath, Origin, Problem
from hfprune.recipe.problems import problems_of, with_required_sections
from hfprune.recipe.sections.base import SectionT
from hfprune.recipe.sections.whole import Recipe
from hfprune.recipe.wording import describe_value, dotted_path, example, render, short
from hfprune.recipe.yaml_text import Dumper, NotYAML, compose, read_file, scalar


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: the file, UTF-8.
        overrides: ``"key.path=value"``, the value written as in the file; applied in order over
            the file. ``distillation=null`` switches a section off, ``distillation.temperature=3``
            makes it where it is missing or null.

    Raises:
        RecipeError: the file cannot be read or is no usable recipe. The message lists every
            problem with its line (or override) and its key.
    """
    return parse_recipe(read_file(path), source=os.fspath(path), overrides=overrides)


def parse_recipe(text: str, *, source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML text; ``source`` names it in errors. Else as :func:`load_recipe`."""
    reading = _Reading(source)
    values = reading.file(text)
    for override in [overrides] if isinstance(overrides, str) else overrides:
        reading.override(values, override)
    recipe, problems = _validated(Recipe, with_required_sections(Recipe, values))
    problems = [*reading.problems, *problems]
    if recipe is None or problems:
        raise RecipeError(render(source, problems, reading.origins))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out; :func:`parse_recipe` reads back an equal one."""
    return yaml.dump(
        recipe.model_dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100
    )


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe, for editors and for the reference."""
    schema = Recipe.model_json_schema()
    for section in [schema, *schema["$defs"].values()]:
        for key in section["properties"].values():
            key.pop("title", None)  # the key again, in capitals
    # The class is described for Python; this is for people who write YAML.
    schema["title"] = "hfprune recipe"
    schema["description"] = (Recipe.__doc__ or "").partition("\n")[0]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _Reading:
    """The values of one recipe, where each was written, and what was wrong with the writing."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.origins: dict[KeyPath, Origin] = {}
        self.problems: list[Problem] = []

    def file(self, text: str) -> dict[str, Any]:
        """The values of a whole file; raises on what is not a YAML mapping at all."""
        try:
            node = compose(text)
        except NotYAML as error:
            where = f", line {error.line}" if error.line else ""
            raise RecipeError(f"{self.source}{where}: unusable YAML: {error}") from error
        if node is None or (isinstance(node, yaml.ScalarNode) and scalar(node) is None):
            raise RecipeError(
                f"{self.source}: the recipe is empty; it needs at least {_required_keys()}"
            )
        if not isinstance(node, yaml.MappingNode):
            value = self._value(node, (), None)
            raise RecipeError(
                f"{self.source}, line {node.start_mark.line + 1}: a recipe is a mapping "
                f"(key: value), got {describe_value(value)}"
            )
        return self._mapping(node, (), None)

    def override(self, values: dict[str, Any], override: str) -> None:
        """Apply ``key.path=value`` to ``values`` in place."""
        origin = Origin(override=short(override))
        dotted, equals, text = override.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            self.problems.append(
                Problem(
                    "write key.path=value, for example training.learning_rate=1e-4",
                    shown=(),
                    keys=(),
                    origin=origin,
                )
            )
            return
        try:
            node = compose(text)
        except NotYAML as error:
            self.problems.append(Problem(f"unusable YAML: {error}", keys, (), origin))
            return
        below = values
        for depth, key in enumerate(keys[:-1], start=1):
            inner = below.get(key)
            if inner is None:
                inner = below[key] = {}
                self.origins[keys[:depth]] = origin
            if not isinstance(inner, dict):
                whole = dotted_path(keys[:depth])
                self.problems.append(
                    Problem(
                        f"{whole} holds {describe_value(inner)}, not keys: give it whole, as "
                        f"{whole}={example(inner)}",
                        keys,
                        (),
                        origin,
                    )
                )
                return
            below = inner
        for path in [path for path in self.origins if path[: len(keys)] == keys]:
            del self.origins[path]
        self.origins[keys] = origin
        below[keys[-1]] = None if node is None else self._value(node, keys, origin)

    def _value(self, node: yaml.Node, path: KeyPath, origin: Origin | None) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, origin)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.origins[*path, index] = origin or Origin(item.start_mark.line + 1)
                items.append(self._value(item, (*path, index), origin))
            return items
        return scalar(node)

    def _mapping(
        self, node: yaml.MappingNode, path: KeyPath, origin: Origin | None
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            here = origin or Origin(key_node.start_mark.line + 1)
            key = scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else ...
            if not isinstance(key, str):
                came = "a list or mapping" if key is ... else describe_value(key)
                self.problems.append(Problem(f"a key must be text, got {came}", path, (), here))
            elif key in values:
                first = self.origins[*path, key]
                self.problems.append(
                    Problem(
                        f"the key is given twice, first in {first}: remove one",
                        (*path, key),
                        (),
                        here,
                    )
                )
            else:
                self.origins[*path, key] = here
                values[key] = self._value(value_node, (*path, key), origin)
        return values


def _validated(
    section: type[SectionT], values: Mapping[str, Any]
) -> tuple[SectionT | None, list[Problem]]:
    try:
        return section.model_validate(values), []
    except ValidationError as error:
        return None, problems_of(section, values, error)


def _required_keys() -> str:
    return ", ".join(name for name, field in Recipe.model_fields.items() if field.is_required())
