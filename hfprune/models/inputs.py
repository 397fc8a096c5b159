"""What of a tokenizer's output a model reads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hfprune.core.kinds import TEXT_INPUTS


def taken(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a model of texts in a batch; token types only where its forward names them.

    Whether a tokenizer gives types is said by its own files, whatever model they lie beside.

    Args:
        batch: as the tokenizer pads it.
    """
    known = inspect.signature(model.forward).parameters
    types = "token_type_ids"
    names = [name for name in TEXT_INPUTS if name != types or types in known]
    return {name: batch[name] for name in names if name in batch}
