"""What inputs a model takes: vocabulary, positions, image sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hfprune.core.errors import ExportError
from hfprune.families import block_views, position_limit

# Parity is checked up to this length even where the model takes more: the cost of attention grows
# with the square of the length, and a graph that is right at 512 does not go wrong later.
LONGEST_CHECK = 512


@dataclass(frozen=True)
class InputLimits:
    """What random inputs of a model may hold."""

    ids: NDArray[np.int64]  # token ids to draw from
    pad_id: int
    types: int  # token types
    length: int  # longest sequence, in tokens
    pad_left: bool = False


def attends(model: nn.Module) -> bool:
    """Whether any attention block is left; without one, no token sees another or any padding."""
    return any(key.kind == "attention" for key in block_views(model))


def limits_of(model: Any, tokenizer_or_vocab_size: Any) -> InputLimits:
    config = model.config
    embedding = model.get_input_embeddings()
    pad_id = getattr(config, "pad_token_id", None)
    special: set[int] = set()
    longest = LONGEST_CHECK
    left = False
    if isinstance(tokenizer_or_vocab_size, int):
        size = tokenizer_or_vocab_size
    else:
        tokenizer = tokenizer_or_vocab_size
        size = len(tokenizer)
        special = set(tokenizer.all_special_ids)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else pad_id
        longest = min(longest, tokenizer.model_max_length)
        left = tokenizer.padding_side == "left"
    size = min(size, embedding.num_embeddings)
    longest = min(longest, position_limit(model) or longest)
    longest = min(longest, getattr(config, "max_position_embeddings", None) or longest)
    return _limits(size, 0 if pad_id is None else pad_id, special, config, longest, left)


def _limits(
    size: int, pad_id: int, special: set[int], config: Any, longest: int, left: bool
) -> InputLimits:
    ids = [i for i in range(size) if i not in special and i != pad_id]
    if not ids:
        raise ExportError(f"no token id below {size} is left to check the graph with")
    return InputLimits(
        ids=np.asarray(ids, dtype=np.int64),
        pad_id=pad_id,
        types=max(1, getattr(config, "type_vocab_size", None) or 1),
        length=max(1, longest),
        pad_left=left,
    )


def limits_beside(source: Path, *, pad_left: bool = False) -> InputLimits:
    """Of a graph, from the config beside it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.parent, trust_remote_code=False)
    # Positions before the first are taken off generously: 128 tokens tell enough here.
    longest = min(128, (getattr(config, "max_position_embeddings", None) or 128) - 8)
    return _limits(config.vocab_size, config.pad_token_id or 0, set(), config, longest, pad_left)
