"""Run every family with every task and method on tiny models, and write docs/matrix.md.

    python scripts/make_matrix.py [--keep FILE]

Takes some minutes. With --keep, results are kept in a JSON file and cases in it are not run again.
Exit status 1 if a case fails with an error that tests/matrix.py does not state.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep results here and reuse them"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs/matrix.md", metavar="FILE")
    options = parser.parse_args(arguments)

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from matrix import STATED, cases, check, table

    from hfprune.core.files import atomic_write_json, atomic_write_text

    kept: dict[str, dict[str, str]] = {}
    if options.keep is not None and options.keep.is_file():
        kept = json.loads(options.keep.read_text(encoding="utf-8"))
    results, bad = {}, 0
    for family, task in cases():
        name = f"{family} {task}"
        found = kept.get(name) or check(family, task)
        results[family, task] = kept[name] = found
        if options.keep is not None:
            atomic_write_json(options.keep, kept)
        for step, said in found.items():
            stated = STATED.get((family, task, step))
            if said != "yes" if stated is None else stated not in said:
                bad += 1
                print(f"{name}, {step}: {said}", file=sys.stderr)
        print(name, *(step for step, said in found.items() if said == "yes"))
    atomic_write_text(options.output, table(results))
    print(f"wrote {options.output.name}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
