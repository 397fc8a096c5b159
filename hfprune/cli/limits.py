"""The largest numbers that commands take, and what they take unasked: as the code behind them.

Not imported from there, so that ``--help`` stays quick.
"""

from __future__ import annotations

from typing import Final

MOST_BATCH: Final = 2**20
MOST_TOKENS: Final = 2**20
MOST_THREADS: Final = 4096
MOST_ROUNDS: Final = 10**6
CASCADE_DROP: Final = 0.002
