"""What a reduced vocabulary does to texts that it was not made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hfprune.core.errors import DataError
from hfprune.pruning.vocabulary.reduce import Rows


@dataclass(frozen=True)
class TokenReport:
    """What a smaller vocabulary does to texts that it was not made from.

    Attributes:
        tokens_before, tokens_after: size of the vocabulary.
        unknown_before, unknown_after: share of tokens that are the unknown one, in [0, 1]; special
            tokens such as ``[CLS]`` are not counted.
        mean_length_before, mean_length_after: tokens a text, special ones included.
        changed: share of the texts that are tokenized otherwise than before, in [0, 1].
    """

    tokens_before: int
    tokens_after: int
    unknown_before: float
    unknown_after: float
    mean_length_before: float
    mean_length_after: float
    changed: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return asdict(self)


def compare_tokens(
    before: Any, after: Any, kept: Sequence[int], rows_before: Rows, rows_after: Rows
) -> TokenReport:
    """How texts look to the old and to the reduced tokenizer.

    Args:
        before, after: the tokenizers.
        kept: what :func:`kept_tokens` gave.
        rows_before, rows_after: ids of the same texts, by each of them.

    Raises:
        DataError: if there are no texts, or not as many of one as of the other.
    """
    new = {old: index for index, old in enumerate(kept)}
    first, second = list(rows_before), list(rows_after)
    if not first or len(first) != len(second):
        raise DataError(
            f"expected the same texts for both tokenizers, got {len(first)} and {len(second)}"
        )
    changed = sum(
        [new.get(token, -1) for token in old] != list(row)
        for old, row in zip(first, second, strict=True)
    )
    return TokenReport(
        tokens_before=len(before),
        tokens_after=len(after),
        unknown_before=_unknown(before, first),
        unknown_after=_unknown(after, second),
        mean_length_before=sum(map(len, first)) / len(first),
        mean_length_after=sum(map(len, second)) / len(second),
        changed=changed / len(first),
    )


def _unknown(tokenizer: Any, rows: Sequence[Sequence[int]]) -> float:
    unknown: int | None = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown}
    tokens = [token for row in rows for token in row if token not in special]
    return sum(int(token == unknown) for token in tokens) / max(1, len(tokens))
