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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog=(__doc__ or "").split("\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    options = parse(arguments)
    # Late: --help answers at once.
    from hfprune.core.errors import HFPruneError
    from hfprune.early.checks import check_early
    from hfprune.recipe.reading import dump_recipe, load_recipe
    from hfprune.recipe.workplan import describe

    try:
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
    except HFPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run again with resume=true to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
