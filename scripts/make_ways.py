"""Go through every target and method as a recipe, with the Trainer and in one call; docs/ways.md.

    python scripts/make_ways.py

Takes some minutes. Exit status 1 if a way does not give the recipe's plan and weights.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs/ways.md", metavar="FILE")
    options = parser.parse_args(arguments)

    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from ways import CASES, WAYS, made, prepare, table

    from hfprune.core.files import atomic_write_text

    results, bad = {}, 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        prepare(place)
        for number, case in enumerate(CASES):
            found = {}
            for way in WAYS:
                folder = place / f"{number}-{way}"
                folder.mkdir()
                found[way] = made(way, case, place, folder)
            results[case] = {way: found[way] == found["recipe"] for way in WAYS}
            bad += not all(results[case].values())
            print(*case, results[case], file=sys.stderr)
    atomic_write_text(options.output, table(results))
    print(f"wrote {options.output.name}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
