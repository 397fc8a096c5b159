#!/usr/bin/env python
"""Upload a finished run to the Hub.

python scripts/push.py runs/movie-reviews-minilm --repo-id user/movie-reviews-minilm
python scripts/push.py runs/movie-reviews-minilm --repo-id user/name --private --revision v2

The access token is that of `hf auth login`, or of the variable HF_TOKEN. The address of the commit
is written to the standard output.
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
    parser.add_argument("output_dir", metavar="DIR", help="output_dir of a finished run")
    parser.add_argument(
        "--repo-id", required=True, metavar="USER/NAME", help="repository, made if it is not there"
    )
    parser.add_argument(
        "--private", action="store_true", help="upload to a private repository only"
    )
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch, made if it is not there (default: main)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # Late: --help answers at once.
    from hfprune.errors import HFPruneError
    from hfprune.hub import push

    try:
        url = push(
            options.output_dir,
            options.repo_id,
            private=options.private,
            revision=options.revision,
            note=lambda text: print(text, file=sys.stderr),
        )
    except HFPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing here was changed, run the same command again", file=sys.stderr)
        return 130
    print(url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
