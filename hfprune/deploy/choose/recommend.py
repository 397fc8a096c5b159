"""Which of the files that were written to take, for each use: the fastest that may be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hfprune.core.errors import HFPruneError


@dataclass(frozen=True)
class Written:
    """A file that lies in the output, and what was measured of it at the end.

    Attributes:
        name: of the candidate that it came from.
        path: relative to the output.
        ms: by use, milliseconds a text; of all files in the same rounds.
        eligible: whether it may be deployed.
    """

    name: str
    path: str
    ms: Mapping[str, float]
    eligible: bool = True


def recommend(written: Sequence[Written], use: str) -> Written:
    """The fastest eligible file: no other that may be taken was faster in the same rounds.

    Of equals the first is taken.

    Raises:
        HFPruneError: if none may be taken, or one was not timed for this use.
    """
    able = [file for file in written if file.eligible]
    untimed = [file.name for file in able if use not in file.ms]
    if not able or untimed:
        raise HFPruneError(
            f"cannot recommend a file for {use!r}: "
            + (f"{untimed[0]} was not timed for it" if untimed else "none may be deployed")
        )
    return min(able, key=lambda file: file.ms[use])


def stray(
    written: Sequence[Written], chosen: Mapping[str, Written], keep: Sequence[str] = ()
) -> list[Written]:
    """The files that no use needs and nobody asked to keep: to be removed.

    Args:
        written: all files.
        chosen: by use, the recommended.
        keep: paths to leave in any case.
    """
    needed = {file.path for file in chosen.values()} | set(keep)
    return [file for file in written if file.path not in needed]
