"""Small models that are timed instead of large ones: which sizes, and without a vocabulary.

What a block costs does not depend on how many tokens a vocabulary has: embeddings are looked up
once, before the first block, and a batch touches as many of their rows either way.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from hfprune.families import block_views

# Layers of a probe; a block's time is what they add, divided by their number.
PROBE_LAYERS = 4
# Up to so many heads each number of them is timed, beyond that every second one.
MANY_HEADS = 8
NEURON_RATIO = 2 / 3
LEAST_NEURONS = 8
# Token ids of a probe, and the longest row that its export is checked with.
PROBE_IDS, PROBE_LENGTH = 1024, 32

_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def head_counts(heads: int) -> list[int]:
    """Numbers of heads that are timed.

    >>> head_counts(4), head_counts(12)
    ([1, 2, 3, 4], [1, 2, 4, 6, 8, 10, 12])
    """
    return [n for n in range(1, heads + 1) if heads <= MANY_HEADS or n % 2 == 0 or n in (1, heads)]


def neuron_counts(neurons: int) -> list[int]:
    """Numbers of neurons that are timed, each two thirds of the next.

    >>> neuron_counts(48)
    [9, 14, 21, 32, 48]
    """
    counts = {neurons}
    value = float(neurons)
    while value >= LEAST_NEURONS:
        counts.add(round(value))
        value *= NEURON_RATIO
    return sorted(counts)


def few(counts: list[int]) -> list[int]:
    """The least, one in the middle and the most: of blocks whose time hardly grows.

    >>> few([1, 2, 4, 6, 8, 10, 12])
    [1, 6, 12]
    """
    return sorted({counts[0], counts[len(counts) // 2], counts[-1]})


def probe_config(make_model: Any, config: Any) -> Any:
    """The configuration of probes: a few layers, a small vocabulary, the blocks as they are.

    Where layers share their weights all stay: a block is then measured with all its uses.
    """
    found = copy.deepcopy(config)
    with torch.device("meta"):
        views = block_views(make_model(config)).values()
    if all(view.uses == 1 for view in views):
        found.num_hidden_layers = min(PROBE_LAYERS, config.num_hidden_layers)
    return without_vocabulary(found)


def without_vocabulary(config: Any) -> Any:
    """A copy whose vocabulary has at most :data:`PROBE_IDS` tokens; images have none."""
    found = copy.deepcopy(config)
    size = getattr(found, "vocab_size", None)
    if size is None or size <= PROBE_IDS:
        return found
    found.vocab_size = PROBE_IDS
    for name in _IDS:
        value = getattr(found, name, None)
        if isinstance(value, int) and value >= PROBE_IDS:
            setattr(found, name, 0)
    return found


class ProbeTokenizer:
    """What an export asks of a tokenizer, for a model that reads random ids; writes nothing."""

    all_special_ids: tuple[int, ...] = ()
    padding_side: str

    def __init__(self, config: Any, tokenizer: Any) -> None:
        pad = getattr(config, "pad_token_id", None)
        self.pad_token_id = 0 if pad is None else int(pad)
        self.padding_side = getattr(tokenizer, "padding_side", "right")
        self.model_max_length = PROBE_LENGTH
        self._size = int(config.vocab_size)

    def __len__(self) -> int:
        return self._size

    def save_pretrained(self, folder: str | Path) -> None:
        """Nothing: nobody reads with a probe."""


def probe_reader(config: Any, reader: Any) -> Any:
    """What a probe is exported with: a stand-in for a tokenizer; of images their processor."""
    return reader if getattr(config, "vocab_size", None) is None else ProbeTokenizer(config, reader)
