"""Write recipes/recipe.schema.json and docs/recipe.md from the recipe's definition.

With --check: only compare, and exit 1 if one of them is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "recipes" / "recipe.schema.json"
REFERENCE = ROOT / "docs" / "recipe.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a file is stale")
    check = parser.parse_args(arguments).check

    sys.path.insert(0, str(ROOT))  # the checkout that this script is in, installed or not
    from hfprune.recipe.reading import recipe_schema
    from scripts.generated import keep

    schema = recipe_schema()
    texts = {
        SCHEMA: json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        REFERENCE: "\n".join(reference(schema)) + "\n",
    }
    remark = f"is not what the recipe's definition says: run {sys.argv[0]}"
    return keep(texts, check=check, remark=remark)


def reference(schema: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the Markdown reference."""
    yield "# Recipe reference"
    yield ""
    yield "Generated from the recipe's definition by `scripts/make_schema.py`."
    top = {}
    for name, field in schema["properties"].items():
        section = _section(schema, field)
        if section is None:
            top[name] = field
        else:
            yield from _table(f"`{name}`", field.get("description", ""), section, schema, name)
    yield from _table("Top level", "", {"properties": top, "required": schema["required"]}, schema)


def _section(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for branch in (field, *field.get("allOf", ()), *field.get("anyOf", ())):
        if "$ref" in branch:
            found: Mapping[str, Any] = schema["$defs"][branch["$ref"].rsplit("/", 1)[1]]
            return found if "properties" in found else None
    return None


def _table(
    title: str,
    description: str,
    section: Mapping[str, Any],
    schema: Mapping[str, Any],
    path: str = "",
) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    if description:
        yield from (description, "")
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    nested = []
    for name, field in section["properties"].items():
        below = _section(schema, field)
        if below is not None:
            nested.append((name, field, below))
        needed = name in section.get("required", ())
        default = "required" if needed else f"`{json.dumps(field.get('default'))}`"
        if below is not None and not needed and field.get("default") is None:
            default = "see below"
        cells = (f"`{name}`", _type(field), default, field.get("description", ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    for name, field, below in nested:
        dotted = f"{path}.{name}" if path else name
        yield from _table(f"`{dotted}`", field.get("description", ""), below, schema, dotted)


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field or "allOf" in field:
        return "section"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(branch) for branch in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    bounds = {
        "minimum": "from {}",
        "exclusiveMinimum": "above {}",
        "maximum": "to {}",
        "exclusiveMaximum": "below {}",
    }
    limits = [text.format(field[key]) for key, text in bounds.items() if key in field]
    return " ".join([kind, *limits])


if __name__ == "__main__":
    sys.exit(main())
