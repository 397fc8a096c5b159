"""The address of a block, attention or feed-forward, in a model."""

from __future__ import annotations

from typing import Literal, NamedTuple

BlockKind = Literal["attention", "ffn"]
KINDS: tuple[BlockKind, BlockKind] = ("attention", "ffn")
UNIT_NAMES: dict[BlockKind, str] = {"attention": "heads", "ffn": "neurons"}


class BlockKey(NamedTuple):
    """The address of a block: layer index from 0, and kind."""

    layer: int
    kind: BlockKind

    def __str__(self) -> str:
        return f"layer {self.layer} {self.kind}"
