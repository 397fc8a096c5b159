"""``python -m hfprune``: the same as the ``hfprune`` command."""

from __future__ import annotations

from hfprune.cli import main

if __name__ == "__main__":
    main()
