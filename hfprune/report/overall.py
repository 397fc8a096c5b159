"""How far a whole run is, from the seconds of its stages so far: a pure estimator.

Before a run each stage has an expected time, which may be wrong by a factor that is the same for
all stages of a machine. Finished stages tell that factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# What stages took less than this together tells nothing of the machine.
TELLING = 5.0
# What a stage takes whatever is in it: loading, writing. Of tiny models that is all, and the pace
# of what was expected to be done at once would make hours of the rest.
LEAST = 2.0


@dataclass
class Overall:
    """The stages of a run and how long they took.

    Attributes:
        planned: stages in order with the seconds that are expected of each. An entry also stands
            for the stages whose names begin with it and a blank: ``trial`` for ``trial fewer``.
        spent: seconds of stages that were done here, by the place of their entry.
        at: place of the current stage's entry; -1 before the first.
    """

    planned: Sequence[tuple[str, float]]
    spent: dict[int, float] = field(default_factory=dict)
    at: int = -1

    def begin(self, name: str) -> int | None:
        """A stage begins; those before it are over, done here or by an earlier run.

        Returns:
            Its number from 1; ``None`` for one that is not planned.
        """
        found = self._place(name)
        if found is None:
            return None
        self.at = max(self.at, found)
        return found + 1

    def end(self, name: str, seconds: float) -> None:
        """A stage was done here, and took so long."""
        found = self._place(name)
        if found is not None:
            self.spent[found] = self.spent.get(found, 0.0) + seconds

    @property
    def pace(self) -> float | None:
        """Seconds taken for each that was expected; ``None`` where nothing tells yet."""
        over = [place for place in self.spent if place < self.at]
        taken = sum(self.spent[place] for place in over)
        expected = sum(self._expected(place) for place in over)
        return taken / expected if taken >= TELLING and expected > 0 else None

    def left(self, elapsed: float, of_stage: float | None) -> float | None:
        """Seconds until the run is done; ``None`` where nothing tells yet.

        Args:
            elapsed: of the current stage.
            of_stage: what is left of it by its own pace, if that is known.
        """
        pace = self.pace
        if pace is None or self.at < 0:
            return None
        expected = [self._expected(place) for place in range(len(self.planned))]
        here = of_stage
        if here is None:
            taken = elapsed + self.spent.get(self.at, 0.0)
            here = max(0.0, pace * expected[self.at] - taken)
        return here + pace * sum(expected[self.at + 1 :])

    def _expected(self, place: int) -> float:
        return max(LEAST, self.planned[place][1])

    def _place(self, name: str) -> int | None:
        named = [entry for entry, _ in self.planned]
        if name in named:
            return named.index(name)
        begins = [entry for entry in named if name.startswith(f"{entry} ")]
        return named.index(max(begins, key=len)) if begins else None


def about(seconds: float) -> str:
    """A time left, as rough as it is known.

    >>> about(40), about(125), about(3000), about(9000)
    ('about a minute', 'about 2 minutes', 'about 50 minutes', 'about 2.5 hours')
    """
    if seconds < 90:
        return "about a minute"
    minutes = seconds / 60
    if minutes >= 90:
        return f"about {minutes / 60:.1f} hours"
    whole = round(minutes) if minutes < 15 else 5 * round(minutes / 5)
    return f"about {whole} minutes"
