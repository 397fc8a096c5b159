"""What a person does first with a finished run."""

from __future__ import annotations

import shlex
from pathlib import Path

from hfprune.core.results import RunResults

# A text that a model of the task could be asked about.
_EXAMPLES = {
    "image_classification": "photo.jpg",
    "token_classification": "Ada Lovelace was born in London.",
}


def predict_line(folder: str | Path, results: RunResults) -> str:
    """The command that asks a run's model about a text.

    >>> predict_line("runs/a b", results)  # doctest: +SKIP
    "try it: hfprune predict 'runs/a b' 'a text of your own'"

    Args:
        folder: the run's output; of a family the last member, the fastest, is asked.
    """
    place = Path(folder)
    if results.family is not None:
        place = place / list(results.family)[-1]
    text = _EXAMPLES.get(results.task, "a text of your own")
    return f"try it: hfprune predict {shlex.quote(str(place))} {shlex.quote(text)}"
