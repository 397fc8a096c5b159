"""Write recipes/recipe.schema.json from the recipe's definition; --check: only compare."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "recipes" / "recipe.schema.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if the file is stale")
    check = parser.parse_args(arguments).check

    sys.path.insert(0, str(ROOT))  # the checkout that this script is in, installed or not
    from hfprune.files import atomic_write_text
    from hfprune.recipe import recipe_schema

    text = json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
    shown = SCHEMA.relative_to(ROOT)
    if check:
        if SCHEMA.is_file() and SCHEMA.read_text(encoding="utf-8") == text:
            return 0
        print(f"{shown} is not what the recipe's definition says: run {sys.argv[0]}")
        return 1
    atomic_write_text(SCHEMA, text)
    print(f"wrote {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
