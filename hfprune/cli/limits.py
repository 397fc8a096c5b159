"""The largest numbers that commands take, the same as a recipe's.

Not imported from there, so that ``--help`` stays quick.
"""

from __future__ import annotations

from typing import Final

MOST_BATCH: Final = 2**20
MOST_TOKENS: Final = 2**20
MOST_THREADS: Final = 4096
MOST_ROUNDS: Final = 10**6
