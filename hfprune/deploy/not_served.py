"""What servers make of a model that ``hfprune predict`` does not, told where a layout is written.

Of text-embeddings-inference it was read in the source, ``router/src/http/server.rs`` (a softmax of
several logits, the sigmoid of one, unless ``raw_scores``). Of Transformers.js (a sigmoid where
``problem_type`` says so, else a softmax) and of sentence-transformers' CrossEncoder (the sigmoid of
one logit) it is what they are known to do, and was not looked up in a source.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hfprune.core.tasks import Task
from hfprune.deploy.predict.places import CONFIG, stride_in, task_of
from hfprune.models.configs import load_config
from hfprune.models.layout import layout_or_note

# Where a server makes other numbers of the logits than `hfprune predict` does.
_OTHER_NUMBERS: Final[Mapping[tuple[str, Task], str]] = {
    ("tei", "multi_label_classification"): (
        "text-embeddings-inference gives several labels a softmax, as if they excluded each other: "
        "ask /predict with raw_scores and take the sigmoid of each"
    ),
    ("tei", "regression"): (
        "text-embeddings-inference gives the sigmoid of a number: ask /predict with raw_scores"
    ),
    ("transformersjs", "multi_label_classification"): (
        "the pipeline of Transformers.js shows the likeliest label alone: call it with "
        "{ top_k: null } for all, of which those above 0.5 count"
    ),
    ("transformersjs", "regression"): (
        "the pipeline of Transformers.js gives the softmax of a single number, which is always 1: "
        "read the logits of AutoModelForSequenceClassification"
    ),
    ("sentence-transformers", "regression"): (
        "a CrossEncoder gives the sigmoid of a number: call predict with "
        "activation_fn=torch.nn.Identity()"
    ),
}


def not_served(folder: str | Path, layout: str) -> str | None:
    """What to tell of what the server of a layout does not do as ``hfprune predict`` does it.

    Args:
        folder: of a finished run.
        layout: that was written of it.

    Raises:
        CheckpointError: a file of the folder cannot be read.
    """
    place, told = Path(folder), list[str]()
    if layout != "plain" and stride_in(place) is not None:
        told.append(
            f"long texts are read in windows here (data.stride), which {layout} does not: it "
            "answers by the first one alone"
        )
    if (place / CONFIG).is_file() and layout_or_note(place)[0] is None:
        task = task_of(place, load_config(place))
        told.extend(_OTHER_NUMBERS[key] for key in [(layout, task)] if key in _OTHER_NUMBERS)
    return "; ".join(told) or None
