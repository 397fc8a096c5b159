"""Show what a model is made of: layers, heads, neurons, parameters, what was and can be pruned.

python scripts/inspect_model.py runs/movie-reviews-minilm
python scripts/inspect_model.py google-bert/bert-base-uncased --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a folder of save_pretrained, or a name on the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--sequence-length", type=int, metavar="N", help="tokens of the input whose work is counted"
    )
    options = parser.parse_args(arguments)
    # Late: --help answers at once.
    from rich.console import Console

    from hfprune.errors import HFPruneError
    from hfprune.inspection import inspect, tables

    try:
        found = inspect(options.model, sequence_length=options.sequence_length)
    except HFPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was changed", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        console = Console(highlight=False)
        for table in tables(found):
            console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
