#!/usr/bin/env python
"""Prune, shrink, export and measure a model as a recipe says.

python scripts/prune.py --recipe recipes/movie-reviews-minilm.yaml
accelerate launch scripts/prune.py --recipe recipes/bert-base-sst2.yaml pruning.sparsity=0.9
python -m torch.distributed.run --nproc_per_node 2 scripts/prune.py --recipe FILE
python scripts/prune.py --recipe recipes/bert-base-mnli.yaml --dry-run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from scripting import carry_out, parser_of


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", "--config", required=True, metavar="FILE", help="YAML recipe")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved recipe and the plan of work, and stop",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only errors and results")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="replaces a value of the recipe"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    return carry_out(prune, parse(arguments), again="run again with resume=true")


def prune(options: argparse.Namespace) -> int:
    # Late: --help answers at once.
    from hfprune.early.checks import check_early
    from hfprune.recipe.reading import dump_recipe, load_recipe
    from hfprune.recipe.workplan import describe

    recipe = load_recipe(options.recipe, options.overrides)
    notes = check_early(recipe)
    if options.dry_run:
        print(dump_recipe(recipe))
        print("\n".join(f"{i}. {line}" for i, line in enumerate(describe(recipe), 1)))
        print("".join(f"note: {note}\n" for note in notes), end="", file=sys.stderr)
        return 0
    from hfprune.core.processes import leave_processes
    from hfprune.pipeline import run
    from hfprune.report.console import Console

    try:
        run(recipe, Console(quiet=options.quiet))
    finally:
        leave_processes()
    return 0


if __name__ == "__main__":
    sys.exit(main())
