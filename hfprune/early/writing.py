"""A proposal as a recipe's YAML, every key with its comment, as in the shipped recipes."""

from __future__ import annotations

from typing import Any

import yaml

from hfprune.early.proposal import Proposal
from hfprune.recipe.yaml_text import Dumper

SCHEMA_LINE = "# yaml-language-server: $schema=recipe.schema.json"


def recipe_text(proposal: Proposal) -> str:
    """The recipe as it is written."""
    lines = [
        SCHEMA_LINE,
        "# Editors complete and check with that file: hfprune recipe schema > recipe.schema.json",
        "# Proposed from the rows and the model: change what you like. All keys are in the docs.",
        "# Relative paths are relative to the working directory.",
        "",
    ]
    for section, keys in proposal.sections.items():
        inside = section not in ("", "end")
        if inside:
            lines.append(f"{section}:")
        for key in keys:
            indent = "  " if inside else ""
            comment = f"  # {key.comment}" if key.comment else ""
            lines.append(f"{indent}{key.name}: {_value(key.value)}{comment}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits}e{int(power)}"  # as in the shipped recipes: 5.0e-5
    text = yaml.dump(
        value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("\n...\n").rstrip("\n")
